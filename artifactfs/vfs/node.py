"""Nodes and handles: what a file system is made of, as the kernel bindings see it.

The tree is node-based: a binding starts at the root `Directory`, walks by `find` or `look_up`, and
keeps the nodes it was given. Two kinds of calls are told apart, because one thread reads the
kernel's requests and must never wait:

* **at once**: answered from memory: `Node.attributes`, `Node.xattrs`, `Directory.find`,
  `Directory.entries`, `Directory.is_fresh`, `Handle.try_read`, `Handle.request`;
* **may wait**, bounded by the settings' time-outs: everything else. A binding runs these on a
  pool's thread.

Nodes of one thing are equal by `ino`: an artifact has one number whichever of its names led to it.
A number is stable from mount to mount. What a node does not allow raises `OSError` with the errno a
local file system would give (EROFS outside ``drop/``); everything else raises an error of
``artifactfs.errors``. ``errors.errno_of`` turns both into what the kernel is told.

Changes that the kernel may remember wrongly (a name that came, went or now means another file) are
told to the listeners of `Tree.subscribe` as `EntryChanged`, from a thread that is not the kernel's.

A directory's entries, made one by one as they are read.

The kernel reads a directory in pieces, and a program may stop after the first. So `ListedEntries`
holds two parallel sequences that are there anyway, names and what they mean, and makes a node only
for the entry that is asked for. It does not change when the directory does.

Who only lists names needs no node at all: `numbered` gives of each entry what ``getdents`` shows.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, NoReturn, Protocol, TypeVar, overload

from artifactfs.byte_range import ByteRange

FOREVER_S = 86_400.0


class Kind(Enum):
    """What a node is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Attributes:
    """What ``stat`` shows, but for the owner, who is whoever mounted.

    `mode` holds the permission bits only. Times are nanoseconds since the epoch. `blocks` counts
    512 bytes each and says what lies on the local disk, but at least 1 where a file is not empty:
    ``tar -S`` takes 0 blocks for one hole, and never reads. `unit_bytes` is how much programs do
    best to read or write at once (``st_blksize``, a power of two): ``cp`` goes by it, and Python's
    ``open`` makes its buffer as large.
    """

    ino: int
    kind: Kind
    mode: int
    size_bytes: int
    nlink: int
    mtime_ns: int
    ctime_ns: int
    blocks: int = 0
    unit_bytes: int = 4096

    def __post_init__(self) -> None:
        if not self.blocks and self.size_bytes and self.kind is Kind.FILE:
            object.__setattr__(self, "blocks", 1)


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """What ``chmod``, ``truncate`` and ``utimens`` ask for; None is "as it was"."""

    mode: int | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One name in a directory."""

    name: str
    node: Node


@dataclass(frozen=True, slots=True)
class EntryChanged:
    """The name `name` in the directory `parent_ino` came, went, or now means another node."""

    parent_ino: int
    name: str


@dataclass(frozen=True, slots=True)
class FilesystemSpace:
    """What ``df`` shows, in bytes, and the number of files."""

    total_bytes: int
    free_bytes: int
    files: int


class PendingRead(Protocol):
    """A request for bytes that are on their way."""

    def cancel(self) -> None:
        """Stop waiting. The callback is not called afterwards, or has been already."""
        ...


Done = Callable[[BaseException | None], None]


class Node(ABC):
    """A file, a directory or a symbolic link."""

    __slots__ = ()

    @property
    @abstractmethod
    def ino(self) -> int:
        """The inode number: from 1 up to 2^64 - 1; the root has 1."""

    @property
    def lifetime_s(self) -> float:
        """How long the kernel may remember name and attributes. 0: it asks each time."""
        return 0.0

    @abstractmethod
    def attributes(self) -> Attributes:
        """What ``stat`` shows. At once."""

    def xattrs(self) -> Mapping[str, bytes]:
        """All extended attributes by their full name (``user.artifactfs.id``). At once."""
        return {}

    @property
    def knows_xattrs(self) -> bool:
        """Whether `xattrs` has all there is, without `learn_xattrs`. At once."""
        return True

    def learn_xattrs(self) -> None:
        """Find out what `xattrs` lacks, for a bounded time; never fails. May wait."""
        return

    def set_xattr(self, name: str, value: bytes) -> None:
        """Take a command that is spelled as an attribute.

        The kernel holds the lock of this file or directory meanwhile, so this must not wait for the
        network: what may take long is recorded as an order, and carried out later.
        """
        _ = value
        raise OSError(errno.EOPNOTSUPP, f"{name} cannot be set")

    def change(self, change: AttributeChange) -> None:
        """Change mode, size or times. May wait."""
        _ = change
        read_only()


class Link(Node):
    """A symbolic link."""

    __slots__ = ()

    @abstractmethod
    def target(self) -> str:
        """Where it points, as text for ``readlink``. At once."""


class Directory(Node):
    """A directory. What is not overridden refuses to change it."""

    __slots__ = ()

    @abstractmethod
    def find(self, name: str) -> Node | None:
        """The node called `name`, if it is known. At once; None may still be there, see look_up."""

    def look_up(self, name: str) -> Node | None:
        """Like `find`, but may ask for news first, for a bounded time. May wait."""
        return self.find(name)

    @property
    def may_know_more(self) -> bool:
        """Whether `look_up` may find what `find` does not. At once."""
        return False

    @abstractmethod
    def entries(self) -> Sequence[DirectoryEntry]:
        """All names, without ``.`` and ``..``, in a stable order. At once."""

    def is_fresh(self) -> bool:
        """Whether `entries` is as new as promised, so that `freshen` is not needed. At once."""
        return True

    def freshen(self) -> None:
        """Bring `entries` up to date, for a bounded time; never fails. May wait."""
        return

    @property
    def listing_version(self) -> int | None:
        """A number that changes when `entries` does, or None where it always may. At once."""
        return None

    def create(self, name: str, flags: int, mode: int) -> tuple[File, Handle]:
        """Make and open a file. `flags` are those of open(2). May wait."""
        _ = name, flags, mode
        read_only()

    def make_directory(self, name: str, mode: int) -> Directory:
        """Make a directory. May wait."""
        _ = name, mode
        read_only()

    def unlink(self, name: str) -> None:
        """Remove a file. May wait."""
        _ = name
        read_only()

    def remove_directory(self, name: str) -> None:
        """Remove an empty directory. May wait."""
        _ = name
        read_only()

    def rename(self, name: str, target: Directory, target_name: str, flags: int) -> None:
        """Rename an entry of this directory. `flags` are those of renameat2(2). May wait."""
        _ = name, target, target_name, flags
        read_only()

    def sync(self) -> None:
        """What fsync(2) on the directory waits for: the local disk, never the network."""
        return


class File(Node):
    """A regular file."""

    __slots__ = ()

    @abstractmethod
    def open(self, flags: int) -> Handle:
        """Open it. `flags` are those of open(2). May wait."""


class Handle(ABC):
    """An open file. Reads are half-open byte ranges; past the end they are short."""

    __slots__ = ()

    @property
    def direct_io(self) -> bool:
        """Whether the kernel must not cache pages nor trust the size: contents that change."""
        return False

    @property
    def keep_cache(self) -> bool:
        """Whether pages cached by an earlier open are still right: contents that never change."""
        return False

    def try_read(self, start: int, stop: int) -> bytes | None:
        """The bytes if they are at hand, else None. At once."""
        _ = start, stop
        return None

    def request(self, span: ByteRange, done: Done) -> PendingRead | None:
        """Ask for bytes that `try_read` did not have; `done` is called from another thread.

        After ``done(None)`` `read` has the bytes without waiting for the network. None: this handle
        knows no such thing, call `read` on a pool's thread. At once.
        """
        _ = span, done
        return None

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes:
        """The bytes; waits for them. May wait."""

    def backing_fd(self) -> int | None:
        """A descriptor of a local file with exactly this content, verified; valid until release."""
        return None

    @property
    def write_is_quick(self) -> bool:
        """Whether a small write or a truncation is over without a disk's sync. Does not block."""
        return True

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write, and return how many bytes were. May wait."""
        _ = offset, data
        read_only()

    def truncate(self, size_bytes: int) -> None:
        """Cut or extend. May wait."""
        _ = size_bytes
        read_only()

    def allocate(self, mode: int, offset: int, size_bytes: int) -> None:
        """What fallocate(2) asks. May wait."""
        _ = mode, offset, size_bytes
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def copy_fd(self) -> int | None:
        """A descriptor of a local file whose bytes are this one's; valid until release. At once."""
        return self.backing_fd()

    def copy_in(self, source: int, start: int, offset: int, size_bytes: int) -> int:
        """Copy from another file's `copy_fd`, as copy_file_range(2); how much was. May wait."""
        _ = source, start, offset, size_bytes
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def seek(self, offset: int, whence: int) -> int:
        """The next data or hole, as lseek(2) with SEEK_DATA or SEEK_HOLE. May wait."""
        _ = offset, whence
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def written_by(self, caller_pid: int) -> None:
        """Note the thread that asks for the next write, truncation, allocation or copy.

        Also called after a file was made, or emptied by its opening, with the thread that did it.
        Not called for pages that the kernel writes back: those have no caller. Does not block.
        """
        _ = caller_pid

    def opened_by(self, caller_pid: int) -> None:
        """Note the thread that has opened the file without changing it: it may map it."""
        _ = caller_pid

    def written_back(self) -> None:
        """Note that the next write is of pages of a mapping, which the kernel writes back."""
        return

    def flush(self, caller_pid: int) -> None:
        """What close(2) waits for: make it durable. Comes once per closed descriptor.

        Waits for the local disk only.
        """
        _ = caller_pid

    @property
    def settles(self) -> bool:
        """Whether close(2) calls `settle` after `flush`. At once."""
        return False

    def settle(self) -> None:
        """Wait for more than the local disk, as the settings say. May be given up. May wait."""
        return

    def fsync(self) -> None:
        """What fsync(2) waits for: the local disk, never the network."""
        return

    def release(self) -> None:
        """The last descriptor is gone. Never fails. May wait."""
        return


class Tree(Protocol):
    """The whole of it."""

    @property
    def root(self) -> Directory:
        """The directory that is mounted."""
        ...

    def space(self) -> FilesystemSpace:
        """What ``df`` shows. At once."""
        ...

    def subscribe(self, listener: Callable[[EntryChanged], None]) -> None:
        """Have `listener` called for each change; it must not wait."""
        ...

    def unsubscribe(self, listener: Callable[[EntryChanged], None]) -> None:
        """Stop calling `listener`."""
        ...


def kind_of(node: Node) -> Kind:
    """What `node` is, without asking for its attributes."""
    if isinstance(node, Directory):
        return Kind.DIRECTORY
    return Kind.LINK if isinstance(node, Link) else Kind.FILE


def read_only() -> NoReturn:
    """Refuse a change outside ``drop/``."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


T = TypeVar("T")


Number = tuple[int, Kind]


class ListedEntries(Sequence[DirectoryEntry], Generic[T]):
    """`names[i]` means what `node_of(values[i])` makes.

    `number_of` tells the number and the kind of that node without making it.
    """

    __slots__ = ("_names", "_node_of", "_number_of", "_values")

    def __init__(
        self,
        names: Sequence[str],
        values: Sequence[T],
        node_of: Callable[[T], Node],
        number_of: Callable[[T], Number] | None = None,
    ) -> None:
        self._names = names
        self._values = values
        self._node_of = node_of
        self._number_of = number_of or (lambda value: _number(node_of(value)))

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> DirectoryEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[DirectoryEntry]: ...
    def __getitem__(self, index: int | slice) -> DirectoryEntry | list[DirectoryEntry]:
        if isinstance(index, slice):
            return [
                DirectoryEntry(name, self._node_of(value))
                for name, value in zip(self._names[index], self._values[index], strict=True)
            ]
        return DirectoryEntry(self._names[index], self._node_of(self._values[index]))

    def __iter__(self) -> Iterator[DirectoryEntry]:
        for name, value in zip(self._names, self._values, strict=True):
            yield DirectoryEntry(name, self._node_of(value))

    def numbered(self, start: int, stop: int) -> Iterable[tuple[str, Number]]:
        """Names and numbers of the entries [start, stop)."""
        return zip(
            self._names[start:stop], map(self._number_of, self._values[start:stop]), strict=True
        )


def numbered(
    entries: Sequence[DirectoryEntry], start: int, stop: int
) -> Iterable[tuple[str, Number]]:
    """Names, numbers and kinds of the entries [start, stop) of any directory."""
    if isinstance(entries, ListedEntries):
        return entries.numbered(start, stop)
    return [(entry.name, _number(entry.node)) for entry in entries[start:stop]]


def _number(node: Node) -> Number:
    return node.ino, kind_of(node)
