"""``drop/``: the outbox as a directory that can be written.

All knowledge lies in the outbox (``drop.Outbox``), which goes by paths; the kernel goes by nodes
and keeps them while files are renamed, and while whole directories are. So a node does not know its
path but its *place*: the directory node it is in, and its name there. There is one node per entry
for as long as anybody holds it (`DropContext.node`), a rename moves that node to its new place, and
what lies below it follows by itself. A node whose place means another entry by now, because its own
was removed or replaced, is *detached*: its open handles go on working, it has no name, and nothing
is changed by its path any more.

Names and attributes do not live in the kernel's memory (lifetime 0): states change by themselves,
and an entry leaves without that the kernel must be told. But pages
do: all writes come through this kernel, so that its pages are right, and programs can map a file
that they write (``numpy.memmap``), which direct I/O would refuse them.

A directory shows one link, as btrfs does: "do not count my sub-directories by it".
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping, Sequence
from weakref import WeakValueDictionary

from artifactfs.vfs import interfaces, xattrs
from artifactfs.vfs.filenames import joined, parted
from artifactfs.vfs.inode_numbers import (
    SameByNumber,
    drop_ino,
    fixed_ino,
)
from artifactfs.vfs.node import (
    AttributeChange,
    Attributes,
    Directory,
    DirectoryEntry,
    File,
    Handle,
    Kind,
    Node,
    read_only,
)
from artifactfs.vfs.xattrs import Commands

DROP = "drop"

_BLOCK_BYTES = 512
_UNIT_BYTES = 1 << 20  # what the kernel hands over by one request at most


class DropContext:
    """All nodes of the outbox. `_lock` guards which are alive, and the open files of each."""

    def __init__(self, outbox: interfaces.OutboxView, given: Commands) -> None:
        self.outbox = outbox
        self.commands = given
        self._lock = threading.Lock()
        self._alive: WeakValueDictionary[int, DropNode] = WeakValueDictionary()
        self.root = DropDirectory(self, fixed_ino(DROP), None, "")

    def node(
        self,
        found: interfaces.EntryStatus | interfaces.DirectoryView,
        parent: DropDirectory,
        name: str,
    ) -> DropFile | DropDirectory:
        """The one node of this entry, at the place where it was just found."""
        is_file = interfaces.is_file(found)
        ino = drop_ino(found.id, is_folder=not is_file)
        with self._lock:
            node = self._alive.get(ino)
            if not isinstance(node, DropFile | DropDirectory):
                kind = DropFile if is_file else DropDirectory
                node = self._alive[ino] = kind(self, ino, parent, name)
            elif node.place != (parent, name):
                self._move(node, parent, name)
        return node

    def _move(self, node: DropNode, parent: DropDirectory, name: str) -> None:
        """Place `node` where it was found, unless a rename was quicker than who found it."""
        before, node.place = node.place, (parent, name)
        if node.found() is None:
            node.place = before

    def opened(self, node: DropFile, file: interfaces.OutboxFileView) -> DropHandle:
        """An open file of `node`, which knows it from now on."""
        handle = DropHandle(self, node, file)
        with self._lock:
            node.handles = (*node.handles, handle)
        return handle

    def released(self, node: DropFile, handle: DropHandle) -> None:
        """The opposite of `opened`."""
        with self._lock:
            node.handles = tuple(one for one in node.handles if one is not handle)


class DropNode(SameByNumber):
    """What files and directories in ``drop/`` have in common: one number, and a place."""

    __slots__ = ("__weakref__", "_drop", "ino", "place")

    ino: int

    def __init__(
        self, drop: DropContext, ino: int, parent: DropDirectory | None, name: str
    ) -> None:
        self._drop = drop
        self.ino = ino
        self.place = (parent, name)

    @property
    def path(self) -> str:
        """Where it is, if it is not detached."""
        parent, name = self.place
        return joined(parent.path, name) if parent is not None else ""

    def found(self) -> interfaces.EntryStatus | interfaces.DirectoryView | None:
        """The entry itself, or None if this node is detached."""
        found = self._drop.outbox.find(self.path)
        if found is None or self.place[0] is None:
            return found
        ino = drop_ino(found.id, is_folder=not interfaces.is_file(found))
        return found if ino == self.ino else None

    def path_for_change(self) -> str:
        """The path to change the entry by. Raises `OSError` ESTALE if it is detached."""
        if self.found() is None:
            raise _stale()
        return self.path

    def retry(self, value: bytes) -> None:
        """Order that what failed or was interrupted here is queued. Raises `OSError` ESTALE."""
        self.path_for_change()
        self._drop.commands.orders.give(
            value, lambda: self._drop.outbox.retry(self.path_for_change() or None)
        )


class DropDirectory(DropNode, Directory):
    """``drop/`` or a directory in it."""

    __slots__ = ()

    def attributes(self) -> Attributes:
        found = self.found()
        if found is None:
            return Attributes(self.ino, Kind.DIRECTORY, 0o755, 0, 0, 0, 0)
        mode = found.mode & 0o7777 if self.place[0] is not None else 0o755
        return Attributes(self.ino, Kind.DIRECTORY, mode, 0, 1, found.mtime_ns, found.ctime_ns)

    def find(self, name: str) -> Node | None:
        if self.found() is None:
            return None
        found = self._drop.outbox.find(joined(self.path, name))
        return self._drop.node(found, self, name) if found is not None else None

    def entries(self) -> Sequence[DirectoryEntry]:
        if self.found() is None:
            return ()
        named = ((parted(one.path)[1], one) for one in self._drop.outbox.children(self.path))
        return [DirectoryEntry(name, self._drop.node(one, self, name)) for name, one in named]

    @property
    def listing_version(self) -> int:
        return self._drop.outbox.version

    def create(self, name: str, flags: int, mode: int) -> tuple[File, Handle]:
        path = self._inside(name)
        try:
            file = self._drop.outbox.create(path, mode, exclusive=True)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            node = self.find(name)
            if not isinstance(node, DropFile):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
            return node, node.open(flags)
        node = self._drop.node(file.entry, self, name)
        assert isinstance(node, DropFile)
        return node, self._drop.opened(node, file)

    def make_directory(self, name: str, mode: int) -> Directory:
        node = self._drop.node(self._drop.outbox.make_folder(self._inside(name), mode), self, name)
        assert isinstance(node, DropDirectory)
        return node

    def unlink(self, name: str) -> None:
        self._drop.outbox.unlink(self._inside(name))

    def remove_directory(self, name: str) -> None:
        self._drop.outbox.remove_folder(self._inside(name))

    def rename(self, name: str, target: Directory, target_name: str, flags: int) -> None:
        if not isinstance(target, DropDirectory):
            read_only()
        self._drop.outbox.rename(self._inside(name), target._inside(target_name), flags)
        target.find(target_name)  # which moves the node, if anybody holds it

    def change(self, change: AttributeChange) -> None:
        path = self.path_for_change()
        if path:
            self._drop.outbox.change(path, mode=change.mode, mtime_ns=change.mtime_ns)

    def sync(self) -> None:
        self._drop.outbox.sync()

    def set_xattr(self, name: str, value: bytes) -> None:
        if name == xattrs.REFRESH:
            self._drop.commands.refresh(value)
        elif name == xattrs.RETRY:
            self.retry(value)
        else:
            raise xattrs.not_kept(name)

    def _inside(self, name: str) -> str:
        """The path of `name` in here. Raises `OSError` ENOENT if this directory was removed."""
        if self.found() is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return joined(self.path, name)


class DropFile(DropNode, File):
    """A file in ``drop/``."""

    __slots__ = ("handles",)

    def __init__(
        self, drop: DropContext, ino: int, parent: DropDirectory | None, name: str
    ) -> None:
        super().__init__(drop, ino, parent, name)
        self.handles: tuple[DropHandle, ...] = ()

    def attributes(self) -> Attributes:
        found = self.found()
        if found is not None and interfaces.is_file(found):
            return self._shown(found, 1)
        handles = self.handles
        if not handles:
            raise _stale()
        return self._shown(handles[-1].entry, 0)

    def xattrs(self) -> Mapping[str, bytes]:
        found = self.found()
        return xattrs.of_entry(found) if found is not None and interfaces.is_file(found) else {}

    def set_xattr(self, name: str, value: bytes) -> None:
        if name != xattrs.RETRY:
            raise xattrs.not_kept(name)
        self.retry(value)

    def change(self, change: AttributeChange) -> None:
        handles = self.handles
        if self.found() is None and handles:
            if change.size_bytes is not None:
                handles[-1].truncate(change.size_bytes)
            return
        self._drop.outbox.change(
            self.path_for_change(),
            mode=change.mode,
            mtime_ns=change.mtime_ns,
            size_bytes=change.size_bytes,
        )

    def open(self, flags: int) -> Handle:
        return self._drop.opened(self, self._drop.outbox.open(self.path_for_change(), flags))

    def _shown(self, entry: interfaces.EntryStatus, nlink: int) -> Attributes:
        return Attributes(
            self.ino,
            Kind.FILE,
            entry.mode & 0o7777,
            entry.size_bytes,
            nlink,
            entry.mtime_ns,
            entry.ctime_ns,
            -(-entry.size_bytes // _BLOCK_BYTES),
            _UNIT_BYTES,
        )


class DropHandle(Handle):
    """An open file in ``drop/``; it goes with its entry, wherever that is renamed to."""

    __slots__ = ("_drop", "_file", "_node")

    def __init__(self, drop: DropContext, node: DropFile, file: interfaces.OutboxFileView) -> None:
        self._drop = drop
        self._node = node
        self._file = file

    @property
    def entry(self) -> interfaces.EntryStatus:
        """The entry as it is now."""
        return self._file.entry

    @property
    def write_is_quick(self) -> bool:
        return self._file.is_ready

    def read(self, start: int, stop: int) -> bytes:
        return self._file.read(start, stop)

    def write(self, offset: int, data: bytes | memoryview) -> int:
        return self._file.write(offset, data)

    def truncate(self, size_bytes: int) -> None:
        self._file.truncate(size_bytes)

    def copy_fd(self) -> int | None:
        return self._file.resting_descriptor

    def copy_in(self, source: int, start: int, offset: int, size_bytes: int) -> int:
        return self._file.copy_in(source, start, offset, size_bytes)

    def allocate(self, mode: int, offset: int, size_bytes: int) -> None:
        self._file.allocate(mode, offset, size_bytes)

    def seek(self, offset: int, whence: int) -> int:
        return self._file.seek(offset, whence)

    def written_by(self, caller_pid: int) -> None:
        self._file.written_by(caller_pid)

    def opened_by(self, caller_pid: int) -> None:
        self._file.opened_by(caller_pid)

    def written_back(self) -> None:
        self._file.written_back()

    def flush(self, caller_pid: int) -> None:
        self._file.flush(caller_pid)

    @property
    def settles(self) -> bool:
        return self._file.settles

    def settle(self) -> None:
        self._file.settle()

    def fsync(self) -> None:
        self._file.fsync()

    def release(self) -> None:
        self._drop.released(self._node, self)
        self._file.release()


def _stale() -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))
