"""The directory that a run mounts on: made where it is missing, and then removed again.

Runs of one user may use one directory at one time (the tasks of an array job), each with a mount
that the others do not see. Whoever removes a directory takes away what others have mounted on it,
in their namespaces too (rmdir(2) detaches it there). So each holds a shared lock on it, and it is
removed by the one who can have the lock alone. Which directories were made by a run, the directory
says itself, by an extended attribute; where attributes or locks do not work (NFS) it stays, empty.

``run``: a mount for one command, without privilege and without anything to clean up.

    artifactfs run ── enters a namespace of its own ─┬─ forks the driver, which mounts inside it
                                                     └─ starts the command (``child_process``)

The command ends first. Then uploads get their time while the mount still answers, the driver is
told to end, and the directory goes if it was made for this (``run``). If the driver died
before, another takes up what it left. Whatever is killed, and in whatever order: the mount ends
with the last process in the namespace, what was closed in ``drop/`` lies in the spool, and the next
mount uploads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click

from artifactfs import assembly
from artifactfs.cli import options
from artifactfs.cli.child_process import (
    NOT_EXECUTABLE,
    NOT_FOUND,
    ForwardedSignals,
    accompany,
    end_alike,
    end_with_parent,
)
from artifactfs.cli.daemon import run_detached
from artifactfs.cli.errors import (
    NOT_ALL_UPLOADED,
    line_of,
    say,
)
from artifactfs.cli.log_setup import log_path, log_to_file
from artifactfs.cli.mount_client import RunningMount
from artifactfs.cli.status import (
    say_what_is_left,
    say_where_it_stays,
    wait_for_uploads,
)
from artifactfs.config import Config
from artifactfs.errors import ArtifactfsError, MountError

_MADE: Final = "user.artifactfs.made"
_TRIES: Final = 100


@contextmanager
def borrowed(place: Path) -> Iterator[None]:
    """Have a directory at `place` for as long as the block runs. Raises `MountError`."""
    descriptor = _held(place)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.getxattr(descriptor, _MADE):
                place.rmdir()
        os.close(descriptor)


def _held(place: Path) -> int:
    for _ in range(_TRIES):
        made = _make(place)
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another run has removed it
        except OSError as error:
            raise MountError(f"{place} cannot be opened: {error.strerror}") from error
        with suppress(OSError):
            if made:
                os.setxattr(descriptor, _MADE, b"1")
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_there(place, descriptor):
            return descriptor
        os.close(descriptor)
    raise MountError(f"{place} is removed again and again")


def _make(place: Path) -> bool:
    try:
        place.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        what = "its parent is not there" if error.errno == errno.ENOENT else error.strerror
        raise MountError(
            f"{place} cannot be made: {what}", remedy="say where by --at PATH"
        ) from error
    return True


def _is_there(place: Path, descriptor: int) -> bool:
    with suppress(OSError):
        return os.path.samestat(place.stat(), os.fstat(descriptor))
    return False


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
@options.service_options()
@options.cache_options()
@click.option("--fuse", metavar="BINDING", help="native, fusepy or auto (default).")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@options.set_option()
def run(
    command: tuple[str, ...],
    place: Path,
    timeout: float | None,
    settings: tuple[str, ...],
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
    config = options.config_of(settings, **flags)
    location = Path(os.path.realpath(place))
    timeout_s = config.unmount.timeout_s if timeout is None else timeout
    assembly.enter_own_namespace()
    signals = ForwardedSignals()
    with borrowed(location):
        driver = _start_driver(config, location, signals)
        with signals:
            status, answers = _accompanied(command, signals, driver, place)
            try:
                if answers:
                    try:
                        left = _uploaded(RunningMount(location), timeout_s, signals)
                    except MountError:  # it was killed, and had not quite ended with the command
                        answers = not _ends(driver, place)
                        if answers:
                            raise
                if not answers:  # another one takes up what was closed in drop/
                    _take_away(location)
                    driver = _start_driver(config, location, signals)
                    left = _uploaded(RunningMount(location), timeout_s, signals)
            except ArtifactfsError as error:
                say(line_of(error))
                say("what was closed in drop/ and is not uploaded resumes with the next mount")
                left = True
            _end(driver)
            _take_away(location)
    if left and status == 0:
        return NOT_ALL_UPLOADED
    return end_alike(status)


def _start_driver(config: Config, location: Path, signals: ForwardedSignals) -> int:
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
    command: tuple[str, ...], signals: ForwardedSignals, driver: int, place: Path
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


def _uploaded(running: RunningMount, timeout_s: float, signals: ForwardedSignals) -> bool:
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
