"""fusepy's class, mended: between libfuse's callbacks and `operations`.

Importing this module imports fusepy, which loads libfuse 2 (or raises `OSError`), so it is imported
when a mount begins, by `binding` only.

What is mended in fusepy 3.0.1:

* **Exceptions.** fusepy's wrapper turns an `OSError` whose errno is None into a TypeError inside
  the ctypes callback, and then the reader gets a random errno or success with 0 bytes; every other
  exception becomes EINVAL with the cause lost, and SystemExit ends the mount.
  `LibfuseSession._wrapper` lets nothing pass: everything becomes the errno that `errors.errno_of`
  says and a log line by `ErrorReplies`, and where even that fails (no memory, the stack is full),
  EIO.
* **Names** are decoded strictly, so one name that is not UTF-8 breaks whatever touches it. The
  codec registered here is UTF-8 with surrogateescape, as `os.fsdecode` does it.
* **Times** lose UTIME_NOW and UTIME_OMIT on their way; here both arrive.
* `readdir` and `getattr` go through dictionaries; here the structures are filled directly.
"""

# ruff: noqa: ARG002 - the arguments are those that libfuse passes

from __future__ import annotations

import codecs
import ctypes
import errno
from collections.abc import Callable
from typing import Any

import fuse

from artifactfs.fuse.error_reply import ErrorReplies
from artifactfs.fuse.libfuse.operations import (
    NAME_MAX_BYTES,
    NameMovedOn,
    Operations,
    mode_of,
)

ENCODING = "artifactfs_names"
BLOCK_BYTES = 4096
_FREE_FILES = 1 << 30


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _codec(name: str) -> codecs.CodecInfo | None:
    if name != ENCODING:
        return None
    return codecs.CodecInfo(
        lambda text, _errors="strict": (_bytes(text), len(text)),
        lambda data, _errors="strict": (_text(bytes(data)), len(bytes(data))),
        name=ENCODING,
    )


class LibfuseLibrary:
    """The few functions of libfuse that fusepy does not offer, or not from another thread."""

    def __init__(self) -> None:
        # A library object of our own, so that no prototype of fusepy's is changed.
        self._c = ctypes.CDLL(fuse._libfuse._name)
        self._c.fuse_exit.argtypes = [ctypes.c_void_p]
        self._c.fuse_exit.restype = None
        self._c.fuse_interrupted.argtypes = []

    @property
    def version(self) -> str:
        """``2.9``."""
        return "{}.{}".format(*divmod(self._c.fuse_version(), 10))

    def session(self) -> int:
        """The session that the calling thread carries out a request of."""
        address: int = fuse._libfuse.fuse_get_context().contents.fuse
        return address

    def exit(self, session: int) -> None:
        """Mark the session as ended; it ends with its next request."""
        self._c.fuse_exit(session)

    def interrupted(self) -> bool:
        """Whether the caller of the request under way has been interrupted."""
        return bool(self._c.fuse_interrupted())

    def caller_pid(self) -> int:
        """The process, or thread, whose request is under way."""
        _, _, pid = fuse.fuse_get_context()
        return int(pid)


class LibfuseSession(fuse.FUSE):  # type: ignore[misc]  # fusepy has no types
    """One mount. Its constructor returns when the mount has ended.

    fusepy calls the methods below from libfuse's threads, each through `_wrapper`; they are named
    and shaped as ``struct fuse_operations`` (fuse.h, API 26) wants. Paths are None where a number
    is known (``flag_nopath``).
    """

    def __init__(
        self,
        operations: Operations,
        replies: ErrorReplies,
        mountpoint: str,
        begun: Callable[[], None],
        ending: Callable[[], None],
        options: dict[str, Any],
    ) -> None:
        codecs.register(_codec)
        self._ours = operations
        self._replies = replies
        self._begun = begun
        self._ending = ending
        super().__init__(
            ImplementedCallbacks(), mountpoint, raw_fi=True, encoding=ENCODING, **options
        )

    def _wrapper(self, function: Any, *arguments: Any) -> int:
        try:
            result = function(*arguments)
            return result if type(result) is int else 0
        except BaseException as error:  # noqa: BLE001 - see the module's head
            try:
                subject = arguments[0] if arguments else None
                named = _text(subject) if isinstance(subject, bytes) else ""
                return -self._replies.errno_for(function.__name__, named, error)
            except BaseException:  # noqa: BLE001
                return -errno.EIO

    # Attributes

    def getattr(self, path: bytes, buffer: Any) -> None:
        self._fill(buffer, self._ours.getattr(_text(path), None))

    def fgetattr(self, path: bytes | None, buffer: Any, info: Any) -> None:
        self._fill(buffer, self._ours.getattr(None, info.contents.fh))

    def _fill(self, buffer: Any, shown: Any) -> None:
        ctypes.memset(buffer, 0, ctypes.sizeof(fuse.c_stat))
        st = buffer.contents
        st.st_ino = shown.ino
        st.st_mode = mode_of(shown)
        st.st_nlink = shown.nlink
        st.st_uid = self._ours.owner.uid
        st.st_gid = self._ours.owner.gid
        st.st_size = shown.size_bytes
        st.st_blocks = shown.blocks
        st.st_blksize = shown.unit_bytes
        for field, time_ns in (
            (st.st_atimespec, shown.mtime_ns),
            (st.st_mtimespec, shown.mtime_ns),
            (st.st_ctimespec, shown.ctime_ns),
        ):
            field.tv_sec, field.tv_nsec = divmod(time_ns, 1_000_000_000)

    def access(self, path: bytes, wanted: int) -> None:
        self._ours.access(_text(path), wanted)

    def chmod(self, path: bytes, mode: int) -> None:
        self._ours.chmod(_text(path), mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        self._ours.chown(_text(path), _signed(uid), _signed(gid))

    def truncate(self, path: bytes, size_bytes: int) -> None:
        self._ours.truncate(_text(path), size_bytes, None)

    def ftruncate(self, path: bytes | None, size_bytes: int, info: Any) -> None:
        self._ours.truncate(None, size_bytes, info.contents.fh)

    def utimens(self, path: bytes, times: Any) -> None:
        modified = times.contents.modtime
        self._ours.utimens(_text(path), (modified.tv_sec, modified.tv_nsec))

    def readlink(self, path: bytes, buffer: Any, size_bytes: int) -> None:
        target = _bytes(self._ours.readlink(_text(path)))[: size_bytes - 1] + b"\0"
        ctypes.memmove(buffer, target, len(target))

    def statfs(self, path: bytes, buffer: Any) -> None:
        space = self._ours.statfs()
        shown = buffer.contents
        shown.f_bsize = shown.f_frsize = BLOCK_BYTES
        shown.f_blocks = space.total_bytes // BLOCK_BYTES
        shown.f_bfree = shown.f_bavail = space.free_bytes // BLOCK_BYTES
        shown.f_files = space.files + _FREE_FILES
        shown.f_ffree = shown.f_favail = _FREE_FILES
        shown.f_namemax = NAME_MAX_BYTES

    # Extended attributes

    def getxattr(
        self, path: bytes, name: bytes, buffer: Any, size_bytes: int, _position: int = 0
    ) -> int:
        value = self._ours.getxattr(_text(path), _text(name))
        return _copy_out(value, buffer, size_bytes)

    def listxattr(self, path: bytes, buffer: Any, size_bytes: int) -> int:
        names = self._ours.listxattr(_text(path))
        return _copy_out(b"".join(_bytes(name) + b"\0" for name in names), buffer, size_bytes)

    def setxattr(
        self,
        path: bytes,
        name: bytes,
        buffer: Any,
        size_bytes: int,
        flags: int,
        _position: int = 0,  # of macOS, for resource forks
    ) -> None:
        value = ctypes.string_at(buffer, size_bytes) if size_bytes else b""
        self._ours.setxattr(_text(path), _text(name), value, flags)

    def removexattr(self, path: bytes, name: bytes) -> None:
        self._ours.removexattr(_text(path), _text(name))

    # Directories

    def opendir(self, path: bytes, info: Any) -> None:
        info.contents.fh = self._ours.opendir(_text(path))

    def readdir(self, path: bytes | None, buffer: Any, fill: Any, offset: int, info: Any) -> None:
        st = fuse.c_stat()
        for name, ino, kind in self._ours.readdir(info.contents.fh):
            st.st_ino = ino
            st.st_mode = kind
            if fill(buffer, _bytes(name), st, 0):
                raise MemoryError("libfuse could not take the directory's next entry")

    def releasedir(self, path: bytes | None, info: Any) -> None:
        self._ours.releasedir(info.contents.fh)

    def fsyncdir(self, path: bytes | None, data_only: int, info: Any) -> None:
        self._ours.fsyncdir(info.contents.fh)

    def mkdir(self, path: bytes, mode: int) -> None:
        self._ours.mkdir(_text(path), mode)

    def rmdir(self, path: bytes) -> None:
        self._ours.rmdir(_text(path))

    def unlink(self, path: bytes) -> None:
        self._ours.unlink(_text(path))

    def rename(self, old: bytes, new: bytes) -> None:
        self._ours.rename(_text(old), _text(new))

    def symlink(self, target: bytes, path: bytes) -> None:
        self._ours.no_special_files(_text(path))

    def link(self, target: bytes, path: bytes) -> None:
        self._ours.no_special_files(_text(path))

    # Files

    def mknod(self, path: bytes, mode: int, device: int) -> None:
        del device
        self._ours.mknod(_text(path), mode)

    def open(self, path: bytes, info: Any) -> int:
        try:
            self._opened(info, self._ours.open(_text(path), info.contents.flags))
        except NameMovedOn:
            return -errno.ESTALE
        return 0

    def create(self, path: bytes, mode: int, info: Any) -> None:
        self._opened(info, self._ours.create(_text(path), mode, info.contents.flags))

    @staticmethod
    def _opened(info: Any, opened: Any) -> None:
        told = info.contents
        told.fh = opened.number
        told.direct_io = opened.direct_io
        told.keep_cache = opened.keep_cache

    def read(self, path: bytes | None, buffer: Any, size_bytes: int, offset: int, info: Any) -> int:
        data = self._ours.read(info.contents.fh, offset, offset + size_bytes)
        ctypes.memmove(buffer, bytes(data), len(data))
        return len(data)

    def write(
        self, path: bytes | None, buffer: Any, size_bytes: int, offset: int, info: Any
    ) -> int:
        told = info.contents
        data = ctypes.string_at(buffer, size_bytes)
        return self._ours.write(told.fh, offset, data, written_back=bool(told.writepage))

    def flush(self, path: bytes | None, info: Any) -> None:
        self._ours.flush(info.contents.fh)

    def fsync(self, path: bytes | None, data_only: int, info: Any) -> None:
        self._ours.fsync(info.contents.fh)

    def release(self, path: bytes | None, info: Any) -> None:
        self._ours.release(info.contents.fh)

    def ioctl(self, *arguments: Any) -> int:
        return -errno.ENOTTY

    def init(self, connection: Any) -> None:
        self._begun()

    def destroy(self, private_data: Any) -> None:
        self._ending()


_OPERATIONS = """
access chmod chown create destroy flush fsync fsyncdir getattr getxattr init ioctl link listxattr
mkdir mknod open opendir read readdir readlink release releasedir removexattr rename rmdir setxattr
statfs symlink truncate unlink utimens write
"""


class ImplementedCallbacks:
    """What fusepy asks to learn which operations there are: it looks names up, and calls none.

    Locks are missing on purpose: the kernel keeps them itself then.
    """

    use_ns = True
    flag_nullpath_ok = 1
    flag_nopath = 1
    flag_utime_omit_ok = 1


for _operation in _OPERATIONS.split():
    setattr(ImplementedCallbacks, _operation, True)


def _signed(number: int) -> int:
    """An id as chown(2) knows it: all bits set means "as it was"."""
    return -1 if number == 0xFFFFFFFF else number


def _copy_out(value: bytes, buffer: Any, size_bytes: int) -> int:
    """Copy an extended attribute to the caller, or tell how long it is where it asks that."""
    if not size_bytes:
        return len(value)
    if len(value) > size_bytes:
        raise OSError(errno.ERANGE, "the caller's buffer is too small")
    ctypes.memmove(buffer, value, len(value))
    return len(value)
