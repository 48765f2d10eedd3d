"""The threads that take entries from the queue to the service.

For small files and for large ones there are as many threads as connections each, so that the one
kind never occupies what the other needs; how many connections are in use at once is
`TransferLimiter`'s business. An entry is taken in its turn (``upload_queue``), and what happens to
it is decided by its row: whatever was overwritten, renamed or removed meanwhile is let go at the
next move.

What passes (the service is away, a token has expired, the storage is full) is tried again after a
while that grows to a minute, for ever; what the service refuses for good is `failed`, with its
words. A refusal because of the hash is looked into: if the file in the spool is not any more what
its writer had closed, that is what its error says, and `retry` means "as it is now".
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from artifactfs.clock import Clock
from artifactfs.errors import (
    ArtifactfsError,
    Cancelled,
    Conflict,
    DropError,
    Refused,
    StorageFull,
    TimedOut,
    TokenMissing,
    TokenRejected,
    Unreachable,
)
from artifactfs.model import Artifact
from artifactfs.outbox.hashing import IncrementalHash, hash_file
from artifactfs.outbox.journal import Journal
from artifactfs.outbox.state import (
    IN_FLIGHT,
    EntryState,
    OutboxEntry,
)
from artifactfs.outbox.transfer import Upload, UploadProgress
from artifactfs.outbox.upload_queue import SizeClass, UploadQueue
from artifactfs.outbox.uploader import Uploader, UploadResult

FIRST_PAUSE_S = 1.0
MOST_PAUSE_S = 60.0
MOST_REFUSALS = 2
MOST_WARNINGS = 10
BUSY_S = 0.03

_PASSING = (Conflict, StorageFull, TimedOut, TokenMissing, TokenRejected, Unreachable)
_ASK_AGAIN = frozenset({"sha256_mismatch", "incomplete", "invalid_parts"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UploadTask:
    """An entry, its file, and its rows: also the ledger of its multipart upload."""

    entry: OutboxEntry
    path: Path
    journal: Journal

    def multipart(self) -> tuple[str, int, int] | None:
        return self.journal.multipart(self.entry)

    def parts(self, upload_id: str) -> dict[int, str]:
        return self.journal.parts(upload_id)

    def begin(self, upload_id: str, part_size_bytes: int, part_count: int) -> None:
        self.journal.begin_multipart(self.entry, upload_id, part_size_bytes, part_count)

    def add_part(self, upload_id: str, number: int, etag: str) -> None:
        self.journal.add_part(upload_id, number, etag)

    def end(self, upload_id: str) -> None:
        self.journal.end_multipart(upload_id)


class UploadSource(Protocol):
    """What workers need of the outbox."""

    def waiting(self, entry_id: int) -> OutboxEntry | None: ...
    def move(self, entry: OutboxEntry, state: EntryState, **changes: Any) -> OutboxEntry | None: ...
    def work(self, entry: OutboxEntry) -> UploadTask: ...
    def hash_of(self, entry: OutboxEntry) -> IncrementalHash | None: ...
    def progress(self, entry: OutboxEntry, part: float) -> None: ...
    def arrived(self, entry: OutboxEntry, arrival: UploadResult, took_s: float) -> None: ...


@dataclass(slots=True)
class _Failure:
    """What went wrong with one generation of an entry, and how often."""

    generation: int
    times: int = 0
    error: BaseException | None = None


@dataclass(slots=True)
class _ActiveUpload:
    """An entry somebody works on. `again_at_s`: it stands in line again as soon as he is done."""

    cancelled: threading.Event
    again_at_s: float | None = None


class UploadWorker:
    """The uploading threads. `_lock` guards the lines, who works on what, and the troubles.

    Of the threads that wait in a lane one wakes when the next entry's time has come (`_timing` says
    that there is one), the others when they are called.
    """

    def __init__(
        self,
        queue: UploadSource,
        uploader: Uploader,
        known: Callable[[str], Artifact | None],
        clock: Clock,
        threads: int,
    ) -> None:
        self._queue = queue
        self._uploader = uploader
        self._known = known
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = {lane: threading.Condition(self._lock) for lane in SizeClass}
        self._timing = dict.fromkeys(SizeClass, False)
        self._active = dict.fromkeys(SizeClass, 0)
        self._offered_at_s = -BUSY_S
        self._turns = UploadQueue()
        self._working: dict[int, _ActiveUpload] = {}
        self._troubles: dict[int, _Failure] = {}
        self._closing = False
        self._threads = [
            threading.Thread(
                target=self._run, args=(lane,), name=f"upload-{lane.value}-{number}", daemon=True
            )
            for lane in SizeClass
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self, timeout_s: float) -> None:
        """Stop what is under way and end the threads, within this time."""
        with self._lock:
            self._closing = True
            for job in self._working.values():
                job.cancelled.set()
            self._wake_all()
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline_s - time.monotonic()))

    def offer(self, entry: OutboxEntry, delay_s: float = 0.0) -> None:
        """An entry is queued: it stands in line, from after `delay_s` on."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._offered_at_s = now_s
            job = self._working.get(entry.id)
            if job is not None:
                job.again_at_s = now_s + delay_s
                return
            self._put(entry, now_s + delay_s, now_s)

    def _put(self, entry: OutboxEntry, at_s: float, now_s: float) -> None:
        lane = self._uploader.lane_of(entry.size_bytes)
        self._turns.put(entry.id, entry.turn, lane, at_s, now_s)
        self._changed[lane].notify()

    def _wake_all(self) -> None:
        for changed in self._changed.values():
            changed.notify_all()

    def withdraw(self, entry_id: int) -> None:
        """Let go of an entry; does not wait."""
        with self._lock:
            self._turns.drop(entry_id)
            self._troubles.pop(entry_id, None)
            job = self._working.get(entry_id)
            if job is not None:
                job.again_at_s = None
                job.cancelled.set()

    def forgive(self) -> None:
        """Nothing has to wait for its next turn any more."""
        with self._lock:
            self._troubles.clear()
            self._turns.hurry()
            self._wake_all()

    def last_error(self, entry: OutboxEntry) -> BaseException | None:
        """What made an entry fail."""
        with self._lock:
            return self._trouble(entry).error

    def _trouble(self, entry: OutboxEntry) -> _Failure:
        """What is known of this generation of an entry. `_lock` is held."""
        trouble = self._troubles.get(entry.id)
        if trouble is None or trouble.generation != entry.generation:
            trouble = _Failure(entry.generation)
        return trouble

    def _run(self, lane: SizeClass) -> None:
        while (taken := self._next(lane)) is not None:
            entry_id, job = taken
            try:
                self._take(entry_id, job.cancelled)
            except Exception:  # noqa: BLE001 - a thread that ends would upload nothing
                _log.exception("an upload broke; it is tried again")
                job.again_at_s = self._clock.monotonic_s() + MOST_PAUSE_S / 4
            finally:
                self._finish(lane, entry_id, job)

    def _next(self, lane: SizeClass) -> tuple[int, _ActiveUpload] | None:
        """Wait for the next entry; None at the end."""
        changed = self._changed[lane]
        with self._lock:
            while not self._closing:
                now_s = self._clock.monotonic_s()
                if self._must_yield(lane, now_s):
                    changed.wait(BUSY_S)
                    continue
                entry_id = self._turns.take(lane, now_s)
                if entry_id is not None:
                    job = self._working[entry_id] = _ActiveUpload(threading.Event())
                    self._active[lane] += 1
                    changed.notify()  # perhaps there is one more, or a time to wait for
                    return entry_id, job
                next_s = self._turns.next_s(lane)
                if next_s is None or self._timing[lane]:
                    changed.wait()
                    continue
                self._timing[lane] = True
                try:
                    changed.wait(max(0.001, next_s - now_s))
                finally:
                    self._timing[lane] = False
        return None

    def _must_yield(self, lane: SizeClass, now_s: float) -> bool:
        """Whether one upload of this lane at a time is enough, while files keep being closed.

        All threads of a process share one interpreter: those that upload would make those wait that
        answer the program which is writing just now.
        """
        return self._active[lane] > 0 and now_s - self._offered_at_s < BUSY_S

    def _finish(self, lane: SizeClass, entry_id: int, job: _ActiveUpload) -> None:
        waiting = self._queue.waiting(entry_id)
        with self._lock:
            self._active[lane] -= 1
            self._working.pop(entry_id, None)
            if job.again_at_s is not None and waiting is not None:
                self._put(waiting, job.again_at_s, self._clock.monotonic_s())

    def _take(self, entry_id: int, cancelled: threading.Event) -> None:
        entry = self._queue.waiting(entry_id)
        if entry is not None and entry.state in IN_FLIGHT:
            # Its last move could not be written down: the journal's disk was full.
            entry = self._queue.move(entry, EntryState.QUEUED)
        if entry is not None:
            self._process(entry, cancelled)

    def _process(self, queued: OutboxEntry, cancelled: threading.Event) -> None:
        began_s = self._clock.monotonic_s()
        hashed = self._hashed(queued, cancelled)
        if hashed is None:
            return
        entry, digest = hashed
        moved = self._queue.move(entry, EntryState.UPLOADING, sha256=digest, tried=True)
        if moved is None:
            return
        work = self._queue.work(moved)
        try:
            arrival = self._arrival(moved, work, digest, entry.tried, cancelled)
        except Cancelled:
            self._requeue(moved)
        except _PASSING as error:
            self._put_back(moved, error)
        except Refused as error:
            self._refused(moved, work, error, cancelled)
        except (ArtifactfsError, OSError) as error:
            self._fail(moved, error)
        else:
            with self._lock:
                if self._trouble(moved).times:
                    del self._troubles[moved.id]
            took_s = self._clock.monotonic_s() - began_s
            self._queue.arrived(moved, arrival, took_s)

    def _hashed(
        self, queued: OutboxEntry, cancelled: threading.Event
    ) -> tuple[OutboxEntry, str] | None:
        """The entry, and the hash of its bytes; None if there is no more to do with it now."""
        path = self._queue.work(queued).path
        entry: OutboxEntry | None = queued
        if queued.sha256 is None:
            entry = self._queue.move(queued, EntryState.HASHING)
        if entry is None:
            return None
        try:
            size_bytes = path.stat().st_size
            if size_bytes != entry.size_bytes:
                raise DropError(
                    f"its file in the spool has {size_bytes} bytes, {entry.size_bytes} were closed"
                )
            return entry, entry.sha256 or self._hash(entry, path, cancelled)
        except Cancelled:
            self._requeue(entry)
        except (OSError, DropError) as error:
            self._fail(entry, error)
        return None

    def _hash(self, entry: OutboxEntry, path: Path, cancelled: threading.Event) -> str:
        rolling = self._queue.hash_of(entry)
        digest = None if rolling is None else rolling.finish(entry.size_bytes, cancelled)
        return digest or hash_file(path, cancelled)[0]

    def _arrival(
        self,
        entry: OutboxEntry,
        work: UploadTask,
        digest: str,
        tried: bool,
        cancelled: threading.Event,
    ) -> UploadResult:
        known = self._known(digest)
        name = entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        shipment = Upload(
            work.path,
            name,
            digest,
            entry.size_bytes,
            self._uploader.lane_of(entry.size_bytes),
            may_exist=tried or known is not None,
            since=datetime.fromtimestamp(entry.closed_at, UTC) if tried else None,
            known_id=None if known is None else known.id,
        )

        def sent(count: int, total: int) -> None:
            self._queue.progress(entry, min(1.0, count / total) if total else 1.0)

        return self._uploader.upload(shipment, work, UploadProgress(cancelled, sent))

    # What went wrong

    def _refused(
        self, entry: OutboxEntry, work: UploadTask, error: Refused, cancelled: threading.Event
    ) -> None:
        if error.code not in _ASK_AGAIN:
            self._fail(entry, error)
            return
        begun = work.multipart()
        if error.code == "sha256_mismatch":
            if begun is not None:
                work.end(begun[0])
            try:
                digest, _ = hash_file(work.path, cancelled)
            except (OSError, Cancelled):
                digest = entry.sha256 or ""
            if digest != entry.sha256:
                changed = DropError(
                    "its file in the spool is not any more what was closed",
                    remedy="`artifactfs retry` uploads it as it is now",
                )
                self._fail(entry, changed, sha256=None)
                return
        with self._lock:
            times = self._trouble(entry).times
        if times < MOST_REFUSALS:
            self._put_back(entry, error)
        else:
            self._fail(entry, error)

    def _requeue(self, entry: OutboxEntry) -> None:
        """Whoever has cancelled it offers it again, if it is to go again."""
        queued = self._queue.move(entry, EntryState.QUEUED)
        if queued is not None and not self._closing:
            self.offer(queued)

    def _put_back(self, entry: OutboxEntry, error: BaseException) -> None:
        queued = entry
        if entry.state is not EntryState.QUEUED:
            moved = self._queue.move(entry, EntryState.QUEUED, error=str(error))
            if moved is None:
                return
            queued = moved
        with self._lock:
            trouble = self._troubles[entry.id] = self._trouble(entry)
            trouble.times += 1
            pause_s = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(trouble.times - 1, 10))
            said = trouble.times > 1
            many = len(self._troubles) > MOST_WARNINGS
        if not said:
            # While the service is away, ten thousand entries need not say so one by one.
            _log.log(
                logging.DEBUG if many else logging.WARNING,
                "%s is not uploaded yet, it is tried again: %s",
                entry.path,
                error,
            )
        self.offer(queued, pause_s)

    def _fail(self, entry: OutboxEntry, error: BaseException, **changes: Any) -> None:
        with self._lock:  # before the move: whoever sees the state may ask why
            before = self._troubles.get(entry.id)
            if before is None or before.generation <= entry.generation:
                self._troubles[entry.id] = _Failure(entry.generation, error=error)
        if self._queue.move(entry, EntryState.FAILED, error=str(error), **changes) is not None:
            _log.error("%s is not uploaded: %s", entry.path, error)
