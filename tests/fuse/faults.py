"""Whatever can go wrong in a tree, on command: wrappers around the nodes and handles of another.

`Plan` says which operation on which name fails, and how, or is held until it is let go. Every call
of the tree's interface passes `Plan.strike` first, which also counts it. The wrappers change
nothing else. A node's name here is the last component it was found under.

An operation is called like the method of ``tree/node.py`` (``read``, ``look_up``, ``attributes``),
and ``arrive`` is what the memory tree does on its own threads for a `request`.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from artifactfs import errors
from artifactfs.byte_range import ByteRange
from artifactfs.vfs.node import (
    AttributeChange,
    Attributes,
    Directory,
    DirectoryEntry,
    Done,
    EntryChanged,
    File,
    FilesystemSpace,
    Handle,
    Link,
    Node,
    PendingRead,
    Tree,
)


def _dive() -> None:
    _dive()


def raise_named(name: str) -> None:
    """Raise what `name` says: an errno, a built-in exception, one of ours, or a special one."""
    if name == "no-errno":  # what requests raises: an OSError that knows no number
        raise OSError("connection broken: InvalidChunkLength")
    if name == "deep-recursion":
        _dive()
    if name == "negative-errno":
        raise OSError(-5, "negative")
    if name == "unknown-errno":
        raise OSError(99999, "no such number")
    if name == "unprintable":
        raise Unprintable
    if hasattr(errno, name):
        raise OSError(getattr(errno, name), name)
    if hasattr(errors, name):
        raise getattr(errors, name)(f"{name} on purpose")
    kind = __builtins__[name] if isinstance(__builtins__, dict) else getattr(__builtins__, name)
    raise kind(f"{name} on purpose")


class Unprintable(Exception):
    """An error that fails when it is shown."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Plan:
    """What goes wrong. Guarded by `_changed`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._failures: dict[tuple[str, str | None], list[Any]] = {}
        self._holds: set[tuple[str, str | None]] = set()
        self._held: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._details: dict[str, Any] = {}

    def fail(self, operation: str, name: str | None, error: str, times: int | None) -> None:
        """From now on `operation` on `name` (None: any) raises `error`, `times` times or ever."""
        with self._changed:
            self._failures[operation, name] = [error, times]

    def hold(self, operation: str, name: str | None) -> None:
        """From now on `operation` on `name` waits until `let_go`."""
        with self._changed:
            self._holds.add((operation, name))

    def let_go(self) -> None:
        """End all holds and failures."""
        with self._changed:
            self._holds.clear()
            self._failures.clear()
            self._changed.notify_all()

    def held(self, operation: str) -> int:
        """How many calls of `operation` wait now."""
        with self._changed:
            return self._held[operation]

    def counts(self) -> dict[str, int]:
        """How often each operation was called."""
        with self._changed:
            return dict(self._counts)

    def detail(self, operation: str) -> Any:
        """What the last call of `operation` was given (flush: the caller's pid)."""
        with self._changed:
            return self._details.get(operation)

    def strike(self, operation: str, name: str, detail: Any = None) -> None:
        """One call: count it, hold it, let it fail."""
        with self._changed:
            self._counts[operation] += 1
            if detail is not None:
                self._details[operation] = detail
            keys = ((operation, name), (operation, None))
            if any(key in self._holds for key in keys):
                self._held[operation] += 1
                self._changed.wait_for(lambda: not any(key in self._holds for key in keys), 120)
                self._held[operation] -= 1
            error = None
            for key in keys:
                failure = self._failures.get(key)
                if failure is None:
                    continue
                error, times = failure
                if times is not None:
                    failure[1] = times - 1
                    if failure[1] <= 0:
                        del self._failures[key]
                break
        if error is not None:
            raise_named(error)


class FaultyTree:
    """A tree whose every part strikes the plan before it answers."""

    def __init__(self, tree: Tree, plan: Plan) -> None:
        self._tree = tree
        self._plan = plan

    @property
    def root(self) -> Directory:
        return FaultyDirectory(self._tree.root, "", self._plan)

    def space(self) -> FilesystemSpace:
        self._plan.strike("space", "")
        return self._tree.space()

    def subscribe(self, listener: Callable[[EntryChanged], None]) -> None:
        self._tree.subscribe(listener)

    def unsubscribe(self, listener: Callable[[EntryChanged], None]) -> None:
        self._tree.unsubscribe(listener)


def wrapped(node: Node, name: str, plan: Plan) -> Any:
    kind = {Directory: FaultyDirectory, File: FaultyFile, Link: FaultyLink}
    return next(kind[base] for base in kind if isinstance(node, base))(node, name, plan)


class FaultyNode(Node):
    def __init__(self, inner: Any, name: str, plan: Plan) -> None:
        self.inner = inner
        self.name = name
        self.plan = plan

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other.ino == self.ino

    def __hash__(self) -> int:
        return hash(self.ino)

    @property
    def ino(self) -> int:
        return int(self.inner.ino)

    @property
    def lifetime_s(self) -> float:
        return float(self.inner.lifetime_s)

    def attributes(self) -> Attributes:
        self.plan.strike("attributes", self.name)
        return self.inner.attributes()

    def xattrs(self) -> Mapping[str, bytes]:
        self.plan.strike("xattrs", self.name)
        return self.inner.xattrs()

    def set_xattr(self, name: str, value: bytes) -> None:
        self.plan.strike("set_xattr", self.name)
        self.inner.set_xattr(name, value)

    def change(self, change: AttributeChange) -> None:
        self.plan.strike("change", self.name)
        self.inner.change(change)


class FaultyLink(FaultyNode, Link):
    def target(self) -> str:
        self.plan.strike("target", self.name)
        return self.inner.target()


class FaultyDirectory(FaultyNode, Directory):
    def find(self, name: str) -> Node | None:
        self.plan.strike("find", name)
        found = self.inner.find(name)
        return None if found is None else wrapped(found, name, self.plan)

    def look_up(self, name: str) -> Node | None:
        self.plan.strike("look_up", name)
        found = self.inner.look_up(name)
        return None if found is None else wrapped(found, name, self.plan)

    @property
    def may_know_more(self) -> bool:
        self.plan.strike("may_know_more", self.name)
        return self.inner.may_know_more

    def entries(self) -> Sequence[DirectoryEntry]:
        self.plan.strike("entries", self.name)
        return [
            DirectoryEntry(entry.name, wrapped(entry.node, entry.name, self.plan))
            for entry in self.inner.entries()
        ]

    def is_fresh(self) -> bool:
        self.plan.strike("is_fresh", self.name)
        return self.inner.is_fresh()

    def freshen(self) -> None:
        self.plan.strike("freshen", self.name)
        self.inner.freshen()

    @property
    def listing_version(self) -> int | None:
        self.plan.strike("listing_version", self.name)
        return self.inner.listing_version

    def create(self, name: str, flags: int, mode: int) -> tuple[File, Handle]:
        self.plan.strike("create", name)
        file, handle = self.inner.create(name, flags, mode)
        return wrapped(file, name, self.plan), FaultyHandle(handle, name, self.plan)

    def make_directory(self, name: str, mode: int) -> Directory:
        self.plan.strike("make_directory", name)
        return wrapped(self.inner.make_directory(name, mode), name, self.plan)

    def unlink(self, name: str) -> None:
        self.plan.strike("unlink", name)
        self.inner.unlink(name)

    def remove_directory(self, name: str) -> None:
        self.plan.strike("remove_directory", name)
        self.inner.remove_directory(name)

    def rename(self, name: str, target: Directory, target_name: str, flags: int) -> None:
        self.plan.strike("rename", name)
        assert isinstance(target, FaultyDirectory)
        self.inner.rename(name, target.inner, target_name, flags)

    def sync(self) -> None:
        self.plan.strike("sync", self.name)
        self.inner.sync()


class FaultyFile(FaultyNode, File):
    def open(self, flags: int) -> Handle:
        self.plan.strike("open", self.name, flags)
        return FaultyHandle(self.inner.open(flags), self.name, self.plan)


class FaultyHandle(Handle):
    def __init__(self, inner: Handle, name: str, plan: Plan) -> None:
        self.inner = inner
        self.name = name
        self.plan = plan

    @property
    def direct_io(self) -> bool:
        self.plan.strike("direct_io", self.name)
        return self.inner.direct_io

    @property
    def keep_cache(self) -> bool:
        self.plan.strike("keep_cache", self.name)
        return self.inner.keep_cache

    def try_read(self, start: int, stop: int) -> bytes | None:
        self.plan.strike("try_read", self.name)
        return self.inner.try_read(start, stop)

    def request(self, span: ByteRange, done: Done) -> PendingRead | None:
        self.plan.strike("request", self.name)
        return self.inner.request(span, done)

    def read(self, start: int, stop: int) -> bytes:
        self.plan.strike("read", self.name)
        return self.inner.read(start, stop)

    def backing_fd(self) -> int | None:
        self.plan.strike("backing_fd", self.name)
        return self.inner.backing_fd()

    def write(self, offset: int, data: bytes | memoryview) -> int:
        self.plan.strike("write", self.name, len(data))
        return self.inner.write(offset, data)

    def truncate(self, size_bytes: int) -> None:
        self.plan.strike("truncate", self.name)
        self.inner.truncate(size_bytes)

    def allocate(self, mode: int, offset: int, size_bytes: int) -> None:
        self.plan.strike("allocate", self.name)
        self.inner.allocate(mode, offset, size_bytes)

    def seek(self, offset: int, whence: int) -> int:
        self.plan.strike("seek", self.name)
        return self.inner.seek(offset, whence)

    def flush(self, caller_pid: int) -> None:
        self.plan.strike("flush", self.name, caller_pid)
        self.inner.flush(caller_pid)

    @property
    def settles(self) -> bool:
        return self.inner.settles

    def settle(self) -> None:
        self.plan.strike("settle", self.name)
        self.inner.settle()

    def fsync(self) -> None:
        self.plan.strike("fsync", self.name)
        self.inner.fsync()

    def release(self) -> None:
        try:
            self.plan.strike("release", self.name)
        finally:
            self.inner.release()
