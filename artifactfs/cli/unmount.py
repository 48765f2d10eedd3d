"""``unmount``."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import click

from artifactfs import assembly, system
from artifactfs.cli import completion
from artifactfs.cli.errors import NOT_ALL_UPLOADED, say
from artifactfs.cli.mount_client import RunningMount
from artifactfs.cli.status import (
    say_what_is_left,
    say_where_it_stays,
    wait_for_uploads,
)
from artifactfs.config import load
from artifactfs.errors import ArtifactfsError, MountError

LEAVE_S = 30.0
KEPT_S = 3.0
MOST_NAMED = 3


@click.command()
@click.argument(
    "mountpoint",
    type=click.Path(path_type=Path, readable=False),
    shell_complete=completion.mountpoints,
)
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
    if assembly.clean_stale(location):
        return
    running = RunningMount(mounted.mountpoint)
    status = running.status()
    pid = int(status["pid"])
    left = wait_for_uploads(running, load().unmount.timeout_s if timeout is None else timeout)
    can_be_told = not running.is_read_only()
    if can_be_told:
        running.command(mounted.mountpoint, "leave")  # all the waiting has been done here
    try:
        assembly.unmount(location)
    except ArtifactfsError:
        if can_be_told:
            running.command(mounted.mountpoint, "leave", b"0")
        raise
    _wait_for_end(pid, mounted)
    say_what_is_left(left)
    if left:
        say_where_it_stays(left, status["spool"])
        raise click.exceptions.Exit(NOT_ALL_UPLOADED)


def _wait_for_end(pid: int, mounted: assembly.MountedFilesystem) -> None:
    """Wait for the driver to write down what it has to.

    Not for long where it goes on because others have a copy of the mount; they are named.
    """
    if _ends(pid, KEPT_S):
        return
    kept = assembly.kept_by(mounted)
    if kept:
        say(f"its driver goes on, the mount is kept by {', '.join(kept[:MOST_NAMED])}")
        return
    _ends(pid, LEAVE_S - KEPT_S)


def _ends(pid: int, within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    while system.is_running(pid):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(0.01)
    return True
