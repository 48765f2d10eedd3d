"""Between the workers and the book: what they may know of it, and what becomes of arrivals."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from artifactfs.clock import Clock
from artifactfs.model import Artifact
from artifactfs.outbox.entry_store import EntryStore
from artifactfs.outbox.hashing import IncrementalHash, KeptHashes
from artifactfs.outbox.state import (
    IN_FLIGHT,
    EntryState,
    OutboxEntry,
)
from artifactfs.outbox.upload_log import UploadLog
from artifactfs.outbox.upload_worker import UploadTask
from artifactfs.outbox.uploader import UploadResult

_TO_GO = frozenset({EntryState.QUEUED, *IN_FLIGHT})

_log = logging.getLogger(__name__)


class Dispatch:
    """The workers' `UploadSource`. Stateless: all state is the book's."""

    def __init__(
        self,
        book: EntryStore,
        hashes: KeptHashes,
        on_uploaded: Callable[[Artifact, Path | None], None],
        audit: UploadLog | None,
        clock: Clock,
    ) -> None:
        self._book = book
        self._hashes = hashes
        self._on_uploaded = on_uploaded
        self._audit = audit
        self._clock = clock

    def waiting(self, entry_id: int) -> OutboxEntry | None:
        """The entry, if it may go: it is queued, or whoever was at it has left it as it is."""
        entry = self._book.view.stored(entry_id)
        if entry is None or entry.state not in _TO_GO or entry.waits_for_name:
            return None
        return entry

    def move(self, entry: OutboxEntry, state: EntryState, **changes: Any) -> OutboxEntry | None:
        """Move an entry if it is still as `entry` says; how it is now, or None if it was not."""
        moved = self._book.move(entry, state, **changes)
        if moved is not None:
            self._book.view.set_progress(entry.id, 1.0 if state is EntryState.UPLOADED else None)
            self._book.told(moved.path)
        return moved

    def work(self, entry: OutboxEntry) -> UploadTask:
        """What a worker needs of an entry: its file and its rows."""
        return UploadTask(entry, self._book.slot.path(entry.file), self._book.journal)

    def hash_of(self, entry: OutboxEntry) -> IncrementalHash | None:
        """What was hashed of an entry while it was written, to be carried on."""
        return self._hashes.take(entry.id, entry.generation)

    def progress(self, entry: OutboxEntry, part: float) -> None:
        """How much of an entry has been sent, from 0 to 1."""
        self._book.view.set_progress_of(entry, part)

    def arrived(self, entry: OutboxEntry, arrival: UploadResult, took_s: float) -> None:
        """An entry is on the service: in the cache, in the records, and then `uploaded`.

        The cache gets the bytes of the generation that was sent, or none: then they are fetched
        when they are read.
        """
        artifact = arrival.artifact
        try:
            with self._linked(entry) as path:
                self._on_uploaded(artifact, path)
        except Exception:  # noqa: BLE001 - it is on the service; the cache can fetch it
            _log.exception("%s is uploaded but not in the cache", entry.path)
        now = self._clock.now()
        if self._audit is not None:
            self._audit.note(entry, artifact.id, arrival.how, now, took_s)
        self.move(
            entry,
            EntryState.UPLOADED,
            artifact_id=artifact.id,
            uploaded_at=now.timestamp(),
            error=None,
        )

    @contextlib.contextmanager
    def _linked(self, entry: OutboxEntry) -> Iterator[Path | None]:
        """A name of the bytes of this very generation; None if the entry is of another by now.

        The link is made while the generation cannot change, and a writer raises the generation
        before it counts the links: so it finds this one, and leaves these bytes alone.
        """
        linked: Path | None = None
        with self._book.changing:
            if self._book.is_current(entry):
                try:
                    linked = self._book.slot.link(entry.file)
                except OSError as error:
                    _log.debug("%s cannot be linked: %s", entry.path, error)
        try:
            yield linked
        finally:
            if linked is not None:
                linked.unlink(missing_ok=True)
