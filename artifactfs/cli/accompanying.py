"""``run``: a mount for one command, without privilege and without anything to clean up.

    artifactfs run ── enters a namespace of its own ─┬─ forks the driver, which mounts inside it
                                                     └─ starts the command (``supervision``)

The command ends first. Then uploads get their time while the mount still answers, the driver is
told to end, and the directory goes if it was made for this (``borrowing``). If the driver died
before, another takes up what it left. Whatever is killed, and in whatever order: the mount ends
with the last process in the namespace, what was closed in ``drop/`` lies in the spool, and the next
mount uploads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from artifactfs import assembly
from artifactfs.cli import words
from artifactfs.cli.attending import (
    say_what_is_left,
    say_where_it_stays,
    wait_for_uploads,
)
from artifactfs.cli.borrowing import borrowed
from artifactfs.cli.daemon import run_detached
from artifactfs.cli.failures import (
    NOT_ALL_UPLOADED,
    line_of,
    say,
)
from artifactfs.cli.logs import log_path, log_to_file
from artifactfs.cli.running import Running
from artifactfs.cli.supervision import (
    NOT_EXECUTABLE,
    NOT_FOUND,
    Signals,
    accompany,
    end_alike,
    end_with_parent,
)
from artifactfs.config import Config
from artifactfs.errors import ArtifactfsError, MountError

LEAVE_S: Final = 30.0
DYING_S: Final = 5.0


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND…")
@click.option(
    "--at",
    "place",
    type=click.Path(path_type=Path, readable=False),
    default=Path("artifacts"),
    show_default=True,
    metavar="PATH",
    help="Where the command sees the mount; made, and removed again, if it is not there.",
)
@click.option("--timeout", type=float, metavar="S", help="How long to wait for uploads at the end.")
@words.service_options()
@words.cache_options()
@click.option("--fuse", metavar="BINDING", help="native, fusepy or auto (default).")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@words.set_option()
def run(
    command: tuple[str, ...],
    place: Path,
    timeout: float | None,
    options: tuple[str, ...],
    **flags: Any,
) -> int:
    """Run a command with a mount that only it sees, and that ends with it.

    Needs no privilege: the mount lies in a namespace of the command's own. When the command ends,
    what it left in drop/ is uploaded, and then the mount is gone. The exit status is the command's;
    if that is 0 and not everything is uploaded, it is 3. What is not uploaded is named, stays in
    the spool and resumes with the next mount.

    \b
    Examples:
      artifactfs run -- python train.py artifacts/artifacts/data.parquet
      artifactfs run -- sh -c 'cp artifacts/artifacts/x artifacts/drop/y'
      artifactfs run --at /tmp/a --timeout 60 -- make -j8
    """
    config = words.config_of(options, **flags)
    location = Path(os.path.realpath(place))
    timeout_s = config.unmount.timeout_s if timeout is None else timeout
    assembly.enter_own_namespace()
    signals = Signals()
    with borrowed(location):
        driver = _start_driver(config, location, signals)
        with signals:
            status, answers = _accompanied(command, signals, driver, place)
            try:
                if answers:
                    try:
                        left = _uploaded(Running(location), timeout_s, signals)
                    except MountError:  # it was killed, and had not quite ended with the command
                        answers = not _ends(driver, place)
                        if answers:
                            raise
                if not answers:  # another one takes up what was closed in drop/
                    _take_away(location)
                    driver = _start_driver(config, location, signals)
                    left = _uploaded(Running(location), timeout_s, signals)
            except ArtifactfsError as error:
                say(line_of(error))
                say("what was closed in drop/ and is not uploaded resumes with the next mount")
                left = True
            _end(driver)
            _take_away(location)
    if left and status == 0:
        return NOT_ALL_UPLOADED
    return end_alike(status)


def _start_driver(config: Config, location: Path, signals: Signals) -> int:
    """The driver's process, once the mount answers. It waits for no upload: that is done here."""
    parent = os.getpid()
    path = log_path(config, location)
    impatient = dataclasses.replace(
        config, unmount=dataclasses.replace(config.unmount, timeout_s=0.0)
    )

    def serve(ready: Callable[[], None]) -> None:
        signals.release()
        end_with_parent(parent)
        log_to_file(config, path)
        assembly.Mount(impatient, location).run(ready)

    return run_detached(serve)


def _accompanied(
    command: tuple[str, ...], signals: Signals, driver: int, place: Path
) -> tuple[int, bool]:
    """Run the command; its exit status, and whether the driver is there still."""
    ended = False

    def driver_ended(status: int) -> None:
        nonlocal ended
        ended = True
        _say_how(status, place)

    try:
        status = accompany(command, signals, driver, driver_ended)
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    return status, not ended


def _say_how(status: int, place: Path) -> None:
    how = f"signal {-status}" if status < 0 else f"status {status}"
    say(f"the mount's process has ended ({how}): {place} does not answer any more")


def _ends(driver: int, place: Path) -> bool:
    """Whether the driver, which does not answer, is on its way to its end; said if it is."""
    watch = os.pidfd_open(driver)
    try:
        if not select.select([watch], [], [], DYING_S)[0]:
            return False
    finally:
        os.close(watch)
    _say_how(os.waitstatus_to_exitcode(os.waitpid(driver, 0)[1]), place)
    return True


def _uploaded(running: Running, timeout_s: float, signals: Signals) -> bool:
    """Wait for uploads, say what is left and stays in the spool; whether that is anything."""
    spool = running.status()["spool"]
    left = wait_for_uploads(running, timeout_s, enough=signals.told_to_end)
    say_what_is_left(left)
    if left:
        say_where_it_stays(left, spool)
    return bool(left)


def _end(driver: int) -> None:
    """End the driver, in whatever state it is: what it has to keep, it has written down."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has ended already
        watch = os.pidfd_open(driver)
        try:
            signal.pidfd_send_signal(watch, signal.SIGTERM)
            if not select.select([watch], [], [], LEAVE_S)[0]:
                signal.pidfd_send_signal(watch, signal.SIGKILL)
            os.waitpid(driver, 0)
        finally:
            os.close(watch)


def _take_away(location: Path) -> None:
    """Unmount what a driver that was killed has left."""
    with contextlib.suppress(ArtifactfsError):
        assembly.unmount(location, lazy=True)
