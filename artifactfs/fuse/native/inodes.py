"""What the kernel knows of our nodes: which, and how often it was told.

Every answer that names a node (LOOKUP, CREATE, MKDIR, MKNOD, each entry of READDIRPLUS) adds one to
that node's lookup count in the kernel; FORGET gives back many at once. While the count is above
zero the kernel may come back with the number alone, so the node must be kept; at zero it is
dropped, and with it the memory that the tree spends on it.

A node's number on the wire is its `ino`, which is the same whichever of a file's names led to it;
so the kernel has one inode, and one set of cached pages, per artifact. If a look-up brings another
object for a number that is known, the newer one is kept: it knows the later name.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from typing import Final

from artifactfs.fuse.native import protocol
from artifactfs.vfs.node import (
    Directory,
    File,
    Node,
)

_SMALL: Final = 1024
_SHRINK_BELOW: Final = 4


class InodeTable:
    """Number → node and lookup count, and which version of a directory the kernel has cached.

    `_lock` guards all three tables, and `_most`, against their writers; single look-ups go without
    it, a dictionary's `get` being atomic. The root is always there and is not counted.
    """

    def __init__(self, root: Directory) -> None:
        self._lock = threading.Lock()
        self._nodes: dict[int, Node] = {protocol.ROOT_ID: root}
        self._lookups: dict[int, int] = {}
        self._listed: dict[int, int] = {}
        self._most = _SMALL

    def node(self, nodeid: int) -> Node:
        """The node of this number. Raises `OSError` ESTALE if the kernel should not know it."""
        node = self._nodes.get(nodeid)
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node

    def directory(self, nodeid: int) -> Directory:
        """The directory of this number. Raises `OSError` ENOTDIR or ESTALE."""
        node = self.node(nodeid)
        if not isinstance(node, Directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return node

    def file(self, nodeid: int) -> File:
        """The file of this number. Raises `OSError` EISDIR or ESTALE."""
        node = self.node(nodeid)
        if not isinstance(node, File):
            number = errno.EISDIR if isinstance(node, Directory) else errno.EINVAL
            raise OSError(number, os.strerror(number))
        return node

    def knows(self, nodeid: int) -> bool:
        """Whether the kernel may remember it."""
        return nodeid in self._nodes

    def remember(self, node: Node) -> int:
        """Count one look-up of `node`; its number."""
        ino = node.ino
        if ino == protocol.ROOT_ID:
            return ino
        with self._lock:
            self._nodes[ino] = node
            self._lookups[ino] = self._lookups.get(ino, 0) + 1
        return ino

    def remember_all(self, nodes: Sequence[Node]) -> None:
        """Count one look-up of each."""
        with self._lock:
            known, lookups = self._nodes, self._lookups
            for node in nodes:
                ino = node.ino
                if ino != protocol.ROOT_ID:
                    known[ino] = node
                    lookups[ino] = lookups.get(ino, 0) + 1

    def renew(self, node: Node) -> None:
        """Keep this object for its number, if the number is known: its name has changed."""
        with self._lock:
            if node.ino in self._lookups:
                self._nodes[node.ino] = node

    def forget(self, nodeid: int, lookups: int) -> None:
        """Take `lookups` from the count; at zero the node is dropped."""
        with self._lock:
            self._forget(nodeid, lookups)
            self._shrink()

    def forget_all(self, pairs: Sequence[tuple[int, int]]) -> None:
        """`forget` for many (number, lookups)."""
        with self._lock:
            for nodeid, lookups in pairs:
                self._forget(nodeid, lookups)
            self._shrink()

    def note_listing(self, nodeid: int, version: int) -> bool:
        """Say that the kernel caches `version` of this directory from now on.

        True if that is the version that it had already, so that it may keep its pages.
        """
        with self._lock:
            same = self._listed.get(nodeid) == version
            self._listed[nodeid] = version
        return same

    def forget_listing(self, nodeid: int) -> None:
        """The kernel is not to keep what it has cached of this directory beyond the next open."""
        with self._lock:
            self._listed.pop(nodeid, None)

    def count(self) -> int:
        """How many nodes are kept, without the root."""
        return len(self._lookups)

    def _shrink(self) -> None:
        """Give memory back: a dictionary keeps the size it once had, however empty it is."""
        count = len(self._lookups)
        if count * _SHRINK_BELOW >= self._most:
            return
        self._nodes = dict(self._nodes)
        self._lookups = dict(self._lookups)
        self._listed = dict(self._listed)
        self._most = max(count, _SMALL)

    def _forget(self, nodeid: int, lookups: int) -> None:
        self._most = max(self._most, len(self._lookups))
        left = self._lookups.get(nodeid)
        if left is None:
            return
        if left > lookups:
            self._lookups[nodeid] = left - lookups
            return
        del self._lookups[nodeid]
        del self._nodes[nodeid]
        self._listed.pop(nodeid, None)
