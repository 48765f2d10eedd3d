"""The rooms beside the tree, in memory: a cache and an outbox that do what their contract says.

They stand in for ``cache.Store`` and ``drop.Outbox`` where a test is about the tree alone.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from artifactfs.byte_range import ByteRange
from artifactfs.errors import Gone
from artifactfs.model import Artifact
from tests.catalog.clock import START


def artifact(name: str, id: str | None = None, /, *, age_s: float = 0.0, **more: Any) -> Artifact:  # noqa: A002
    """An artifact called `name`, made `age_s` before the clock's start."""
    created = START - timedelta(seconds=age_s)
    return Artifact(
        **{
            "id": name if id is None else id,
            "filename": name,
            "created_at": created,
            "expires_at": created + timedelta(days=7),
            **more,
        }
    )


@dataclass(frozen=True)
class Usage:
    cached_bytes: int
    size_bytes: int | None
    verified: bool = False


@dataclass(frozen=True)
class Statistics:
    contents: int = 2
    cached_bytes: int = 300
    hits: int = 7
    fetched_bytes: int = 1000


class FakeTicket:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeContent:
    """Bytes that are all there, or gone."""

    is_as_before = True

    def __init__(self, data: bytes | None) -> None:
        self.data = data
        self.closed = False

    @property
    def size_bytes(self) -> int | None:
        return None if self.data is None else len(self.data)

    def try_read(self, start: int, stop: int) -> bytes | None:
        return None if self.data is None else self.data[start:stop]

    def request(self, span: ByteRange, done: Callable[[BaseException | None], None]) -> FakeTicket:
        done(Gone("it has expired") if self.data is None else None)
        return FakeTicket()

    def read(self, start: int, stop: int) -> bytes:
        if self.data is None:
            raise Gone("it has expired")
        return self.data[start:stop]

    def backing_fd(self) -> int | None:
        return None

    def close(self) -> None:
        self.closed = True


class FakeStore:
    """Contents by artifact id; `usages` says how much of each is cached."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes | None] = {}
        self.usages: dict[str, Usage] = {}
        self.pinned: set[str] = set()
        self.opened: list[FakeContent] = []

    def open(self, artifact: Artifact) -> FakeContent:
        if artifact.id not in self.contents:
            raise Gone(f"{artifact.id} is not there")
        content = FakeContent(self.contents[artifact.id])
        if artifact.size_bytes is None:
            self.usages[artifact.id] = Usage(0, content.size_bytes)
        self.opened.append(content)
        return content

    def usage(self, artifact: Artifact) -> Usage:
        return self.usages.get(artifact.id, Usage(0, artifact.size_bytes))

    def space(self) -> tuple[int, int]:
        return 1 << 30, 1 << 29

    def statistics(self) -> Statistics:
        return Statistics()

    def pin(self, artifact: Artifact) -> None:
        self.pinned.add(artifact.id)

    def unpin(self, artifact: Artifact) -> None:
        self.pinned.discard(artifact.id)


@dataclass(frozen=True)
class DropEntry:
    id: int
    path: str
    state: str = "writing"
    size_bytes: int = 0
    mode: int = 0o644
    mtime_ns: int = 1
    ctime_ns: int = 1
    sha256: str | None = None
    progress: float = 0.0
    error: str | None = None
    artifact_id: str | None = None
    waits_for_name: bool = False


@dataclass(frozen=True)
class DropFolder:
    id: int
    path: str
    mode: int = 0o755
    mtime_ns: int = 1
    ctime_ns: int = 1


def fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@dataclass
class Tally:
    states: Counter[str]
    pending_files: int
    pending_bytes: int
    sent_bytes: int


class FakeOutbox:
    """Files and folders by path; an open file goes by its entry's id."""

    def __init__(self) -> None:
        self.version = 0
        self.directory = Path("/spool/0")
        self.trouble: str | None = None
        self.found: dict[str, DropEntry | DropFolder] = {"": DropFolder(0, "")}
        self.data: dict[int, bytearray] = {}
        self.removed: dict[int, DropEntry] = {}
        self.left: list[DropEntry] = []
        self.calls: list[tuple[Any, ...]] = []
        self.listed = 0
        self.overtaken: dict[str, Callable[[], None]] = {}  # what happens while a path is found
        self.refusal: OSError | None = None
        self._next_id = 1

    def _new_id(self) -> int:
        self._next_id += 1
        self.version += 1
        return self._next_id

    def find(self, path: str) -> DropEntry | DropFolder | None:
        found = self.found.get(path)
        self.overtaken.pop(path, lambda: None)()
        return found

    def children(self, path: str) -> list[DropEntry | DropFolder]:
        return [
            one
            for name, one in sorted(self.found.items())
            if name and name.rpartition("/")[0] == path
        ]

    def entry(self, entry_id: int) -> DropEntry:
        for one in self.found.values():
            if isinstance(one, DropEntry) and one.id == entry_id:
                return one
        return self.removed[entry_id]

    def set(self, path: str, **changes: Any) -> None:
        self.found[path] = dataclasses.replace(self.found[path], **changes)

    def create(self, path: str, mode: int, *, exclusive: bool = False) -> FakeOpenFile:
        if self.refusal is not None:
            raise self.refusal
        if path in self.found and exclusive:
            raise fail(errno.EEXIST)
        entry = DropEntry(self._new_id(), path, mode=mode)
        self.found[path] = entry
        self.data[entry.id] = bytearray()
        return FakeOpenFile(self, entry.id)

    def open(self, path: str, flags: int) -> FakeOpenFile:
        found = self.found[path]
        if flags & os.O_TRUNC:
            self.data[found.id] = bytearray()
            self.set(path, size_bytes=0)
        return FakeOpenFile(self, found.id)

    def make_folder(self, path: str, mode: int) -> DropFolder:
        folder = self.found[path] = DropFolder(self._new_id(), path, mode)
        return folder

    def remove_folder(self, path: str) -> None:
        if self.children(path):
            raise fail(errno.ENOTEMPTY)
        del self.found[path]
        self.version += 1

    def unlink(self, path: str) -> None:
        entry = self.found.pop(path)
        assert isinstance(entry, DropEntry)
        self.removed[entry.id] = entry
        self.version += 1

    def rename(self, old: str, new: str, flags: int) -> None:
        self.calls.append(("rename", old, new, flags))
        replaced = self.found.get(new)
        if isinstance(replaced, DropEntry):
            self.removed[replaced.id] = replaced
        for path in [one for one in self.found if one == old or one.startswith(f"{old}/")]:
            moved = new + path[len(old) :]
            self.found[moved] = dataclasses.replace(self.found.pop(path), path=moved)
        self.version += 1

    def change(self, path: str, **changes: Any) -> None:
        self.calls.append(("change", path, changes))
        self.set(path, **{name: one for name, one in changes.items() if one is not None})

    def sync(self) -> None:
        self.calls.append(("sync",))

    def retry(self, path: str | None = None) -> int:
        self.calls.append(("retry", path))
        return 1

    @property
    def revision(self) -> tuple[DropEntry, ...]:
        return tuple(one for one in self.found.values() if isinstance(one, DropEntry))

    def entries(self) -> list[DropEntry]:
        self.listed += 1
        return [one for one in self.found.values() if isinstance(one, DropEntry)]

    def tally(self) -> Tally:
        waiting = [one for one in self.entries() if one.state in ("queued", "uploading")]
        return Tally(
            Counter(str(one.state) for one in self.entries()),
            len(waiting),
            sum(one.size_bytes for one in waiting),
            sum(int(one.size_bytes * one.progress) for one in waiting),
        )


class FakeOpenFile:
    def __init__(self, outbox: FakeOutbox, entry_id: int) -> None:
        self._outbox = outbox
        self._id = entry_id
        self.flushed_by: list[int] = []

    @property
    def entry(self) -> DropEntry:
        return self._outbox.entry(self._id)

    @property
    def size_bytes(self) -> int:
        return len(self._outbox.data[self._id])

    def read(self, start: int, stop: int) -> bytes:
        return bytes(self._outbox.data[self._id][start:stop])

    def write(self, offset: int, data: bytes | memoryview) -> int:
        self._outbox.data[self._id][offset : offset + len(data)] = data
        self._resized()
        return len(data)

    def truncate(self, size_bytes: int) -> None:
        data = self._outbox.data[self._id]
        self._outbox.data[self._id] = bytearray(bytes(data[:size_bytes]).ljust(size_bytes, b"\0"))
        self._resized()

    def _resized(self) -> None:
        entry = self.entry
        new = dataclasses.replace(entry, size_bytes=self.size_bytes)
        if self._outbox.found.get(entry.path) is entry:
            self._outbox.found[entry.path] = new
        else:
            self._outbox.removed[entry.id] = new

    def seek(self, offset: int, whence: int) -> int:
        return offset

    def flush(self, caller_pid: int) -> None:
        self.flushed_by.append(caller_pid)

    def fsync(self) -> None:
        return

    def release(self) -> None:
        return
