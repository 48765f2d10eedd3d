"""The memory tree's writable part: files and folders with the errnos of a local file system."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from artifactfs.vfs.node import (
    AttributeChange,
    Attributes,
    Directory,
    File,
    Handle,
    Kind,
    Node,
)
from tests.fuse.memory_nodes import MemoryDirectory, MemoryNode, refuse

if TYPE_CHECKING:
    from tests.fuse.memory_tree import MemoryTree

RENAME_NOREPLACE = 1


class DropFile(MemoryNode, File):
    """A writable file. Its bytes and counts are guarded by the tree's lock."""

    def __init__(self, tree: MemoryTree, mode: int) -> None:
        super().__init__(tree)
        self.mode = mode & 0o7777
        self.content = bytearray()
        self.handles = 0

    def attributes(self) -> Attributes:
        with self.tree.lock:
            return self.shown(Kind.FILE, len(self.content))

    def change(self, change: AttributeChange) -> None:
        with self.tree.lock:
            if change.mode is not None:
                self.mode = change.mode & 0o7777
            if change.mtime_ns is not None:
                self.mtime_ns = change.mtime_ns
            if change.size_bytes is not None:
                self.resize(change.size_bytes)

    def resize(self, size_bytes: int) -> None:
        """Cut or extend; the caller holds the lock."""
        del self.content[size_bytes:]
        self.content.extend(bytes(size_bytes - len(self.content)))

    def open(self, flags: int) -> Handle:
        with self.tree.lock:
            if flags & os.O_TRUNC:
                self.resize(0)
            self.handles += 1
        return DropHandle(self, flags)


class DropHandle(Handle):
    def __init__(self, file: DropFile, flags: int) -> None:
        self.file = file
        self.tree = file.tree
        self.writable = flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def direct_io(self) -> bool:
        return True

    def try_read(self, start: int, stop: int) -> bytes | None:
        return self.read(start, stop)

    def read(self, start: int, stop: int) -> bytes:
        with self.tree.lock:
            return bytes(self.file.content[start:stop])

    def _check_writable(self) -> None:
        if not self.writable:
            raise refuse(errno.EBADF)

    def write(self, offset: int, data: bytes | memoryview) -> int:
        self._check_writable()
        with self.tree.lock:
            content = self.file.content
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
            self.file.mtime_ns += 1
        return len(data)

    def truncate(self, size_bytes: int) -> None:
        self._check_writable()
        with self.tree.lock:
            self.file.resize(size_bytes)

    def allocate(self, mode: int, offset: int, size_bytes: int) -> None:
        self._check_writable()
        if mode != 0:
            raise refuse(errno.EOPNOTSUPP)
        with self.tree.lock:
            self.file.resize(max(len(self.file.content), offset + size_bytes))

    def seek(self, offset: int, whence: int) -> int:
        with self.tree.lock:
            size_bytes = len(self.file.content)
        if offset >= size_bytes:
            raise refuse(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else size_bytes

    def release(self) -> None:
        with self.tree.lock:
            self.file.handles -= 1


class DropDirectory(MemoryDirectory):
    """A writable directory with the errnos of a local file system."""

    def __init__(self, tree: MemoryTree, mode: int = 0o755) -> None:
        super().__init__(tree)
        self.mode = mode & 0o7777
        self.synced = 0

    @property
    def lifetime_s(self) -> float:
        return 0.0

    def change(self, change: AttributeChange) -> None:
        if change.size_bytes is not None:
            raise refuse(errno.EISDIR)
        if change.mode is not None:
            self.mode = change.mode & 0o7777
        if change.mtime_ns is not None:
            self.mtime_ns = change.mtime_ns

    def create(self, name: str, flags: int, mode: int) -> tuple[File, Handle]:
        with self.tree.lock:
            there = self.children.get(name)
            if there is None:
                there = DropFile(self.tree, mode)
                self.children[name] = there
                self.version += 1
            elif flags & os.O_EXCL:
                raise refuse(errno.EEXIST)
        if not isinstance(there, DropFile):
            raise refuse(errno.EISDIR)
        return there, there.open(flags)

    def make_directory(self, name: str, mode: int) -> Directory:
        with self.tree.lock:
            if name in self.children:
                raise refuse(errno.EEXIST)
            made = DropDirectory(self.tree, mode)
            self.children[name] = made
            self.version += 1
        return made

    def _child(self, name: str) -> Node:
        if name not in self.children:
            raise refuse(errno.ENOENT)
        return self.children[name]

    def unlink(self, name: str) -> None:
        with self.tree.lock:
            child = self._child(name)
            if not isinstance(child, DropFile):
                raise refuse(errno.EISDIR)
            child.nlink = 0
            del self.children[name]
            self.version += 1

    def remove_directory(self, name: str) -> None:
        with self.tree.lock:
            child = self._child(name)
            if not isinstance(child, DropDirectory):
                raise refuse(errno.ENOTDIR)
            if child.children:
                raise refuse(errno.ENOTEMPTY)
            del self.children[name]
            self.version += 1

    def rename(self, name: str, target: Directory, target_name: str, flags: int) -> None:
        if flags & ~RENAME_NOREPLACE:
            raise refuse(errno.EINVAL)
        if not isinstance(target, DropDirectory):
            raise refuse(errno.EXDEV)
        with self.tree.lock:
            child = self._child(name)
            there = target.children.get(target_name)
            if there is child:
                return
            if there is not None:
                if flags & RENAME_NOREPLACE:
                    raise refuse(errno.EEXIST)
                if isinstance(child, DropDirectory):
                    if not isinstance(there, DropDirectory):
                        raise refuse(errno.ENOTDIR)
                    if there.children:
                        raise refuse(errno.ENOTEMPTY)
                elif isinstance(there, DropDirectory):
                    raise refuse(errno.EISDIR)
                elif isinstance(there, DropFile):
                    there.nlink = 0
            del self.children[name]
            target.children[target_name] = child
            self.version += 1
            target.version += 1

    def sync(self) -> None:
        with self.tree.lock:
            self.synced += 1
