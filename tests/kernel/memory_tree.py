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

import errno
import hashlib
import itertools
import os
import random
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from artifactfs.spans import Span
from artifactfs.tree.node import (
    FOREVER_S,
    AttributeChange,
    Attributes,
    Directory,
    Done,
    Entry,
    EntryChanged,
    File,
    Handle,
    Kind,
    Link,
    Node,
    Space,
)

GRAIN_BYTES = 64 * 1024
MANY = 1000
BORN_NS = 1_700_000_000_123_456_789
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

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
            blocks=(size_bytes + 511) // 512,
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

    def request(self, span: Span, done: Done) -> PooledTicket:
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

    def entries(self) -> Sequence[Entry]:
        with self.tree.lock:
            return [Entry(name, node) for name, node in self.children.items()]

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

    def space(self) -> Space:
        return Space(total_bytes=10 << 30, free_bytes=4 << 30, files=MANY)

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
