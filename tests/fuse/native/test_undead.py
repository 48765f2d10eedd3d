"""A driver that is killed while the kernel waits for it to answer, and its own thread for that."""

from __future__ import annotations

import subprocess
from pathlib import Path

from artifactfs.fuse.mount_checks import (
    check_mountpoint,
    is_stale,
    is_undead,
)
from artifactfs.fuse.unmount import MountedFilesystem, find_mount
from tests.fuse.mounted import END_S, Mount, is_mounted, wait_until


def states(pid: int) -> set[str]:
    """The states of a process's threads (proc_pid_stat(5))."""
    return {
        stat.read_text().rpartition(")")[2].split()[0]
        for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    }


def test_a_driver_that_was_killed_and_cannot_end_is_recognised_and_let_go(mount: Mount) -> None:
    mounted = find_mount(mount.path)
    assert mounted is not None
    mount.hold("look_up")
    with subprocess.Popen(["stat", mount / "jobs/unknown"], stderr=subprocess.DEVNULL) as asking:
        mount.wait_held("look_up")
        mount.command("drop_name", parent=(mount / "jobs").stat().st_ino, name="unknown")
        wait_until(lambda: "D" in states(mount.process.pid))
        assert not is_undead(mounted)
        mount.process.kill()
        wait_until(lambda: states(mount.process.pid) == {"Z", "D"})
        assert is_undead(mounted)
        other = MountedFilesystem(mounted.mountpoint, mounted.source, mounted.connection + 1)
        assert not is_undead(other)
        assert asking.poll() is None
        assert is_stale(mount.path, timeout_s=1)
        assert check_mountpoint(mount.path) == mount.path
        assert not is_mounted(mount.path)
        assert asking.wait(END_S) != 0
    assert mount.process.wait(END_S) != 0


def test_a_driver_that_only_hangs_is_left_alone(mount: Mount) -> None:
    mounted = find_mount(mount.path)
    assert mounted is not None
    mount.hold("look_up")
    with subprocess.Popen(["stat", mount / "jobs/unknown"], stderr=subprocess.DEVNULL) as asking:
        mount.wait_held("look_up")
        assert not is_undead(mounted)
        assert not is_stale(mount.path)
        mount.let_go()
        asking.wait(END_S)
