"""The memory tree's nodes that only read: files of every kind, a link, directories.

They hold a reference to their tree for its lock and its pool. Nothing here raises on purpose.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from artifactfs.byte_range import ByteRange
from artifactfs.vfs.node import (
    FOREVER_S,
    Attributes,
    Directory,
    DirectoryEntry,
    Done,
    File,
    Handle,
    Kind,
    Link,
    Node,
)

if TYPE_CHECKING:
    from tests.fuse.memory_tree import MemoryTree

GRAIN_BYTES = 64 * 1024
BORN_NS = 1_700_000_000_123_456_789


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class MemoryNode(Node):
    """What all nodes here share."""

    def __init__(self, tree: MemoryTree, ino: int | None = None) -> None:
        self.tree = tree
        self.number = tree.next_ino() if ino is None else ino
        self.mode = 0o444
        self.nlink = 1
        self.mtime_ns = self.ctime_ns = BORN_NS
        self.extended: dict[str, bytes] = {"user.artifactfs.id": f"id-{self.number}".encode()}

    @property
    def ino(self) -> int:
        return self.number

    def xattrs(self) -> dict[str, bytes]:
        return dict(self.extended)

    def set_xattr(self, name: str, value: bytes) -> None:
        if name != "user.artifactfs.pin":
            super().set_xattr(name, value)
        self.extended[name] = value

    def shown(self, kind: Kind, size_bytes: int) -> Attributes:
        return Attributes(
            ino=self.number,
            kind=kind,
            mode=self.mode,
            size_bytes=size_bytes,
            nlink=self.nlink,
            mtime_ns=self.mtime_ns,
            ctime_ns=self.ctime_ns,
            blocks=0,  # nothing of it is cached
        )


class MemoryLink(MemoryNode, Link):
    def __init__(self, tree: MemoryTree, target: str) -> None:
        super().__init__(tree)
        self.points_to = target
        self.mode = 0o777

    def attributes(self) -> Attributes:
        return self.shown(Kind.LINK, len(os.fsencode(self.points_to)))

    def target(self) -> str:
        return self.points_to


class FixedFile(MemoryNode, File):
    """Content that never changes under its inode, at hand."""

    def __init__(self, tree: MemoryTree, content: bytes) -> None:
        super().__init__(tree)
        self.content = content

    @property
    def lifetime_s(self) -> float:
        return FOREVER_S

    def attributes(self) -> Attributes:
        return self.shown(Kind.FILE, len(self.content))

    def open(self, flags: int) -> Handle:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise refuse(errno.EROFS)
        return FixedHandle(self.content)


class FixedHandle(Handle):
    def __init__(self, content: bytes) -> None:
        self.content = content

    @property
    def keep_cache(self) -> bool:
        return True

    def try_read(self, start: int, stop: int) -> bytes | None:
        return self.content[start:stop]

    def read(self, start: int, stop: int) -> bytes:
        return self.content[start:stop]


class FetchedFile(FixedFile):
    """Content that comes grain by grain, from another thread, when it is asked for."""

    def __init__(self, tree: MemoryTree, name: str, content: bytes) -> None:
        super().__init__(tree, content)
        self.name = name
        self.present: set[int] = set()

    def open(self, flags: int) -> Handle:
        super().open(flags)
        return FetchedHandle(self)


class FetchedHandle(Handle):
    def __init__(self, file: FetchedFile) -> None:
        self.file = file

    @property
    def keep_cache(self) -> bool:
        return True

    def _grains(self, start: int, stop: int) -> range:
        stop = min(stop, len(self.file.content))
        return range(start // GRAIN_BYTES, -(-stop // GRAIN_BYTES))

    def _fetch(self, start: int, stop: int) -> None:
        self.file.tree.before_fetch(self.file.name)
        with self.file.tree.lock:
            self.file.present.update(self._grains(start, stop))

    def try_read(self, start: int, stop: int) -> bytes | None:
        with self.file.tree.lock:
            if not self.file.present.issuperset(self._grains(start, stop)):
                return None
        return self.file.content[start:stop]

    def request(self, span: ByteRange, done: Done) -> PooledTicket:
        return PooledTicket(self.file.tree.pool, lambda: self._fetch(span.start, span.stop), done)

    def read(self, start: int, stop: int) -> bytes:
        if self.try_read(start, stop) is None:
            self._fetch(start, stop)
        return self.file.content[start:stop]


class SlowFile(FixedFile):
    """Content that only a waiting `read` gives."""

    def open(self, flags: int) -> Handle:
        super().open(flags)
        return SlowHandle(self.content)


class SlowHandle(FixedHandle):
    def try_read(self, start: int, stop: int) -> bytes | None:
        return None


class PooledTicket:
    """Runs `act` on the pool, then `done` unless it was cancelled. Guarded by `_lock`."""

    def __init__(self, pool: ThreadPoolExecutor, act: Callable[[], None], done: Done) -> None:
        self._act = act
        self._done = done
        self._lock = threading.Lock()
        self._settled = False
        self._future: Future[None] = pool.submit(self._run)

    def _run(self) -> None:
        trouble: BaseException | None = None
        try:
            self._act()
        except BaseException as error:
            trouble = error
        with self._lock:
            if self._settled:
                return
            self._settled = True
        self._done(trouble)

    def cancel(self) -> None:
        with self._lock:
            self._settled = True


class BackedFile(FixedFile):
    """Content that lies complete in a local file, which passthrough may use."""

    def __init__(self, tree: MemoryTree, content: bytes, path: Path) -> None:
        super().__init__(tree, content)
        self.path = path
        path.write_bytes(content)

    def open(self, flags: int) -> Handle:
        super().open(flags)
        return BackedHandle(self)


class BackedHandle(FixedHandle):
    def __init__(self, file: BackedFile) -> None:
        super().__init__(file.content)
        self._fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)

    def backing_fd(self) -> int | None:
        return self._fd

    def release(self) -> None:
        os.close(self._fd)


class GrowingFile(MemoryNode, File):
    """A log that grows by `MemoryTree.append`; direct I/O."""

    def __init__(self, tree: MemoryTree) -> None:
        super().__init__(tree)
        self.content = bytearray()

    def attributes(self) -> Attributes:
        with self.tree.lock:
            return self.shown(Kind.FILE, len(self.content))

    def open(self, flags: int) -> Handle:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise refuse(errno.EROFS)
        return GrowingHandle(self)


class GrowingHandle(Handle):
    def __init__(self, file: GrowingFile) -> None:
        self.file = file

    @property
    def direct_io(self) -> bool:
        return True

    def try_read(self, start: int, stop: int) -> bytes | None:
        return self.read(start, stop)

    def read(self, start: int, stop: int) -> bytes:
        with self.file.tree.lock:
            return bytes(self.file.content[start:stop])


class RenderedFile(MemoryNode, File):
    """A control file: its bytes are made when it is opened, each time others, each time longer."""

    def __init__(self, tree: MemoryTree) -> None:
        super().__init__(tree)
        self.opened = 0

    def attributes(self) -> Attributes:
        return self.shown(Kind.FILE, 3)

    def open(self, flags: int) -> Handle:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise refuse(errno.EROFS)
        with self.tree.lock:
            self.opened += 1
            return RenderedHandle(f"opened {self.opened} times\n".encode() * self.opened)


class RenderedHandle(FixedHandle):
    @property
    def direct_io(self) -> bool:
        return True

    @property
    def keep_cache(self) -> bool:
        return False


class MemoryDirectory(MemoryNode, Directory):
    """A directory whose names come and go by `MemoryTree.publish` and `withdraw` only."""

    def __init__(self, tree: MemoryTree, ino: int | None = None) -> None:
        super().__init__(tree, ino)
        self.mode = 0o555
        self.nlink = 2
        self.children: dict[str, Node] = {}
        self.version = 0

    @property
    def lifetime_s(self) -> float:
        return FOREVER_S

    @property
    def listing_version(self) -> int | None:
        with self.tree.lock:
            return self.version

    def attributes(self) -> Attributes:
        return self.shown(Kind.DIRECTORY, 0)

    def find(self, name: str) -> Node | None:
        with self.tree.lock:
            return self.children.get(name)

    def entries(self) -> Sequence[DirectoryEntry]:
        with self.tree.lock:
            return [DirectoryEntry(name, node) for name, node in self.children.items()]

    def put(self, name: str, node: Node) -> None:
        """Add or replace a name; the caller tells the kernel."""
        with self.tree.lock:
            self.children[name] = node
            self.version += 1


class AskingDirectory(MemoryDirectory):
    """Names that begin with ``job-`` appear when they are looked up."""

    @property
    def may_know_more(self) -> bool:
        return True

    def look_up(self, name: str) -> Node | None:
        found = self.find(name)
        if found is None and name.startswith("job-"):
            found = MemoryDirectory(self.tree)
            found.put("output.log", FixedFile(self.tree, f"output of {name}\n".encode()))
            self.put(name, found)
        return found


class StaleDirectory(MemoryDirectory):
    """Knows news.txt only after it was freshened."""

    def is_fresh(self) -> bool:
        return self.find("news.txt") is not None

    def freshen(self) -> None:
        if not self.is_fresh():
            self.put("news.txt", FixedFile(self.tree, b"news\n"))
