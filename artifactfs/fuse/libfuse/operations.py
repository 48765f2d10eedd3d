"""The operations of a file system by path, carried out on the tree's nodes.

This is what `binding` gives to fusepy. A path is walked from the root by `Directory.find`;
where a name is not known and the directory may know more, `look_up` asks, which may wait: each
request of the kernel has a libfuse thread of its own, so whoever waits holds up nobody else. What
may wait is carried out by yet another thread (`Operations._wait_for`), so that a caller who is
killed can be freed. What
is open is found by number (`open_files`).

Everything here raises: `OSError` with the errno a local file system would give, or what the tree
raised. `callbacks` catches all of it, so nothing here translates errors.

libfuse 2 speaks protocol 7.19. It knows no flags for rename, no fallocate and no SEEK_HOLE; the
kernel answers these itself (EINVAL, EOPNOTSUPP, and "all data"). Time-outs are the same for all
nodes, so names have none: the kernel asks each time, and nothing needs to be notified. Pages of
content that never changes are kept nevertheless.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, NoReturn, TypeVar

from artifactfs.byte_range import ByteRange
from artifactfs.caller import UNSEEN_S, CallerIntent
from artifactfs.errors import Cancelled
from artifactfs.fuse.error_reply import ErrorReplies
from artifactfs.fuse.libfuse.open_files import (
    NodePin,
    OpenFiles,
    PathOpenFile,
    hides,
    is_hidden_name,
)
from artifactfs.fuse.native.worker_pools import WorkerPool
from artifactfs.system import NO_ATTRIBUTE
from artifactfs.vfs.node import (
    AttributeChange,
    Attributes,
    Directory,
    File,
    FilesystemSpace,
    Handle,
    Kind,
    Link,
    Node,
    Tree,
)

LOOK_AGAIN_S = 0.05
WAITING_THREADS = 512
NAME_MAX_BYTES = 255
_UTIME_NOW = (1 << 30) - 1
_UTIME_OMIT = (1 << 30) - 2
_XATTR_CREATE = 1
_XATTR_REPLACE = 2
_KINDS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.LINK: stat.S_IFLNK}

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeOwner:
    """Who owns every file."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class OpenedNode:
    """What the kernel is told of an open file."""

    number: int
    direct_io: bool
    keep_cache: bool


def type_bits(node: Node) -> int:
    """The file type of `node` as in ``st_mode``, without asking for its attributes."""
    if isinstance(node, Directory):
        return stat.S_IFDIR
    return stat.S_IFLNK if isinstance(node, Link) else stat.S_IFREG


def mode_of(attributes: Attributes) -> int:
    """``st_mode``: type and permissions."""
    return _KINDS[attributes.kind] | stat.S_IMODE(attributes.mode)


def refuse(number: int) -> NoReturn:
    """Raise the `OSError` of this errno."""
    raise OSError(number, os.strerror(number))


class NameMovedOn(Exception):
    """A name got another meaning between the kernel's look-up and its open.

    The kernel would read the new file with the old one's size. Told ESTALE, it looks the name up
    again and then opens again, by itself (path_openat with LOOKUP_REVAL).
    """


class Operations:
    """One mount's operations. `OpenFiles` owns the only state; `stopping` ends all waiting.

    `wish` says what the caller wants whose request the calling thread carries out, `caller_pid` who
    it is.
    """

    def __init__(
        self,
        tree: Tree,
        owner: NodeOwner,
        replies: ErrorReplies,
        *,
        wish: Callable[[], CallerIntent],
        caller_pid: Callable[[], int],
    ) -> None:
        self.owner = owner
        self.stopping = threading.Event()
        self._tree = tree
        self._replies = replies
        self._wish = wish
        self._caller_pid = caller_pid
        self._open = OpenFiles()
        self._waiting = WorkerPool("fuse-waiting", WAITING_THREADS)

    # Paths

    def find(self, path: str) -> Node:
        """The node at `path`. Raises ENOENT, ENOTDIR. May wait."""
        pinned = self._open.meaning(path)
        if pinned is not None:
            return pinned
        node: Node = self._tree.root
        for name in _names(path):
            if not isinstance(node, Directory):
                refuse(errno.ENOTDIR)
            _check_length(name)
            found = node.find(name)
            if found is None and node.may_know_more:
                found = self._wait_for(partial(node.look_up, name))
            if found is None:
                refuse(errno.ENOENT)
            node = found
        return node

    def find_directory(self, path: str) -> Directory:
        """The directory at `path`. Raises ENOENT, ENOTDIR."""
        node = self.find(path)
        if not isinstance(node, Directory):
            refuse(errno.ENOTDIR)
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        above, _, name = path.rpartition("/")
        _check_length(name)
        return self.find_directory(above), name

    # Attributes

    def getattr(self, path: str | None, number: int | None) -> Attributes:
        """What stat(2) shows, of an open file by its number."""
        if number is not None:
            return self._open.get(number).node.attributes()
        assert path is not None
        node = self.find(path)
        attributes = node.attributes()
        if isinstance(node, File):
            self._open.shown(path, node.ino)
        return attributes

    def access(self, path: str, wanted: int) -> None:
        """access(2), which the kernel asks where it does not check permissions itself."""
        mode = self.find(path).attributes().mode
        if wanted & os.W_OK and not mode & 0o222:
            refuse(errno.EROFS)
        if wanted & os.X_OK and not mode & 0o111:
            refuse(errno.EACCES)

    def chmod(self, path: str, mode: int) -> None:
        """chmod(2)."""
        self.find(path).change(AttributeChange(mode=stat.S_IMODE(mode)))

    def chown(self, path: str, uid: int, gid: int) -> None:
        """chown(2): to the owner it has is fine, anything else is not."""
        self.find(path)
        if uid not in (-1, self.owner.uid) or gid not in (-1, self.owner.gid):
            refuse(errno.EPERM)

    def truncate(self, path: str | None, size_bytes: int, number: int | None) -> None:
        """truncate(2), or ftruncate(2) of an open file."""
        if number is not None:
            handle = self._open.get(number).handle
            handle.written_by(self._caller_pid())
            handle.truncate(size_bytes)
            return
        assert path is not None
        node = self.find(path)
        if isinstance(node, Directory):
            refuse(errno.EISDIR)
        node.change(AttributeChange(size_bytes=size_bytes))

    def utimens(self, path: str, modified: tuple[int, int]) -> None:
        """utimensat(2). `modified`: seconds and nanoseconds, or one of its special values."""
        seconds, nanoseconds = modified
        mtime_ns: int | None = seconds * 1_000_000_000 + nanoseconds
        if nanoseconds == _UTIME_NOW:
            mtime_ns = time.time_ns()
        elif nanoseconds == _UTIME_OMIT:
            mtime_ns = None
        self.find(path).change(AttributeChange(mtime_ns=mtime_ns))

    def readlink(self, path: str) -> str:
        """readlink(2)."""
        node = self.find(path)
        if not isinstance(node, Link):
            refuse(errno.EINVAL)
        return node.target()

    def statfs(self) -> FilesystemSpace:
        """statfs(2)."""
        return self._tree.space()

    # Extended attributes

    def getxattr(self, path: str, name: str) -> bytes:
        """getxattr(2)."""
        value = self._xattrs(path).get(name)
        if value is None:
            refuse(NO_ATTRIBUTE)
        return bytes(value)

    def listxattr(self, path: str) -> list[str]:
        """listxattr(2)."""
        return list(self._xattrs(path))

    def _xattrs(self, path: str) -> Mapping[str, bytes]:
        node = self.find(path)
        if not node.knows_xattrs:
            self._wait_for(node.learn_xattrs)
        return node.xattrs()

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """setxattr(2)."""
        node = self.find(path)
        if flags & (_XATTR_CREATE | _XATTR_REPLACE):
            there = name in node.xattrs()
            if flags & _XATTR_CREATE and there:
                refuse(errno.EEXIST)
            if flags & _XATTR_REPLACE and not there:
                refuse(NO_ATTRIBUTE)
        node.set_xattr(name, value)

    def removexattr(self, path: str, name: str) -> None:
        """removexattr(2): none can be removed."""
        refuse(errno.EOPNOTSUPP if name in self.find(path).xattrs() else NO_ATTRIBUTE)

    # Directories

    def opendir(self, path: str) -> int:
        """A number for the directory, whose entries are as new as promised."""
        directory = self.find_directory(path)
        if not directory.is_fresh():
            self._wait_for(directory.freshen)
        above = path.rpartition("/")[0]
        parent_ino = self.find(above).ino if path != "/" else directory.ino
        return self._open.add_directory(directory, parent_ino)

    def readdir(self, number: int) -> Iterator[tuple[str, int, int]]:
        """Name, inode number and type bits of each entry."""
        opened = self._open.get_directory(number)
        yield ".", opened.directory.ino, stat.S_IFDIR
        yield "..", opened.parent_ino, stat.S_IFDIR
        for entry in opened.directory.entries():
            if "/" in entry.name or "\0" in entry.name:
                # The kernel would refuse the whole listing for it.
                _log.warning("not a name, not listed: %r", entry.name)
                continue
            yield entry.name, entry.node.ino, type_bits(entry.node)

    def releasedir(self, number: int) -> None:
        """The directory is closed."""
        self._open.remove_directory(number)

    def fsyncdir(self, number: int) -> None:
        """fsync(2) of a directory."""
        self._open.get_directory(number).directory.sync()

    def mkdir(self, path: str, mode: int) -> None:
        """mkdir(2)."""
        parent, name = self._parent(path)
        parent.make_directory(name, stat.S_IMODE(mode))

    def rmdir(self, path: str) -> None:
        """rmdir(2)."""
        parent, name = self._parent(path)
        parent.remove_directory(name)

    def unlink(self, path: str) -> None:
        """unlink(2)."""
        parent, name = self._parent(path)
        if is_hidden_name(name) and parent.find(name) is None:
            # The last one closed what `rename` has unlinked: the tree has forgotten it long since.
            self._open.reveal(path)
            return
        parent.unlink(name)

    def rename(self, old: str, new: str) -> None:
        """rename(2); also how libfuse unlinks a file that is open."""
        parent, name = self._parent(old)
        if hides(old, new):
            parent.unlink(name)
            self._open.hide(old, new)
            return
        target, target_name = self._parent(new)
        parent.rename(name, target, target_name, 0)
        self._open.renamed(old, new)

    def no_special_files(self, path: str) -> NoReturn:
        """symlink(2), link(2), mknod(2) of a device: no directory has these."""
        parent, _ = self._parent(path)
        refuse(errno.EPERM if parent.attributes().mode & 0o222 else errno.EROFS)

    # Files

    def open(self, path: str, flags: int) -> OpenedNode:
        """open(2) of a file that is there. Raises `NameMovedOn`: the kernel shall try again."""
        pin = self._open.claim(path, self.find(path))
        try:
            if self._open.was_shown_as_another(path, pin.node.ino):
                raise NameMovedOn
            if not isinstance(pin.node, File):
                refuse(errno.EISDIR if isinstance(pin.node, Directory) else errno.ELOOP)
            if _is_local(pin.node, flags):
                handle = pin.node.open(flags)
                if flags & os.O_TRUNC:
                    handle.written_by(self._caller_pid())
                else:
                    handle.opened_by(self._caller_pid())
            else:
                handle = self._wait_for(
                    partial(pin.node.open, flags), undo=lambda late: late.release()
                )
        except BaseException:
            self._open.unclaim(pin)
            raise
        return self._opened(pin, handle)

    def create(self, path: str, mode: int, flags: int) -> OpenedNode:
        """open(2) with O_CREAT of a file that is not there."""
        parent, name = self._parent(path)
        file, handle = parent.create(name, flags, stat.S_IMODE(mode))
        handle.written_by(self._caller_pid())
        return self._opened(self._open.claim_new(path, file), handle)

    def _opened(self, pin: NodePin, handle: Handle) -> OpenedNode:
        try:
            direct_io = handle.direct_io
            keeps = not direct_io and handle.keep_cache
        except BaseException:
            self._open.unclaim(pin)
            handle.release()
            raise
        number, keep_cache = self._open.add(pin, handle, uncached=direct_io, keeps=keeps)
        return OpenedNode(number, direct_io, keep_cache)

    def mknod(self, path: str, mode: int) -> None:
        """mknod(2) of a regular file: made and closed, empty."""
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            self.no_special_files(path)
        parent, name = self._parent(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        _, handle = parent.create(name, flags, stat.S_IMODE(mode))
        try:
            handle.fsync()  # not `flush`, which may wait for the upload
        finally:
            handle.release()

    def read(self, number: int, start: int, stop: int) -> bytes:
        """The bytes [start, stop), fewer only at the end. Waits for them."""
        opened = self._open.get(number)
        data = opened.handle.try_read(start, stop)
        if data is None:
            is_local = _is_local(opened.pin.node, os.O_RDONLY)
            data = self._wait_and_read(opened.handle, start, stop, is_local=is_local)
        return data if len(data) <= stop - start else data[: stop - start]

    def _wait_and_read(self, handle: Handle, start: int, stop: int, *, is_local: bool) -> bytes:
        arrived = threading.Event()
        outcome: list[BaseException | None] = []

        def done(error: BaseException | None) -> None:
            outcome.append(error)
            arrived.set()

        caller = _Caller(self._wish)
        ticket = handle.request(ByteRange(start, stop), done)
        if ticket is None:
            act = partial(handle.read, start, stop)
            return act() if is_local else self._wait_for(act)
        while not arrived.wait(LOOK_AGAIN_S):
            if self.stopping.is_set() or caller.wants_to_stop():
                ticket.cancel()
                raise _given_up()
        if outcome[0] is not None:
            raise outcome[0]
        return handle.read(start, stop)

    def _wait_for(self, act: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """Return what `act` does, which may wait for the network.

        It is carried out by another thread, so that its caller can be freed: a process that is
        killed stays until its request is answered. What comes too late is taken back by `undo`.
        """
        caller, outcome = _Caller(self._wish), _Outcome(act, undo)
        if not self._waiting.submit(outcome.carry_out):
            raise _given_up()
        while not outcome.ended.wait(LOOK_AGAIN_S):
            if self.stopping.is_set() or caller.wants_to_stop():
                outcome.give_up()
                raise _given_up()
        return outcome.result()

    def write(self, number: int, offset: int, data: bytes, *, written_back: bool = False) -> int:
        """How many bytes were written. `written_back`: pages of a mapping, by the kernel."""
        handle = self._open.get(number).handle
        if written_back:
            handle.written_back()
        else:
            handle.written_by(self._caller_pid())
        return min(handle.write(offset, data), len(data))

    def flush(self, number: int) -> None:
        """close(2) of one descriptor."""
        handle = self._open.get(number).handle
        handle.flush(self._caller_pid())
        if handle.settles:
            self._wait_for(handle.settle)

    def fsync(self, number: int) -> None:
        """fsync(2)."""
        self._open.get(number).handle.fsync()

    def release(self, number: int) -> None:
        """The last descriptor is closed."""
        self._open.remove(number).handle.release()

    def close(self, timeout_s: float) -> None:
        """End the threads that wait for others' callers, for at most `timeout_s`."""
        self._waiting.close(timeout_s)

    def release_all(self) -> None:
        """The mount has ended: nothing is open any more."""
        for opened in self._open.remove_all():
            self._release(opened)

    def _release(self, opened: PathOpenFile) -> None:
        self._replies.answer("release", opened.pin.path, opened.handle.release)


class _Caller:
    """Who waits for one request. Used by one thread."""

    def __init__(self, wish: Callable[[], CallerIntent]) -> None:
        self._wish = wish
        self._unseen_s: float | None = None

    def wants_to_stop(self) -> bool:
        """Whether the request is to be given up; see ``patience``."""
        wish = self._wish()
        if wish is not CallerIntent.UNKNOWN:
            return wish is CallerIntent.STOP
        now_s = time.monotonic()
        if self._unseen_s is None:
            self._unseen_s = now_s
        return now_s - self._unseen_s >= UNSEEN_S


class _Outcome(Generic[T]):
    """What one `act` on another thread came to. `_lock` guards `_given_up`."""

    def __init__(self, act: Callable[[], T], undo: Callable[[T], object] | None) -> None:
        self.ended = threading.Event()
        self._act = act
        self._undo = undo
        self._lock = threading.Lock()
        self._given_up = False
        self._results: list[T] = []
        self._failure: BaseException | None = None

    def carry_out(self) -> None:
        """Do it, unless it was given up before. Raises nothing."""
        with self._lock:
            if self._given_up:
                return
        try:
            result = self._act()
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._failure = error
        else:
            self._take(result)
        self.ended.set()

    def _take(self, result: T) -> None:
        with self._lock:
            late = self._given_up
            if not late:
                self._results.append(result)
        if late and self._undo is not None:
            self._undo(result)

    def give_up(self) -> None:
        """Have the result taken back: now, or when it comes."""
        with self._lock:
            self._given_up = True
            results = list(self._results)
        if self._undo is not None:
            for result in results:
                self._undo(result)

    def result(self) -> T:
        """What it came to, once it has `ended`. Raises what it raised."""
        if self._failure is not None:
            raise self._failure
        return self._results[0]


def _given_up() -> Cancelled:
    return Cancelled("the caller was interrupted, or the mount ends")


def _is_local(node: Node, flags: int) -> bool:
    """Whether to open it with these flags, or to read it, is work on the local disk only."""
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(node.attributes().mode & 0o222)


def _check_length(name: str) -> None:
    """The kernel lets names of up to 1024 bytes pass."""
    if len(name) > NAME_MAX_BYTES // 4 and len(os.fsencode(name)) > NAME_MAX_BYTES:
        refuse(errno.ENAMETOOLONG)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]
