"""A whole `Tree` in memory: what the bindings' tests mount.

It follows ``tree/node.py`` to the letter and knows no service, so that a test of a binding tests
the binding. It has one of each kind of thing that the real tree is made of::

    fixed/       never changes under an inode: page-cached, long-lived, sometimes fetched, sometimes
                 backed by a local file; names come and go by `publish` and `withdraw`
    many/        a thousand small files
    jobs/        `look_up` finds ``job-…`` where `find` does not
    stale/       not fresh until `freshen` was called, which brings news.txt
    live/        grow.log grows, status.json is rendered at each open: direct I/O, never cached
    drop/        writable, kept in memory; unlinked files live on while they are open

The tree is one object with one lock, `MemoryTree.lock`, held for the time of a dictionary access
and never over a callback. Files that are fetched come from a pool that `start` starts and `close`
ends. What goes wrong on purpose is not here but in ``faults``, which wraps it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from artifactfs.vfs.node import (
    EntryChanged,
    FilesystemSpace,
    Node,
)
from tests.fuse.memory_drop import DropDirectory, DropFile
from tests.fuse.memory_nodes import (
    AskingDirectory,
    BackedFile,
    FetchedFile,
    FixedFile,
    GrowingFile,
    MemoryDirectory,
    MemoryLink,
    RenderedFile,
    SlowFile,
    StaleDirectory,
)

MANY = 1000

ODD_NAMES = (
    "café",
    os.fsdecode(b"broken-\xff\xfe-name"),
    "x" * 255,
    "with space, comma and 'quote'",
    "line\nbreak",
    "日本語",
)


def pattern(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that a test can make again, and in which no two grains are alike."""
    return random.Random(seed).randbytes(size_bytes)


BIG = pattern(4 * 1024 * 1024 + 321, 1)
FETCHED = pattern(1024 * 1024 + 17, 2)
BACKED = pattern(1024 * 1024 + 99, 3)


class MemoryTree:
    """The tree. `lock` guards every node's mutable state and the listeners.

    `before_fetch` is called with the file's name before bytes arrive, from where they come.
    """

    def __init__(self, backing: Path, before_fetch: Callable[[str], None]) -> None:
        self.before_fetch = before_fetch
        self.lock = threading.RLock()
        self._numbers = itertools.count(2)
        self._listeners: list[Callable[[EntryChanged], None]] = []
        self._pool: ThreadPoolExecutor | None = None
        self.root = MemoryDirectory(self, ino=1)
        fixed = MemoryDirectory(self)
        hello = FixedFile(self, b"hello\n")
        hello.nlink = 2
        fixed.put("hello.txt", hello)
        fixed.put("alias.txt", hello)
        fixed.put("empty", FixedFile(self, b""))
        fixed.put("big.bin", FixedFile(self, BIG))
        fixed.put("fetched.bin", FetchedFile(self, "fetched.bin", FETCHED))
        fixed.put("backed.bin", BackedFile(self, BACKED, backing))
        fixed.put("slow.txt", SlowFile(self, b"slow\n"))
        fixed.put("link", MemoryLink(self, "hello.txt"))
        sub = MemoryDirectory(self)
        sub.put("inner.txt", FixedFile(self, b"inner\n"))
        fixed.put("sub", sub)
        odd = MemoryDirectory(self)
        for name in ODD_NAMES:
            odd.put(name, FixedFile(self, os.fsencode(name)))
        fixed.put("odd", odd)
        many = MemoryDirectory(self)
        for number in range(MANY):
            many.put(f"file-{number:05d}", FixedFile(self, b"%d" % number))
        live = MemoryDirectory(self)
        live.put("grow.log", GrowingFile(self))
        live.put("status.json", RenderedFile(self))
        self.root.put("fixed", fixed)
        self.root.put("many", many)
        self.root.put("jobs", AskingDirectory(self))
        self.root.put("stale", StaleDirectory(self))
        self.root.put("live", live)
        self.root.put("drop", DropDirectory(self))

    @property
    def pool(self) -> ThreadPoolExecutor:
        assert self._pool is not None, "start() comes first"
        return self._pool

    def start(self) -> None:
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="fetch")

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def next_ino(self) -> int:
        return next(self._numbers)

    def space(self) -> FilesystemSpace:
        return FilesystemSpace(total_bytes=10 << 30, free_bytes=4 << 30, files=MANY)

    def subscribe(self, listener: Callable[[EntryChanged], None]) -> None:
        with self.lock:
            self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[EntryChanged], None]) -> None:
        with self.lock:
            self._listeners.remove(listener)

    def _tell(self, change: EntryChanged) -> None:
        with self.lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(change)

    def node_at(self, path: str) -> Node:
        node: Node = self.root
        for name in filter(None, path.split("/")):
            assert isinstance(node, MemoryDirectory)
            found = node.find(name)
            assert found is not None, path
            node = found
        return node

    def _parent_of(self, path: str) -> tuple[MemoryDirectory, str]:
        above, _, name = path.rpartition("/")
        parent = self.node_at(above)
        assert isinstance(parent, MemoryDirectory)
        return parent, name

    # What happens by itself: the tests call these through the driver's control channel.

    def publish(self, path: str, content: bytes) -> int:
        """A name comes, or means another file from now on. Returns the inode number."""
        parent, name = self._parent_of(path)
        file = FixedFile(self, content)
        parent.put(name, file)
        self._tell(EntryChanged(parent.ino, name))
        return file.ino

    def publish_directory(self, path: str) -> int:
        """A directory comes."""
        parent, name = self._parent_of(path)
        made = MemoryDirectory(self)
        parent.put(name, made)
        self._tell(EntryChanged(parent.ino, name))
        return made.ino

    def withdraw(self, path: str) -> None:
        """A name goes."""
        parent, name = self._parent_of(path)
        with self.lock:
            del parent.children[name]
            parent.version += 1
        self._tell(EntryChanged(parent.ino, name))

    def append(self, path: str, data: bytes) -> int:
        """A log grows."""
        file = self.node_at(path)
        assert isinstance(file, GrowingFile)
        with self.lock:
            file.content += data
            return len(file.content)

    def dropped(self) -> dict[str, dict[str, object]]:
        """Every file below drop/: size, hash, mode, open handles."""
        found: dict[str, dict[str, object]] = {}

        def walk(directory: DropDirectory, above: str) -> None:
            for name, node in directory.children.items():
                if isinstance(node, DropDirectory):
                    walk(node, f"{above}{name}/")
                elif isinstance(node, DropFile):
                    found[above + name] = {
                        "size": len(node.content),
                        "sha256": hashlib.sha256(node.content).hexdigest(),
                        "mode": stat.S_IMODE(node.mode),
                        "mtime_ns": node.mtime_ns,
                        "handles": node.handles,
                    }

        drop = self.node_at("drop")
        assert isinstance(drop, DropDirectory)
        with self.lock:
            walk(drop, "")
        return found
