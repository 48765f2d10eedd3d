"""The threads that take entries from the queue to the service."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from artifactfs.artifact import Artifact
from artifactfs.clock import Clock
from artifactfs.drop.journal import Journal
from artifactfs.drop.states import Entry, State
from artifactfs.drop.uploader import Shipment, Uploader, hash_file
from artifactfs.errors import (
    ArtifactfsError,
    Cancelled,
    Conflict,
    Refused,
    StorageFull,
    TimedOut,
    TokenMissing,
    TokenRejected,
    Unreachable,
)

FIRST_PAUSE_S = 1.0
MOST_PAUSE_S = 60.0
MISMATCHES = 2

_PASSING = (Conflict, StorageFull, TimedOut, TokenMissing, TokenRejected, Unreachable)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """An entry, its file, and its rows: also the ledger of its multipart upload."""

    entry: Entry
    path: Path
    journal: Journal

    def multipart(self) -> tuple[str, int, int] | None:
        return self.journal.multipart(self.entry.id, self.entry.generation)

    def begin(self, upload_id: str, part_size_bytes: int, part_count: int) -> None:
        self.journal.begin_multipart(self.entry, upload_id, part_size_bytes, part_count)

    def add_part(self, number: int, etag: str) -> None:
        self.journal.add_part(self.entry.id, number, etag)

    def end(self) -> None:
        self.journal.end_multipart(self.entry.id)


class Queue(Protocol):
    """What workers need of the outbox."""

    def candidates(self) -> list[Entry]: ...
    def move(self, entry: Entry, state: State, **more: object) -> Entry | None: ...
    def work(self, entry: Entry) -> Work: ...
    def progress(self, entry_id: int, part: float) -> None: ...


@dataclass(slots=True)
class _Trouble:
    """What went wrong with an entry, how often, and when it is its turn again."""

    times: int = 0
    again_at_s: float = 0.0
    error: BaseException | None = None


class Worker:
    """The uploading threads. `_changed`'s lock guards who works on what, and the troubles."""

    def __init__(
        self,
        queue: Queue,
        uploader: Uploader,
        known: Callable[[str], Artifact | None],
        on_uploaded: Callable[[Artifact, Path], None],
        clock: Clock,
        threads: int,
    ) -> None:
        self._queue = queue
        self._uploader = uploader
        self._known = known
        self._on_uploaded = on_uploaded
        self._clock = clock
        self._changed = threading.Condition()
        self._working: dict[int, threading.Event] = {}
        self._troubles: dict[int, _Trouble] = {}
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"upload-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self, timeout_s: float) -> None:
        """Stop what is under way and end the threads, within this time."""
        with self._changed:
            self._closing = True
            for cancelled in self._working.values():
                cancelled.set()
            self._changed.notify_all()
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline_s - time.monotonic()))

    def wake(self) -> None:
        """Something may be ready."""
        with self._changed:
            self._changed.notify_all()

    def cancel(self, entry_id: int) -> None:
        """Let go of an entry; does not wait."""
        with self._changed:
            cancelled = self._working.get(entry_id)
            if cancelled is not None:
                cancelled.set()

    def forgive(self) -> None:
        """Nothing has to wait for its next turn any more."""
        with self._changed:
            self._troubles.clear()
            self._changed.notify_all()

    def last_error(self, entry_id: int) -> BaseException | None:
        """What made an entry fail."""
        with self._changed:
            trouble = self._troubles.get(entry_id)
            return trouble.error if trouble is not None else None

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closing:
                    return
                taken = self._take()
                if taken is None:
                    self._changed.wait(self._pause_s())
                    continue
                entry, cancelled = taken
            try:
                self._process(entry, cancelled)
            except Exception as error:  # noqa: BLE001 - a thread that ends would upload nothing
                _log.exception("%s: the upload broke", entry.path)
                self._put_back(entry, error)
            finally:
                with self._changed:
                    self._working.pop(entry.id, None)
                    self._changed.notify_all()

    def _take(self) -> tuple[Entry, threading.Event] | None:
        now_s = self._clock.monotonic_s()
        for entry in self._queue.candidates():
            trouble = self._troubles.get(entry.id)
            if entry.id in self._working or (trouble and trouble.again_at_s > now_s):
                continue
            cancelled = self._working[entry.id] = threading.Event()
            return entry, cancelled
        return None

    def _pause_s(self) -> float | None:
        now_s = self._clock.monotonic_s()
        turns = [one.again_at_s - now_s for one in self._troubles.values()]
        waits = [turn for turn in turns if turn > 0]
        return max(0.01, min(waits)) if waits else None

    def _process(self, queued: Entry, cancelled: threading.Event) -> None:
        entry: Entry | None = queued
        work = self._queue.work(queued)
        digest, size_bytes = queued.sha256, queued.size_bytes
        if digest is None:
            entry = self._queue.move(queued, State.HASHING)
            if entry is None:
                return
            try:
                digest, size_bytes = hash_file(work.path, cancelled)
            except Cancelled:
                self._queue.move(entry, State.QUEUED)
                return
            except OSError as error:
                self._fail(entry, error)
                return
        assert entry is not None
        entry = self._queue.move(entry, State.UPLOADING, sha256=digest)
        if entry is None:
            return
        work = self._queue.work(entry)
        try:
            artifact = self._artifact(entry, work, digest, size_bytes, cancelled)
        except Cancelled:
            self._queue.move(entry, State.QUEUED)
        except _PASSING as error:
            self._put_back(entry, error)
        except Refused as error:
            if error.code == "sha256_mismatch" and self._times(entry.id) < MISMATCHES:
                work.end()
                self._put_back(entry, error)
            else:
                self._fail(entry, error)
        except (ArtifactfsError, OSError) as error:
            self._fail(entry, error)
        else:
            self._arrived(entry, work, artifact)

    def _artifact(
        self, entry: Entry, work: Work, digest: str, size_bytes: int, cancelled: threading.Event
    ) -> Artifact:
        known = self._known(digest)
        if known is not None and known.filename == entry.path and known.status == "ready":
            return known
        may_exist = known is not None or self._times(entry.id) > 0
        name = entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        shipment = Shipment(work.path, name, digest, size_bytes, may_exist)

        def sent(count: int, total: int) -> None:
            self._queue.progress(entry.id, min(1.0, count / total) if total else 1.0)

        return self._uploader.upload(shipment, work, cancelled, sent)

    def _arrived(self, entry: Entry, work: Work, artifact: Artifact) -> None:
        try:
            self._on_uploaded(artifact, work.path)
        except Exception:  # noqa: BLE001 - it is on the service; the cache can fetch it
            _log.exception("%s is uploaded but not in the cache", entry.path)
        with self._changed:
            self._troubles.pop(entry.id, None)
        self._queue.move(
            entry,
            State.UPLOADED,
            artifact_id=artifact.id,
            uploaded_at=self._clock.now().timestamp(),
        )

    def _times(self, entry_id: int) -> int:
        with self._changed:
            trouble = self._troubles.get(entry_id)
            return trouble.times if trouble is not None else 0

    def _put_back(self, entry: Entry, error: BaseException) -> None:
        with self._changed:
            trouble = self._troubles.setdefault(entry.id, _Trouble())
            trouble.times += 1
            pause_s = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(trouble.times - 1, 10))
            trouble.again_at_s = self._clock.monotonic_s() + pause_s
            first = trouble.times == 1
        if first:
            _log.warning("%s is not uploaded yet, it is tried again: %s", entry.path, error)
        self._queue.move(entry, State.QUEUED, error=str(error))

    def _fail(self, entry: Entry, error: BaseException) -> None:
        with self._changed:
            self._troubles[entry.id] = _Trouble(error=error)
        _log.error("%s is not uploaded: %s", entry.path, error)
        self._queue.move(entry, State.FAILED, error=str(error))
