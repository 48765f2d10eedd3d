"""How a mount begins and ends, by whom, and what is left of it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs.errors import MountError
from artifactfs.fuse.mount_checks import (
    abort,
    check_mountpoint,
    clean_stale,
    find_mount,
    is_stale,
    mounts,
    unmount,
)
from tests.fuse.conftest import StartMount
from tests.fuse.mounted import Mount, is_mounted, wait_until

pytestmark = pytest.mark.fuse


def test_the_mount_table_shows_where_it_comes_from(mount: Mount) -> None:
    mounted = find_mount(mount.path)
    assert mounted is not None
    assert mounted.source == "service.example"
    assert mounted.mountpoint == mount.path
    assert Path(f"/sys/fs/fuse/connections/{mounted.connection}").is_dir()
    assert mounted in mounts()
    assert not is_stale(mount.path)


def test_it_answers_as_soon_as_it_says_ready(start_mount: StartMount) -> None:
    mount = start_mount()
    assert os.stat(mount.path).st_ino == 1


def test_a_source_with_commas_and_spaces_stays_one_word(start_mount: StartMount) -> None:
    source = "host,ro,user=x\\y z"
    mount = start_mount(source=source)
    mounted = find_mount(mount.path)
    assert mounted is not None
    assert mounted.source == source
    (mount / "drop/a").write_bytes(b"not read-only")


def test_a_mount_point_may_have_any_name(start_mount: StartMount) -> None:
    for name in ("with space", "comma,ro", "back\\slash", "new\nline", "日本", "a#b\tc"):
        mount = start_mount(name=name)
        assert (mount / "fixed/hello.txt").read_bytes() == b"hello\n"
        assert find_mount(mount.path) is not None
        mount.process.send_signal(signal.SIGTERM)
        assert mount.wait_ended() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts(mount: Mount, number: signal.Signals) -> None:
    mount.process.send_signal(number)
    assert mount.wait_ended() is None
    assert mount.process.returncode == 0
    assert not is_mounted(mount.path)
    assert os.listdir(mount.path) == []


def test_stop_unmounts(mount: Mount) -> None:
    mount.command("stop")
    assert mount.wait_ended() is None
    assert not is_mounted(mount.path)


def test_an_unmount_from_outside_ends_the_driver(mount: Mount) -> None:
    unmount(mount.path)
    assert mount.wait_ended() is None
    assert not is_mounted(mount.path)


def test_fusermount_ends_the_driver(mount: Mount) -> None:
    subprocess.run(["fusermount", "-u", mount.path], check=True)
    assert mount.wait_ended() is None


def test_a_signal_before_it_is_ready_leaves_nothing(start_mount: StartMount) -> None:
    for _ in range(3):
        mount = start_mount(wait=False)
        wait_until(lambda mount=mount: is_mounted(mount.path) or mount.process.poll() is not None)
        mount.process.send_signal(signal.SIGTERM)
        mount.process.wait(20)
        assert not is_mounted(mount.path)


def test_a_failing_on_ready_unmounts(start_mount: StartMount) -> None:
    mount = start_mount(wait=False, ready_fails=True)
    assert mount.wait_ended() == "the driver is gone"
    assert mount.process.returncode == 1
    assert "on_ready fails on purpose" in mount.log
    assert not is_mounted(mount.path)


def test_a_mount_point_that_is_not_there_is_a_mount_error(
    start_mount: StartMount, tmp_path: Path
) -> None:
    mount = start_mount(wait=False, remove_mountpoint=True)
    ended = mount.wait_ended()
    assert ended is not None
    assert str(mount.path) in ended
    assert mount.process.returncode == 1


def test_it_ends_though_files_are_open(mount: Mount) -> None:
    reading = os.open(mount / "fixed/big.bin", os.O_RDONLY)
    writing = os.open(mount / "drop/a", os.O_CREAT | os.O_WRONLY)
    try:
        os.write(writing, b"x")
        mount.process.send_signal(signal.SIGTERM)
        assert mount.wait_ended() is None
        assert not is_mounted(mount.path)
        with pytest.raises(OSError):
            os.pread(reading, 10, 2 << 20)
        with pytest.raises(OSError):
            os.write(writing, b"y")
    finally:
        for fd in (reading, writing):
            with contextlib.suppress(OSError):
                os.close(fd)


def test_a_signal_that_another_thread_gets_unmounts_too(mount: Mount) -> None:
    """The kernel may hand a process's signal to any of its threads."""
    threads = [int(name) for name in os.listdir(f"/proc/{mount.process.pid}/task")]
    others = [thread for thread in threads if thread != mount.process.pid]
    libc = ctypes.CDLL(None, use_errno=True)
    assert others
    assert libc.tgkill(mount.process.pid, others[0], signal.SIGTERM) == 0
    assert mount.wait_ended() is None
    assert not is_mounted(mount.path)


@pytest.mark.parametrize("operation", ["arrive", "read"])
def test_it_ends_though_a_reader_waits(mount: Mount, operation: str) -> None:
    name = "fetched.bin" if operation == "arrive" else "slow.txt"
    mount.troubles_expected = True
    mount.hold(operation, name=name)
    with subprocess.Popen(
        ["cat", mount / "fixed" / name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as reader:
        mount.wait_held(operation)
        mount.process.send_signal(signal.SIGTERM)
        assert mount.wait_ended(40) is None
        assert reader.wait(10) != 0
    assert not is_mounted(mount.path)


# A driver that died


def test_a_killed_driver_leaves_a_stale_mount_which_is_recognised_and_cleaned(
    mount: Mount,
) -> None:
    mount.kill()
    assert is_mounted(mount.path)
    with pytest.raises(OSError) as raised:
        os.listdir(mount.path)
    assert raised.value.errno == errno.ENOTCONN
    assert is_stale(mount.path)
    assert check_mountpoint(mount.path) == mount.path
    assert not is_mounted(mount.path)
    assert not is_stale(mount.path)


def test_a_stale_mount_is_cleaned_though_a_program_is_in_it(mount: Mount) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=mount / "fixed") as inside:
        mount.kill()
        try:
            assert clean_stale(mount.path)
            assert not clean_stale(mount.path)
        finally:
            inside.kill()


def test_a_stale_mount_point_can_be_mounted_again(start_mount: StartMount) -> None:
    mount = start_mount()
    mount.kill()
    check_mountpoint(mount.path)
    again = Mount(mount.binding, mount.path.parent)
    try:
        again.wait_ready()
        assert (again / "fixed/hello.txt").read_bytes() == b"hello\n"
    finally:
        again.end()


def test_a_driver_that_hangs_is_not_stale_and_asking_does_not_hang(mount: Mount) -> None:
    os.kill(mount.process.pid, signal.SIGSTOP)
    try:
        assert not is_stale(mount.path, timeout_s=0.3)
        with pytest.raises(MountError, match="mounted already"):
            check_mountpoint(mount.path)
    finally:
        os.kill(mount.process.pid, signal.SIGCONT)


# Unmounting


def test_a_mount_in_use_names_who_uses_it(mount: Mount) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=mount / "fixed") as inside:
        try:
            with pytest.raises(MountError, match=rf"in use by .*sleep \({inside.pid}\)"):
                unmount(mount.path)
            assert (mount / "fixed/hello.txt").read_bytes() == b"hello\n"
            unmount(mount.path, lazy=True)
            assert not is_mounted(mount.path)
            assert mount.process.poll() is None
        finally:
            inside.kill()
    assert mount.wait_ended() is None


def test_a_mapped_file_names_its_user(mount: Mount) -> None:
    script = """
import mmap, sys, time
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print("mapped", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script, mount / "fixed/hello.txt"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as mapper:
        try:
            assert mapper.stdout is not None
            assert mapper.stdout.readline() == b"mapped\n"
            with pytest.raises(MountError, match=rf"\({mapper.pid}\)"):
                unmount(mount.path)
        finally:
            mapper.kill()


def test_nothing_to_unmount_is_said(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="nothing"):
        unmount(tmp_path)
    with pytest.raises(MountError, match="proc"):
        unmount("/proc")


def test_an_abort_frees_who_waits_on_a_hanging_driver(mount: Mount) -> None:
    mount.troubles_expected = True
    mounted = find_mount(mount.path)
    assert mounted is not None
    with subprocess.Popen(["sleep", "60"], cwd=mount / "fixed") as inside:
        os.kill(mount.process.pid, signal.SIGSTOP)
        try:
            with subprocess.Popen(
                ["ls", mount.path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as stuck:
                with pytest.raises(MountError, match="in use"):
                    unmount(mount.path)
                abort(mounted)
                assert stuck.wait(10) != 0
            unmount(mount.path, lazy=True)
            assert not is_mounted(mount.path)
        finally:
            os.kill(mount.process.pid, signal.SIGCONT)
            inside.kill()
    mount.wait_ended()


def test_aborting_what_is_gone_is_fine(mount: Mount) -> None:
    mounted = find_mount(mount.path)
    assert mounted is not None
    unmount(mount.path)
    mount.wait_ended()
    abort(mounted)


def test_a_mount_point_reached_by_a_link_is_the_same(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(mount.path)
    assert find_mount(tmp_path / "link") == find_mount(mount.path)
    (tmp_path / "above").symlink_to(mount.path.parent)
    assert find_mount(tmp_path / "above" / mount.path.name) == find_mount(mount.path)


# Who may


@pytest.mark.xdist_group("mount-point checks")
def test_mounting_twice_or_inside_of_a_mount_is_refused(mount: Mount) -> None:
    with pytest.raises(MountError, match="mounted already") as refused:
        check_mountpoint(mount.path)
    assert f"artifactfs unmount {mount.path}" in str(refused.value)
    os.mkdir(mount / "drop/inner")
    with pytest.raises(MountError, match="inside the mount"):
        check_mountpoint(mount / "drop/inner")
