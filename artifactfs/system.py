"""What differs between Linux, where this project is at home, and macOS, where it is a guest.

All of it stands here: no other module may ask which system this is, or call what only one of them
has, but for ``kernel/native`` and ``artifactfs run``, which are Linux. On macOS the kernel is
reached through fusepy and macFUSE, which brings libfuse 2.

What is missing there, and what happens instead:

* no ``artifactfs run``: there are no mount namespaces;
* no native binding, no passthrough, no readahead to raise: reads go through the driver;
* no ``copy_file_range``, ``system`` or ``sync_file_range``: copies read and write, holes are not
  punched (a cache that must shrink removes whole files), write-back begins with the sync;
* no open-file-description locks: two mounts that share a cache directory each fetch for themselves;
* no ``/proc``: a writer that was killed cannot be told from one that has closed its file, and an
  unmount that fails does not name who uses the mount;
* no way to cut a connection: a driver that hangs is ended by killing it, then ``umount -f``;
* a FUSE mount has no subtype: its source is ``artifactfs:HOST``, which is how it is known.

macOS flushes a disk's own cache only if asked by F_FULLFSYNC (fcntl(2) there); its calls for
extended attributes have two more arguments, of which only 0 is of use here, and Python does not
offer them.

fallocate(2) in all its modes; Python has only the plain one (``os.posix_fallocate``).

Flags from ``include/uapi/linux/falloc.h``. Where the C library has no such call (macOS), or the
file system cannot do it, it is EOPNOTSUPP.

Directories that nobody but their owner can look into.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

LINUX: Final = sys.platform == "linux"

# What getxattr(2) says of an attribute that is not there; macOS has a number of its own, ENOATTR.
NO_ATTRIBUTE: Final = errno.ENODATA if LINUX else 93

# What statvfs(3) says of a mount whose driver is gone.
DRIVER_GONE: Final = frozenset({errno.ENOTCONN} if LINUX else {errno.ENOTCONN, errno.ENXIO})

LIBFUSE: Final = (
    "apt-get install libfuse2, or mount with --fuse native"
    if LINUX
    else "install macFUSE, which brings libfuse 2"
)

MOUNT: Final = "/sbin/mount"
UMOUNT: Final = "/sbin/umount"

_COMMAND_S = 20.0
_POLL_S = 0.01
_MOUNT_LINE = re.compile(r"(.*) on (/.*) \(([^,()]+)(?:, [^()]*)?\)")


# Files


def data_sync(descriptor: int) -> None:
    """Bring a file's bytes to the disk. Raises `OSError`."""
    if LINUX:
        os.fdatasync(descriptor)
        return
    try:
        fcntl.fcntl(descriptor, getattr(fcntl, "F_FULLFSYNC", 51))
    except OSError:  # a file system that does not know it
        os.fsync(descriptor)


def will_read_in_order(descriptor: int) -> None:
    """Tell the kernel, where one can. Raises `OSError`."""
    if LINUX:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def begin_write_back(descriptor: int, start: int, size_bytes: int) -> None:
    """Have the kernel begin to write a span, which stays in the page cache, where one can.

    Linux does so with a span that it is told to forget: it cannot forget what is not written yet.
    Raises `OSError`.
    """
    if LINUX:
        os.posix_fadvise(descriptor, start, size_bytes, os.POSIX_FADV_DONTNEED)


def allocate(descriptor: int, size_bytes: int) -> None:
    """Have an empty file take so much of the disk. Raises `OSError`."""
    if LINUX:
        os.posix_fallocate(descriptor, 0, size_bytes)
        return
    piece = bytes(1 << 20)
    for start in range(0, size_bytes, len(piece)):
        os.pwrite(descriptor, piece[: size_bytes - start], start)


def copy_range(source: int, target: int, size_bytes: int, start: int, offset: int) -> int:
    """copy_file_range(2). Raises `OSError`, ENOSYS where there is none."""
    if LINUX:
        return os.copy_file_range(source, target, size_bytes, start, offset)
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


# Extended attributes


def get_attribute(path: str | Path, name: str) -> bytes:
    """getxattr(2). Raises `OSError`."""
    if LINUX:
        return os.getxattr(path, name)
    size_bytes = _xattr("getxattr", path, name, None, 0)
    buffer = ctypes.create_string_buffer(size_bytes)
    return buffer.raw[: _xattr("getxattr", path, name, buffer, size_bytes)]


def set_attribute(path: str | Path, name: str, value: bytes) -> None:
    """setxattr(2). Raises `OSError`."""
    if LINUX:
        os.setxattr(path, name, value)
        return
    _xattr("setxattr", path, name, value, len(value))


def copy_attributes(source: int, target: int) -> None:
    """Give one open file the extended attributes of another. Raises `OSError`."""
    if not LINUX:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))


def copy_attribute(source: str | Path, target: int, name: str) -> None:
    """Give an open file an extended attribute of `source`. Raises `OSError`."""
    if not LINUX:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    os.setxattr(target, name, os.getxattr(source, name))


def _xattr(call: str, path: str | Path, name: str, value: Any, size_bytes: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    function = libc[call]
    function.restype = ctypes.c_ssize_t
    function.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_uint32,
        ctypes.c_int,
    ]
    result: int = function(os.fsencode(path), os.fsencode(name), value, size_bytes, 0, 0)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(path))
    return result


# Processes


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    if not LINUX:
        try:
            os.kill(pid, 0)
        except OSError as error:
            return error.errno == errno.EPERM
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def exit_code_of(pid: int, timeout_s: float) -> int | None:
    """The exit code of a child of ours, or None if it has not ended in time: then it is killed.

    It is not waited for then: held in a kernel it dies when the driver answers, not now.
    """
    if LINUX:
        return _exit_code_by_pidfd(pid, timeout_s)
    deadline_s = time.monotonic() + timeout_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline_s:
            os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_S)
            os.waitpid(pid, os.WNOHANG)
            return None
        time.sleep(_POLL_S)


def _exit_code_by_pidfd(pid: int, timeout_s: float) -> int | None:
    watch = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            signal.pidfd_send_signal(watch, signal.SIGKILL)
            poll.poll(200)
            os.waitpid(pid, os.WNOHANG)
            return None
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(watch)
    return os.waitstatus_to_exitcode(status)


# Mounts, where there is no /proc


def mounted() -> Iterator[tuple[str, str, str]]:
    """Each mount's place, type and source, as mount(8) of macOS lists them.

    What has a FUSE type and a source of the form ``SUBTYPE:SOURCE`` is shown as Linux would.
    """
    listed = subprocess.run(  # noqa: S603 - a program of the system
        [MOUNT], stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_S, check=False
    )
    for line in os.fsdecode(listed.stdout).splitlines():
        found = _MOUNT_LINE.fullmatch(line)
        if found is None:
            continue
        source, place, kind = found.groups()
        subtype, colon, rest = source.partition(":")
        if "fuse" in kind and colon:
            kind, source = f"fuse.{subtype}", rest
        yield place, kind, source


def unmount(place: Path, *, force: bool) -> tuple[int, str]:
    """umount(8) of macOS: an errno, 0 if it worked, and its words."""
    words = [UMOUNT, *(["-f"] if force else []), os.fspath(place)]
    try:
        done = subprocess.run(  # noqa: S603 - the path is one argument
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return errno.EIO, f"{UMOUNT}: {error}"
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode == 0:
        return 0, ""
    return (errno.EBUSY if "busy" in said.lower() else errno.EPERM), said


def macfuse_options(subtype: str, source: str) -> dict[str, Any]:
    """What macFUSE is told of a mount beside what every libfuse 2 knows."""
    return {"fsname": f"{subtype}:{source}", "volname": subtype, "noappledouble": True}


KEEP_SIZE: Final = 0x01
PUNCH_HOLE: Final = 0x02
ZERO_RANGE: Final = 0x10


def fallocate(descriptor: int, mode: int, offset: int, size_bytes: int) -> None:
    """Allocate, or give back, [offset, offset + size_bytes) of a file. Raises `OSError`."""
    call = _call()
    if call is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if call(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(size_bytes)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def _call() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    return getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)


def make_private(path: str | os.PathLike[str]) -> None:
    """Make a directory and what is missing above it, open to their owner only. Raises `OSError`."""
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102 - the cache has its paths as text
    except FileExistsError:
        if not os.path.isdir(path):  # noqa: PTH112
            raise
    except FileNotFoundError:
        above = os.path.dirname(path)  # noqa: PTH120
        if not above or above == os.fspath(path):
            raise
        make_private(above)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)  # noqa: PTH102
