"""A writable directory behaves as a local one; everything else is read-only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuse.memory_tree import pattern
from tests.fuse.mounted import Mount, wait_until

pytestmark = pytest.mark.fuse


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as raised:
        yield
    shown = [errno.errorcode[number] for number in numbers]
    assert raised.value.errno in numbers, f"{raised.value} instead of {shown}"


def test_what_is_written_arrives(mount: Mount) -> None:
    content = pattern(3_000_123)
    (mount / "drop/a").write_bytes(content)
    assert mount.dropped()["a"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert (mount / "drop/a").read_bytes() == content
    assert os.stat(mount / "drop/a").st_size == len(content)


def test_writes_are_big(mount: Mount) -> None:
    fd = os.open(mount / "drop/a", os.O_CREAT | os.O_WRONLY)
    try:
        assert os.write(fd, bytes(1 << 20)) == 1 << 20
    finally:
        os.close(fd)
    assert mount.command("counts")["write"] <= 10


def test_programs_copy_into_it(mount: Mount, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(pattern(400_000))
    os.utime(source, ns=(10**18, 10**18 + 5))
    shutil.copy2(source, mount / "drop/one")
    subprocess.run(["cp", "-p", source, mount / "drop/two"], check=True)
    subprocess.run(["rsync", "-a", source, f"{mount.path}/drop/three"], check=True)
    subprocess.run(["mv", source, mount / "drop/four"], check=True)
    for name in ("one", "two", "three", "four"):
        assert (mount / "drop" / name).read_bytes() == pattern(400_000)
        assert os.stat(mount / "drop" / name).st_mtime_ns == 10**18 + 5
    assert sorted(os.listdir(mount / "drop")) == ["four", "one", "three", "two"]


def test_mode_and_umask_are_kept(mount: Mount) -> None:
    before = os.umask(0o027)
    try:
        os.close(os.open(mount / "drop/a", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(mount / "drop/d", 0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(mount / "drop/a").st_mode) == 0o640
    assert stat.S_IMODE(os.stat(mount / "drop/d").st_mode) == 0o750
    os.chmod(mount / "drop/a", 0o600)
    assert stat.S_IMODE(os.stat(mount / "drop/a").st_mode) == 0o600


def test_appending_truncating_and_holes(mount: Mount) -> None:
    path = mount / "drop/a"
    path.write_bytes(b"12345")
    with open(path, "ab") as file:
        file.write(b"678")
    assert path.read_bytes() == b"12345678"
    os.truncate(path, 3)
    assert path.read_bytes() == b"123"
    os.truncate(path, 5)
    assert path.read_bytes() == b"123\0\0"
    with open(path, "r+b", buffering=0) as file:
        file.truncate(1)
        file.seek(4)
        file.write(b"x")
        assert os.fstat(file.fileno()).st_size == 5
    assert path.read_bytes() == b"1\0\0\0x"
    path.write_bytes(b"short")
    assert path.read_bytes() == b"short"
    assert os.stat(path).st_size == 5


def test_two_appenders_lose_nothing(mount: Mount) -> None:
    path = mount / "drop/log"
    path.write_bytes(b"")

    def append(letter: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            for _ in range(100):
                os.write(fd, letter * 10)
        finally:
            os.close(fd)

    with ThreadPoolExecutor(2) as writers:
        list(writers.map(append, (b"a", b"b")))
    content = path.read_bytes()
    assert (content.count(b"a"), content.count(b"b")) == (1000, 1000)


def test_exclusive_creation_excludes(mount: Mount) -> None:
    path = mount / "drop/a"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    with refused(errno.EEXIST):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_a_node_made_without_opening_it_is_an_empty_file(mount: Mount) -> None:
    os.mknod(mount / "drop/a", 0o644 | stat.S_IFREG)
    assert (mount / "drop/a").read_bytes() == b""
    wait_until(lambda: mount.dropped()["a"]["handles"] == 0)


def test_no_links_pipes_or_devices(mount: Mount) -> None:
    (mount / "drop/a").write_bytes(b"")
    with refused(errno.EPERM):
        os.symlink("a", mount / "drop/b")
    with refused(errno.EPERM):
        os.link(mount / "drop/a", mount / "drop/b")
    with refused(errno.EPERM):
        os.mkfifo(mount / "drop/b")
    assert os.listdir(mount / "drop") == ["a"]


def test_times_can_be_set_one_by_one(mount: Mount) -> None:
    path = mount / "drop/a"
    path.write_bytes(b"")
    os.utime(path, ns=(5, 1_073_741_823))
    assert os.stat(path).st_mtime_ns == 1_073_741_823
    os.utime(path, ns=(5, 123_456_789_012_345_678))
    subprocess.run(["touch", "-a", path], check=True)
    assert os.stat(path).st_mtime_ns == 123_456_789_012_345_678
    subprocess.run(["touch", "-m", "-d", "@77.5", path], check=True)
    assert os.stat(path).st_mtime_ns == 77_500_000_000
    subprocess.run(["touch", path], check=True)
    assert os.stat(path).st_mtime > 1_600_000_000


def test_the_owner_it_has_may_be_set_another_may_not(mount: Mount) -> None:
    path = mount / "drop/a"
    path.write_bytes(b"")
    os.chown(path, os.getuid(), os.getgid())
    os.chown(path, -1, -1)
    os.chown(path, -1, os.getgid())
    with refused(errno.EPERM):
        os.chown(path, os.getuid() + 1, -1)
    with refused(errno.EPERM):
        os.chown(path, -1, os.getgid() + 1)


# Renaming and removing


def test_renaming_moves_and_replaces(mount: Mount) -> None:
    drop = mount / "drop"
    (drop / "a").write_bytes(b"a")
    (drop / "b").write_bytes(b"b")
    os.rename(drop / "a", drop / "b")
    assert os.listdir(drop) == ["b"]
    assert (drop / "b").read_bytes() == b"a"
    os.mkdir(drop / "d")
    os.rename(drop / "b", drop / "d/c")
    assert (drop / "d/c").read_bytes() == b"a"
    os.rename(drop / "d", drop / "e")
    assert (drop / "e/c").read_bytes() == b"a"
    with refused(errno.ENOENT):
        os.rename(drop / "absent", drop / "b")
    (drop / "f").write_bytes(b"f")
    with refused(errno.EISDIR):
        os.rename(drop / "f", drop / "e")
    with refused(errno.ENOTDIR):
        os.rename(drop / "e", drop / "f")


def test_an_open_file_follows_its_new_name(mount: Mount) -> None:
    drop = mount / "drop"
    os.mkdir(drop / "d")
    with open(drop / "d/a", "w+b", buffering=0) as file:
        file.write(b"one")
        os.rename(drop / "d/a", drop / "d/b")
        file.write(b"two")
        os.rename(drop / "d", drop / "e")
        file.write(b"three")
        file.truncate(9)
        assert os.fstat(file.fileno()).st_size == 9
        os.fchmod(file.fileno(), 0o600)
        os.utime(file.fileno(), ns=(1, 2))
    assert (drop / "e/b").read_bytes() == b"onetwothr"
    assert os.stat(drop / "e/b").st_mtime_ns == 2


def test_an_unlinked_file_lives_on_while_it_is_open(mount: Mount) -> None:
    path = mount / "drop/a"
    with open(path, "w+b", buffering=0) as file:
        file.write(b"before")
        os.unlink(path)
        assert os.listdir(mount / "drop") == []
        assert mount.dropped() == {}
        with refused(errno.ENOENT):
            os.stat(path)
        file.write(b" after")
        file.seek(0)
        assert file.read() == b"before after"
        assert os.fstat(file.fileno()).st_size == 12
        file.truncate(3)
        assert os.fstat(file.fileno()).st_size == 3
        path.write_bytes(b"another")
        assert os.listdir(mount / "drop") == ["a"]
        assert os.pread(file.fileno(), 10, 0) == b"bef"
    assert path.read_bytes() == b"another"
    wait_until(lambda: mount.dropped()["a"]["handles"] == 0)
    assert os.listdir(mount / "drop") == ["a"]


def test_a_file_that_is_open_can_be_replaced(mount: Mount) -> None:
    drop = mount / "drop"
    (drop / "a").write_bytes(b"old")
    (drop / "b").write_bytes(b"new")
    with open(drop / "a", "rb", buffering=0) as file:
        os.rename(drop / "b", drop / "a")
        assert os.listdir(drop) == ["a"]
        assert (drop / "a").read_bytes() == b"new"
        assert file.read() == b"old"
        assert os.fstat(file.fileno()).st_size == 3
    assert os.listdir(drop) == ["a"]
    assert (drop / "a").read_bytes() == b"new"


def test_a_removed_folder_takes_nothing_hidden_with_it(mount: Mount) -> None:
    drop = mount / "drop"
    os.mkdir(drop / "d")
    with open(drop / "d/a", "w+b", buffering=0) as file:
        file.write(b"kept")
        os.unlink(drop / "d/a")
        os.rmdir(drop / "d")
        assert os.listdir(drop) == []
        assert os.pread(file.fileno(), 10, 0) == b"kept"
    os.mkdir(drop / "d")
    assert os.listdir(drop / "d") == []


def test_a_temporary_file_without_a_name_is_refused_or_works(mount: Mount) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(mount / "drop", os.O_TMPFILE | os.O_RDWR)
        os.close(fd)
    assert os.listdir(mount / "drop") == []


def test_folders_come_and_go(mount: Mount) -> None:
    drop = mount / "drop"
    os.makedirs(drop / "/".join("abcdefghij"))
    with refused(errno.EEXIST):
        os.mkdir(drop / "a")
    with refused(errno.ENOTEMPTY):
        os.rmdir(drop / "a")
    with refused(errno.EISDIR, errno.EPERM):
        os.unlink(drop / "a")
    (drop / "file").write_bytes(b"")
    with refused(errno.ENOTDIR):
        os.rmdir(drop / "file")
    shutil.rmtree(drop / "a")
    assert os.listdir(drop) == ["file"]


RENAMEAT2 = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
old, new, flags = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), int(sys.argv[3])
sys.exit(0 if libc.renameat2(-100, old, -100, new, flags) == 0 else ctypes.get_errno())
"""


def rename_with(flags: int, old: Path, new: Path) -> int:
    command = [sys.executable, "-c", RENAMEAT2, old, new, str(flags)]
    return subprocess.run(command, check=False).returncode


def test_an_exchange_is_refused(mount: Mount) -> None:
    (mount / "drop/a").write_bytes(b"a")
    (mount / "drop/b").write_bytes(b"b")
    assert rename_with(2, mount / "drop/a", mount / "drop/b") == errno.EINVAL
    assert (mount / "drop/a").read_bytes() == b"a"


def test_a_rename_that_must_not_replace_never_does(mount: Mount) -> None:
    """libfuse 2 cannot pass the wish on; the kernel refuses then, and programs do without."""
    (mount / "drop/a").write_bytes(b"a")
    (mount / "drop/b").write_bytes(b"b")
    assert rename_with(1, mount / "drop/a", mount / "drop/b") in (errno.EEXIST, errno.EINVAL)
    assert (mount / "drop/b").read_bytes() == b"b"
    free = rename_with(1, mount / "drop/a", mount / "drop/c")
    assert free == (errno.EINVAL if mount.binding == "fusepy" else 0)


# What close, fsync and locks mean


def test_close_waits_for_the_flush_and_tells_who_closed(mount: Mount) -> None:
    fd = os.open(mount / "drop/a", os.O_CREAT | os.O_WRONLY)
    os.close(fd)
    assert mount.command("detail", operation="flush") == threading.get_native_id()
    with subprocess.Popen(["dd", "if=/dev/zero", f"of={mount / 'drop/b'}", "count=1"]) as other:
        other.wait()
    assert mount.command("detail", operation="flush") == other.pid


def test_every_duplicate_flushes_and_the_last_releases(mount: Mount) -> None:
    fd = os.open(mount / "drop/a", os.O_CREAT | os.O_WRONLY)
    second = os.dup(fd)
    os.close(fd)
    assert mount.dropped()["a"]["handles"] == 1
    os.close(second)
    wait_until(lambda: mount.dropped()["a"]["handles"] == 0)
    assert mount.command("counts")["flush"] == 2


def test_fsync_reaches_the_file_and_the_directory(mount: Mount) -> None:
    for path, flags in ((mount / "drop/a", os.O_CREAT | os.O_RDWR), (mount / "drop", os.O_RDONLY)):
        fd = os.open(path, flags)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    counts = mount.command("counts")
    assert (counts["fsync"], counts["sync"]) == (1, 1)


def test_an_error_at_the_flush_is_an_error_of_close(mount: Mount) -> None:
    mount.fail("flush", "SpoolFull")
    fd = os.open(mount / "drop/a", os.O_CREAT | os.O_WRONLY)
    with refused(errno.ENOSPC):
        os.close(fd)
    assert "free disk space" in mount.log


def test_locks_work_among_the_programs_of_this_machine(mount: Mount) -> None:
    path = mount / "drop/a"
    path.write_bytes(b"x")
    other = [
        sys.executable,
        "-c",
        "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)",
        path,
    ]
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert subprocess.run(other, check=False, stderr=subprocess.DEVNULL).returncode == 1
        fcntl.flock(file, fcntl.LOCK_UN)
        assert subprocess.run(other, check=False).returncode == 0
        fcntl.lockf(file, fcntl.LOCK_EX)


def test_an_unknown_ioctl_is_refused(mount: Mount) -> None:
    with open(mount / "fixed/hello.txt", "rb") as file, refused(errno.ENOTTY):
        fcntl.ioctl(file, 0x5401, bytes(64))


def test_space_can_be_asked_for_in_advance(mount: Mount) -> None:
    """Where the binding cannot pass it on, the C library writes instead."""
    fd = os.open(mount / "drop/a", os.O_CREAT | os.O_WRONLY)
    try:
        with contextlib.suppress(OSError):
            os.posix_fallocate(fd, 0, 10_000)
        os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)
    assert os.stat(mount / "drop/a").st_size in (1, 10_000)


def test_many_writers_at_once(mount: Mount) -> None:
    def write(number: int) -> None:
        chance = random.Random(number)
        content = chance.randbytes(chance.randrange(300_000))
        path = mount / "drop" / f"file{number}"
        path.write_bytes(content)
        os.rename(path, mount / "drop" / f"done{number}")
        assert (mount / "drop" / f"done{number}").read_bytes() == content

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(write, range(40)))
    assert len(os.listdir(mount / "drop")) == 40


# Outside of drop/

CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda root: (root / "new").write_bytes(b""),
    "overwrite": lambda root: (root / "hello.txt").write_bytes(b""),
    "open for writing": lambda root: os.open(root / "hello.txt", os.O_RDWR),
    "append": lambda root: os.open(root / "hello.txt", os.O_WRONLY | os.O_APPEND),
    "truncate": lambda root: os.truncate(root / "hello.txt", 0),
    "unlink": lambda root: os.unlink(root / "hello.txt"),
    "mkdir": lambda root: os.mkdir(root / "new"),
    "rmdir": lambda root: os.rmdir(root / "sub"),
    "rename": lambda root: os.rename(root / "hello.txt", root / "new"),
    "chmod": lambda root: os.chmod(root / "hello.txt", 0o777),
    "utime": lambda root: os.utime(root / "hello.txt"),
    "symlink": lambda root: os.symlink("x", root / "new"),
    "link": lambda root: os.link(root / "hello.txt", root / "new"),
    "mknod": lambda root: os.mknod(root / "new", stat.S_IFREG | 0o644),
    "mkfifo": lambda root: os.mkfifo(root / "new"),
}


def test_outside_of_the_outbox_nothing_can_be_changed(mount: Mount) -> None:
    for name, change in CHANGES.items():
        with refused(errno.EROFS):
            change(mount / "fixed")
            pytest.fail(f"{name} succeeded")
    (mount / "drop/mine").write_bytes(b"")
    with refused(errno.EROFS, errno.EXDEV):
        os.rename(mount / "drop/mine", mount / "fixed/mine")
    with refused(errno.EROFS, errno.EXDEV):
        os.rename(mount / "fixed/hello.txt", mount / "drop/hello.txt")
    assert (mount / "fixed/hello.txt").read_bytes() == b"hello\n"
    assert "ERROR" not in mount.log


def test_an_open_file_cannot_be_unlinked_outside_of_the_outbox(mount: Mount) -> None:
    with open(mount / "fixed/hello.txt", "rb") as file:
        with refused(errno.EROFS):
            os.unlink(mount / "fixed/hello.txt")
        assert file.read() == b"hello\n"
    assert (mount / "fixed/hello.txt").read_bytes() == b"hello\n"
