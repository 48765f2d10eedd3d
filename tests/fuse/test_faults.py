"""Whatever raises whatever, the caller gets the right errno, never success, and the log the cause.

Every call of the tree's interface is made to fail with every kind of exception. Which program's
call leads there stands in `REACHED_BY`. Afterwards the same call works, so nothing was left broken.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse.memory_tree import FETCHED
from tests.fuse.mounted import Mount, wait_until

pytestmark = pytest.mark.fuse

EXPECTED = {
    "no-errno": errno.EIO,
    "negative-errno": errno.EIO,
    "unknown-errno": errno.EIO,
    "unprintable": errno.EIO,
    "deep-recursion": errno.EIO,
    "KeyError": errno.EIO,
    "AssertionError": errno.EIO,
    "StopIteration": errno.EIO,
    "GeneratorExit": errno.EIO,
    "SystemExit": errno.EIO,
    "KeyboardInterrupt": errno.EIO,
    "MemoryError": errno.ENOMEM,
    "TimeoutError": errno.ETIMEDOUT,
    "ConnectionResetError": errno.EIO,
    "EDQUOT": errno.EDQUOT,
    "ENOSPC": errno.ENOSPC,
    "TokenRejected": errno.EACCES,
    "Unreachable": errno.EHOSTUNREACH,
    "TimedOut": errno.ETIMEDOUT,
    "TooLarge": errno.EFBIG,
    "ContentGone": errno.ESTALE,
    "ContentMismatch": errno.EIO,
}


def opened(path: Path, flags: int, act: Callable[[int], object]) -> object:
    fd = os.open(path, flags, 0o644)
    try:
        return act(fd)
    finally:
        os.close(fd)


def close_after_write(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.close(fd)


def make_and_remove(path: Path) -> None:
    os.mkdir(path)
    os.rmdir(path)


def create(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def create_and_unlink(path: Path) -> None:
    create(path)
    os.unlink(path)


def there_and_back(path: Path) -> None:
    os.rename(path, f"{path}.new")
    os.rename(f"{path}.new", path)


# operation, the name it strikes (None: any), what a program does
REACHED_BY: list[tuple[str, str | None, Callable[[Path], object]]] = [
    ("attributes", "hello.txt", lambda root: os.stat(root / "fixed/hello.txt")),
    ("find", "hello.txt", lambda root: os.stat(root / "fixed/hello.txt")),
    ("may_know_more", "jobs", lambda root: os.path.lexists(root / "x") or stat_absent(root)),
    ("look_up", "job-1", lambda root: os.stat(root / "jobs/job-1")),
    ("target", "link", lambda root: os.readlink(root / "fixed/link")),
    ("entries", "many", lambda root: os.listdir(root / "many")),
    ("is_fresh", "stale", lambda root: os.listdir(root / "stale")),
    ("freshen", "stale", lambda root: os.listdir(root / "stale")),
    ("xattrs", "hello.txt", lambda root: os.listxattr(root / "fixed/hello.txt")),
    ("xattrs", "sub", lambda root: os.getxattr(root / "fixed/sub", "user.artifactfs.id")),
    ("set_xattr", None, lambda root: os.setxattr(root, "user.artifactfs.pin", b"1")),
    ("open", "hello.txt", lambda root: (root / "fixed/hello.txt").read_bytes()),
    ("direct_io", "hello.txt", lambda root: (root / "fixed/hello.txt").read_bytes()),
    ("try_read", "grow.log", lambda root: read_log(root)),
    ("try_read", "fetched.bin", lambda root: read_fetched(root)),
    ("request", "fetched.bin", lambda root: read_fetched(root)),
    ("arrive", "fetched.bin", lambda root: read_fetched(root)),
    ("read", "slow.txt", lambda root: (root / "fixed/slow.txt").read_bytes()),
    ("space", None, lambda root: os.statvfs(root)),
    ("change", "there", lambda root: os.chmod(root / "drop/there", 0o600)),
    ("change", "there", lambda root: os.utime(root / "drop/there", ns=(1, 2))),
    ("change", "there", lambda root: os.truncate(root / "drop/there", 3)),
    ("create", "new", lambda root: create_and_unlink(root / "drop/new")),
    ("make_directory", "new", lambda root: make_and_remove(root / "drop/new")),
    ("rename", "there", lambda root: there_and_back(root / "drop/there")),
    (
        "write",
        "there",
        lambda root: opened(root / "drop/there", os.O_WRONLY, lambda fd: os.write(fd, b"x")),
    ),
    (
        "truncate",
        "there",
        lambda root: opened(root / "drop/there", os.O_WRONLY, lambda fd: os.ftruncate(fd, 3)),
    ),
    ("flush", "there", lambda root: close_after_write(root / "drop/there")),
    ("fsync", "there", lambda root: opened(root / "drop/there", os.O_WRONLY, os.fsync)),
    ("sync", "drop", lambda root: opened(root / "drop", os.O_RDONLY, os.fsync)),
]


def stat_absent(root: Path) -> object:
    """Fails with ENOENT where nothing else is wrong; that counts as working."""
    try:
        return os.stat(root / "jobs/absent")
    except FileNotFoundError:
        return None


def read_log(root: Path) -> bytes:
    return (root / "live/grow.log").read_bytes()


NEXT = iter(range(0, len(FETCHED), 8192))


def read_fetched(root: Path) -> bytes:
    """Some bytes that no one has read before, so that no cache has them."""
    with open(root / "fixed/fetched.bin", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        data = os.pread(file.fileno(), 4096, 0)
    assert data == FETCHED[:4096]
    return data


@pytest.mark.parametrize(
    ("operation", "name", "act"),
    REACHED_BY,
    ids=[f"{number:02d}-{one[0]}" for number, one in enumerate(REACHED_BY)],
)
def test_every_exception_is_an_errno_and_a_line_in_the_log(
    mount: Mount, operation: str, name: str | None, act: Callable[[Path], object]
) -> None:
    (mount / "drop/there").write_bytes(b"there")
    for error, number in EXPECTED.items():
        mount.fail(operation, error, name=name)
        with pytest.raises(OSError) as raised:
            act(mount.path)
            pytest.fail(f"{error} in {operation} was success")
        assert raised.value.errno == number, f"{error} became {raised.value}"
        mount.let_go()
    act(mount.path)
    log = mount.log
    for words in ("connection broken", "KeyError on purpose", "TokenRejected on purpose"):
        assert words in log, f"the cause is not in the log: {words}"
    assert "[ESTALE]" in log
    assert "Traceback" in log


@pytest.mark.parametrize("error", ["KeyError", "no-errno", "ENOSPC", "SystemExit"])
def test_what_goes_wrong_while_removing_is_told_and_removes_nothing(
    mount: Mount, error: str
) -> None:
    (mount / "drop/there").write_bytes(b"there")
    os.mkdir(mount / "drop/folder")
    mount.fail("unlink", error)
    mount.fail("remove_directory", error)
    with pytest.raises(OSError) as raised:
        os.unlink(mount / "drop/there")
    assert raised.value.errno == EXPECTED[error]
    with pytest.raises(OSError) as raised:
        os.rmdir(mount / "drop/folder")
    assert raised.value.errno == EXPECTED[error]
    with open(mount / "drop/there", "rb"), pytest.raises(OSError) as raised:
        os.unlink(mount / "drop/there")
    assert raised.value.errno == EXPECTED[error]
    mount.let_go()
    assert sorted(os.listdir(mount / "drop")) == ["folder", "there"]
    os.unlink(mount / "drop/there")
    os.rmdir(mount / "drop/folder")


@pytest.mark.parametrize("operation", ["keep_cache", "release", "listing_version", "backing_fd"])
def test_what_is_only_an_extra_never_spoils_the_bytes(mount: Mount, operation: str) -> None:
    """An error there is told as an error or not at all, but nothing wrong is ever read."""
    for error in ("KeyError", "no-errno", "MemoryError", "SystemExit"):
        mount.fail(operation, error)
        try:
            assert (mount / "fixed/backed.bin").stat().st_size > 0
            assert (mount / "fixed/hello.txt").read_bytes() == b"hello\n"
            assert "hello.txt" in os.listdir(mount / "fixed")
        except OSError as raised:
            assert raised.errno == EXPECTED[error]
        mount.let_go()
    assert (mount / "fixed/hello.txt").read_bytes() == b"hello\n"


def test_the_same_trouble_is_logged_once(mount: Mount) -> None:
    mount.fail("space", "Unreachable")
    for _ in range(50):
        with pytest.raises(OSError):
            os.statvfs(mount.path)
    assert mount.log.count("Unreachable on purpose") == 1


def test_a_failed_open_leaves_nothing_open(mount: Mount) -> None:
    (mount / "drop/there").write_bytes(b"there")
    for operation in ("direct_io", "open"):
        mount.fail(operation, "KeyError", name="there")
        with pytest.raises(OSError):
            os.open(mount / "drop/there", os.O_RDONLY)
        mount.let_go()
    wait_until(lambda: mount.dropped()["there"]["handles"] == 0)


def test_half_a_read_is_never_taken_for_the_end(mount: Mount) -> None:
    """A file whose later bytes cannot be had must not look shorter than it is."""
    mount.fail("arrive", "no-errno", name="fetched.bin")
    with open(mount / "fixed/fetched.bin", "rb", buffering=0) as file, pytest.raises(OSError):
        while file.read(1 << 20):
            pass
    mount.let_go()
    assert (mount / "fixed/fetched.bin").read_bytes() == FETCHED
