"""``mount`` and ``unmount``."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import click

from artifactfs import assembly
from artifactfs.cli import words
from artifactfs.cli.attending import say_what_is_left, wait_for_uploads
from artifactfs.cli.daemon import run_detached
from artifactfs.cli.failures import NOT_ALL_UPLOADED, say
from artifactfs.cli.logs import log_path, log_to_file, log_to_terminal
from artifactfs.cli.running import Running
from artifactfs.config import Config, load
from artifactfs.errors import ArtifactfsError, MountError

DEFAULT_MOUNTPOINT = Path("artifacts")
LEAVE_S = 30.0


@click.command()
@click.argument("mountpoint", required=False, type=click.Path(path_type=Path, readable=False))
@words.service_options()
@words.cache_options()
@click.option("--fuse", metavar="BINDING", help="native, fusepy or auto (default).")
@click.option("--allow-other", is_flag=True, help="Let other users use the mount.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to the terminal.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@words.set_option()
def mount(
    mountpoint: Path | None, foreground: bool, options: tuple[str, ...], **flags: Any
) -> None:
    """Mount the service's artifacts, and return when the mount answers.

    MOUNTPOINT is an empty directory; without one it is ./artifacts, made if it is not there.

    \b
    Examples:
      artifactfs mount ~/artifacts
      artifactfs mount --url https://dev.computalot.com --token-file token ~/artifacts
      artifactfs mount -o cache.size=100G,list.ttl=1m ~/artifacts
    """
    config = words.config_of(options, **flags)
    if mountpoint is None:
        mountpoint = DEFAULT_MOUNTPOINT
        mountpoint.mkdir(exist_ok=True)
    mount_at(config, Path(os.path.abspath(mountpoint)), foreground=foreground)  # noqa: PTH100


def mount_at(config: Config, mountpoint: Path, *, foreground: bool) -> None:
    """Mount, in the background unless told otherwise. Raises what stands in the way."""
    if foreground:
        log_to_terminal(config)
        assembly.Mount(config, mountpoint).run(lambda: say(f"mounted at {mountpoint}"))
        return
    path = log_path(config, mountpoint)

    def serve(ready: object) -> None:
        assert callable(ready)
        log_to_file(config, path)
        assembly.Mount(config, mountpoint).run(ready)

    run_detached(serve)


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path, readable=False))
@click.option("--timeout", type=float, metavar="S", help="How long to wait for uploads.")
@click.option("--force", is_flag=True, help="Do not wait for anything; also for a stuck mount.")
def unmount(mountpoint: Path, timeout: float | None, force: bool) -> None:
    """Wait for pending uploads, then unmount.

    What is not uploaded when the time is over stays in the spool and resumes at the next mount;
    the exit status is then 3.

    \b
    Examples:
      artifactfs unmount ~/artifacts
      artifactfs unmount --timeout 30 ~/artifacts
      artifactfs unmount --force ~/artifacts
    """
    location = Path(os.path.abspath(mountpoint))  # noqa: PTH100 - resolve() would touch the mount
    mounted = assembly.find_mount(location)
    if mounted is None:
        raise MountError(f"{mountpoint} is not mounted")
    if force:
        # Aborted first: what is not in the mount table any more has no connection to abort.
        with contextlib.suppress(ArtifactfsError, OSError):
            assembly.abort(mounted)
        with contextlib.suppress(ArtifactfsError, OSError):
            assembly.unmount(location, lazy=True)
        if assembly.find_mount(location) is not None:
            raise MountError(f"{mountpoint} could not be unmounted")
        return
    if assembly.is_stale(location):
        assembly.unmount(location, lazy=True)
        return
    running = Running(mounted.mountpoint)
    status = running.status()
    pid = int(status["pid"])
    left = wait_for_uploads(running, load().unmount.timeout_s if timeout is None else timeout)
    assembly.unmount(location)
    _wait_for_end(pid)
    say_what_is_left(left)
    if left:
        say(f"{len(left):,} files stay in {status['spool']} and resume at the next mount")
        raise click.exceptions.Exit(NOT_ALL_UPLOADED)


def _wait_for_end(pid: int) -> None:
    """Wait for the driver to write down what it has to."""
    deadline_s = time.monotonic() + LEAVE_S
    while time.monotonic() < deadline_s:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
