"""``.artifactfs/``: what a mount says of itself, as files.

    status.json    which service and mount this is, its listing, cache, uploads and orders
    uploads.json   every entry of the outbox
    cache.json     what the cache holds and has done
    metrics.prom   the same as numbers for Prometheus (OpenMetrics 1.0)
    version        the version of this program

``artifactfs status`` reads them, and so can anything that reads files. A file is made when it is
opened and stays as it was then for that reader; the kernel keeps nothing of it. A read-only mount
has no outbox, and its uploads are none. Making one asks
nobody but memory, and a file that can be long is made once per change (``control_dir``).

The text of ``.artifactfs/uploads.json``: made once per change, and only what has changed.

The file says everything of every entry, so with ten thousand of them it is megabytes long, and it
has an honest size: whoever lists the directory or looks at the file asks for it, opened or not. So
the text is kept, with the outbox's *revision* it was made of; as long as that is the same, so is
the text. Of a newer one only the pieces of entries that are others now are made anew: while files
are being sent, that is a handful. Entries are immutable, so "another" is told by identity.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from artifactfs import __version__
from artifactfs.catalog import Catalog
from artifactfs.clock import Clock
from artifactfs.vfs import metrics_text
from artifactfs.vfs.artifact_file import nanoseconds
from artifactfs.vfs.filenames import joined
from artifactfs.vfs.inode_numbers import SameByNumber, fixed_ino
from artifactfs.vfs.interfaces import (
    CacheView,
    EntryStatus,
    OutboxView,
)
from artifactfs.vfs.node import (
    Attributes,
    Directory,
    DirectoryEntry,
    File,
    Handle,
    Kind,
    Node,
    read_only,
)
from artifactfs.vfs.orders import PendingOrders
from artifactfs.vfs.xattrs import Commands, as_text

CONTROL = ".artifactfs"

Facts = Callable[[], dict[str, object]]


class ControlContext:
    """Makes the contents. Stateless but for the text of uploads: the rooms are asked each time."""

    def __init__(
        self,
        catalog: Catalog,
        store: CacheView,
        outbox: OutboxView | None,
        facts: Facts,
        clock: Clock,
        orders: PendingOrders,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._outbox = outbox
        self._facts = facts
        self._clock = clock
        self._orders = orders
        self._uploads_text = UploadsText(outbox) if outbox is not None else None

    def status(self) -> bytes:
        """``status.json``."""
        facts: dict[str, object] = {"version": __version__, **self._facts()}
        if self._outbox is not None:
            facts["spool"] = str(self._outbox.directory)
        return _as_json(
            {
                **facts,
                "listing": self._listing(),
                "cache": self._cache(),
                "uploads": self._uploads(),
                "orders": self._orders.document(),
            }
        )

    def uploads(self) -> bytes:
        """``uploads.json``."""
        return self._uploads_text.now() if self._uploads_text is not None else NO_UPLOADS

    def cache(self) -> bytes:
        """``cache.json``."""
        return _as_json(self._cache())

    def version(self) -> bytes:
        """``version``."""
        return f"{__version__}\n".encode()

    def metrics(self) -> bytes:
        """``metrics.prom``."""
        binding = self._facts().get("binding")
        return metrics_text.text(
            self._listing(),
            self._uploads(),
            self._cache(),
            binding if isinstance(binding, dict) else {},
        ).encode()

    def _listing(self) -> dict[str, Any]:
        snapshot = self._catalog.snapshot
        fetched_at = snapshot.fetched_at
        age_s = (self._clock.now() - fetched_at).total_seconds() if fetched_at else None
        overdue = self._catalog.overdue
        return {
            "artifacts": len(snapshot.artifacts),
            "fetched_at": as_text(fetched_at) if fetched_at else None,
            "age_s": round(max(0.0, age_s), 3) if age_s is not None else None,
            "stale": snapshot.stale or overdue,
            "error": snapshot.error or ("the service has not answered yet" if overdue else None),
        }

    def _cache(self) -> dict[str, Any]:
        total_bytes, free_bytes = self._store.space()
        statistics = dataclasses.asdict(self._store.statistics())
        return {**statistics, "space_total_bytes": total_bytes, "space_free_bytes": free_bytes}

    def _uploads(self) -> dict[str, Any]:
        if self._outbox is None:
            counts = ("pending_files", "pending_bytes", "sent_bytes", "failed", "interrupted")
            return {**dict.fromkeys(counts, 0), "error": None}
        tally = self._outbox.tally()
        states = {str(state): count for state, count in tally.states.items()}
        return {
            "pending_files": tally.pending_files,
            "pending_bytes": tally.pending_bytes,
            "sent_bytes": tally.sent_bytes,
            "failed": states.get("failed", 0),
            "interrupted": states.get("interrupted", 0),
            "error": self._outbox.trouble,
        }


class ControlDirectory(SameByNumber, Directory):
    """``.artifactfs/``."""

    __slots__ = ("_clock", "_commands", "_files", "_made_ns", "ino")

    ino: int

    def __init__(self, control: ControlContext, given: Commands, clock: Clock) -> None:
        self.ino = fixed_ino(CONTROL)
        self._commands = given
        self._clock = clock
        self._made_ns = nanoseconds(clock.now())
        contents: Mapping[str, Callable[[], bytes]] = {
            "status.json": control.status,
            "uploads.json": control.uploads,
            "cache.json": control.cache,
            "metrics.prom": control.metrics,
            "version": control.version,
        }
        self._files = {name: ControlFile(name, made, clock) for name, made in contents.items()}

    def attributes(self) -> Attributes:
        return Attributes(self.ino, Kind.DIRECTORY, 0o555, 0, 2, self._made_ns, self._made_ns)

    def find(self, name: str) -> Node | None:
        return self._files.get(name)

    def entries(self) -> Sequence[DirectoryEntry]:
        return [DirectoryEntry(name, file) for name, file in self._files.items()]

    @property
    def listing_version(self) -> int:
        return 1

    def set_xattr(self, name: str, value: bytes) -> None:
        self._commands.refresh_or_refuse(name, value)


class ControlFile(SameByNumber, File):
    """A file whose content is made when it is opened; its size is that of a content made now."""

    __slots__ = ("_clock", "_made", "ino")

    ino: int

    def __init__(self, name: str, made: Callable[[], bytes], clock: Clock) -> None:
        self.ino = fixed_ino(joined(CONTROL, name))
        self._made = made
        self._clock = clock

    def attributes(self) -> Attributes:
        now_ns = nanoseconds(self._clock.now())
        return Attributes(self.ino, Kind.FILE, 0o444, len(self._made()), 1, now_ns, now_ns)

    def open(self, flags: int) -> Handle:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            read_only()
        return GeneratedHandle(self._made())

    def set_xattr(self, name: str, value: bytes) -> None:
        _ = name, value
        read_only()


class GeneratedHandle(Handle):
    """Bytes that were made when the file was opened."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def direct_io(self) -> bool:
        return True

    def try_read(self, start: int, stop: int) -> bytes:
        return self._content[start:stop]

    def read(self, start: int, stop: int) -> bytes:
        return self._content[start:stop]


def _as_json(document: Mapping[str, object]) -> bytes:
    return (json.dumps(document, indent=2, default=str) + "\n").encode()


_BEFORE, _BETWEEN, _AFTER = '{\n  "uploads": [', ",", "\n  ]\n}\n"
NO_UPLOADS = b'{\n  "uploads": []\n}\n'
_INDENTED = "\n" + 4 * " "


class UploadsText:
    """The text, as JSON indented by two.

    `_lock` guards what is kept, and is held while it is made, so that several who ask at once have
    it made once.
    """

    def __init__(self, outbox: OutboxView) -> None:
        self._outbox = outbox
        self._lock = threading.Lock()
        self._revision: Hashable = None
        self._pieces: dict[int, tuple[EntryStatus, str]] = {}
        self._text = b""

    def now(self) -> bytes:
        """What it says of the outbox as it is. Asks nobody but memory."""
        with self._lock:
            revision = self._outbox.revision
            if revision != self._revision:
                entries = self._outbox.entries()
                self._pieces = {one.id: (one, self._piece(one)) for one in entries}
                pieces = _BETWEEN.join(piece for _, piece in self._pieces.values())
                text = f"{_BEFORE}{pieces}{_AFTER}".encode() if pieces else NO_UPLOADS
                self._text, self._revision = text, revision
            return self._text

    def _piece(self, entry: EntryStatus) -> str:
        kept = self._pieces.get(entry.id)
        return kept[1] if kept is not None and kept[0] is entry else _piece_of(entry)


def _piece_of(entry: EntryStatus) -> str:
    document = {
        "name": entry.path,
        "state": str(entry.state),
        "size": entry.size_bytes,
        "progress": entry.progress,
        "sha256": entry.sha256,
        "artifact_id": entry.artifact_id,
        "error": entry.error,
        "waits_for_name": entry.waits_for_name,
    }
    return _INDENTED + json.dumps(document, indent=2).replace("\n", _INDENTED)
