"""The threads that fetch and verify.

A *flight* is one ranged download for one content. Spans are cut into flights of `FLIGHT_BYTES`, so
that a large window uses several connections and a reader who jumps elsewhere does not wait for all
of it. Flights that somebody waits for go before those that read ahead; each grain is claimed by one
flight at a time (``content``), so no byte is downloaded twice.

A flight that only reads ahead for a content which nobody has open any more is not started, and one
under way is cut off. Verification has a thread of its own: hashing runs without the interpreter's
lock and must not keep a connection idle. It goes on when the content is closed meanwhile, so that a
file which is always read in one go is verified once and not begun again each time.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from artifactfs.artifact import Artifact
from artifactfs.cache.content import Partial, Shared
from artifactfs.cache.grains import GRAIN_BYTES
from artifactfs.errors import Cancelled
from artifactfs.spans import Span

FLIGHT_BYTES = 16 << 20
HASH_BYTES = 4 << 20
_JOIN_S = 5.0

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Where bytes come from: ``remote.Downloader``."""

    def stream(
        self,
        artifact: Artifact,
        span: Span,
        deliver: Callable[[int, memoryview], bool],
        *,
        cancelled: threading.Event | None = None,
        deadline_s: float | None = None,
    ) -> Any: ...

    def probe(self, artifact: Artifact) -> Any: ...


@dataclass(frozen=True, slots=True, order=True)
class _Order:
    """A flight in the queue: urgent ones first, then in their order."""

    rank: int
    number: int


class FlightCrew:
    """The fetching threads and the verifying one. `_lock` guards the two queues.

    Each kind of thread has a condition of its own: one that were woken for the other's work would
    swallow the notification.
    """

    def __init__(self, source: Source, connections: int, deadline_s: float) -> None:
        self._source = source
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._to_fly = threading.Condition(self._lock)
        self._to_check = threading.Condition(self._lock)
        self._queue: list[tuple[_Order, Shared, Span]] = []
        self._to_verify: list[Shared] = []
        self._numbers = itertools.count()
        self._closing = False
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._fly, name=f"fetch-{number}", daemon=True)
            for number in range(connections)
        ]
        self._threads.append(threading.Thread(target=self._check, name="verify", daemon=True))

    def open(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End what is under way and the threads, for a bounded time."""
        with self._lock:
            self._closing = True
            queue, self._queue = self._queue, []
            to_verify, self._to_verify = self._to_verify, []
            self._to_fly.notify_all()
            self._to_check.notify_all()
        self._ended.set()
        for _, shared, span in queue:
            shared.landed(span, Cancelled("the mount is ending"), final=True)
        for shared in to_verify:
            shared.release()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_JOIN_S)

    def start(self, shared: Shared, span: Span, *, urgent: bool) -> None:
        """Fetch `span`, in one flight or several."""
        spans = []
        start = span.start
        while start < span.stop:
            stop = min(span.stop, (start // FLIGHT_BYTES + 1) * FLIGHT_BYTES)
            spans.append(Span(start, stop))
            start = stop
        with self._lock:
            closing = self._closing
            if not closing:
                for one in spans:
                    order = _Order(0 if urgent else 1, next(self._numbers))
                    heapq.heappush(self._queue, (order, shared, one))
                self._to_fly.notify(len(spans))
        if closing:
            shared.landed(span, Cancelled("the mount is ending"), final=True)

    def verify(self, shared: Shared) -> None:
        """Compare the whole with its SHA-256, in the background."""
        with self._lock:
            if shared.needs_check and shared not in self._to_verify and not self._closing:
                shared.retain()
                self._to_verify.append(shared)
                self._to_check.notify()

    def _fly(self) -> None:
        while True:
            with self._lock:
                while not self._queue and not self._closing:
                    self._to_fly.wait()
                if self._closing:
                    return
                _, shared, span = heapq.heappop(self._queue)
            shared.retain()
            try:
                self._flight(shared, span)
            finally:
                shared.release()

    def _flight(self, shared: Shared, span: Span) -> None:
        if not shared.wanted:
            shared.landed(span, Cancelled("nobody wants it any more"))
            return
        partial = Partial()

        def deliver(offset: int, piece: memoryview) -> bool:
            shared.arrived(offset, piece, partial)
            return offset + len(piece) < span.stop and not self._ended.is_set()

        error: BaseException | None = None
        try:
            self._source.stream(
                shared.artifact,
                span,
                deliver,
                cancelled=shared.cancelled if not self._ended.is_set() else self._ended,
                deadline_s=self._deadline_s,
            )
        except BaseException as caught:  # noqa: BLE001 - the readers are told whatever it is
            error = caught
        try:
            shared.landed(span, error, final=self._ended.is_set())
        except Exception:  # noqa: BLE001 - a thread that ends would leave readers waiting
            _log.exception("a reader of %s could not be told", shared.artifact.id)

    def _check(self) -> None:
        while True:
            with self._lock:
                while not self._to_verify and not self._closing:
                    self._to_check.wait()
                if self._closing:
                    return
                shared = self._to_verify.pop(0)
            try:
                right = self._has_its_hash(shared)
                if right is not None:
                    shared.verified(right)
                    shared.save()
            except Exception:  # noqa: BLE001 - a thread that ends would verify nothing more
                _log.exception("%s could not be verified", shared.artifact.id)
            finally:
                shared.release()

    def _has_its_hash(self, shared: Shared) -> bool | None:
        """Whether it has its SHA-256; None if that cannot be said now.

        Grains of an earlier mount are checked on the way: one that has rotted is dropped alone.
        """
        descriptor = shared.descriptor
        if not shared.needs_check or descriptor < 0:
            return None
        digest = hashlib.sha256()
        buffer = bytearray(min(HASH_BYTES, max(shared.size_bytes, 1)))
        view = memoryview(buffer)
        position = 0
        while position < shared.size_bytes:
            if self._ended.is_set():
                return None
            count = os.preadv(descriptor, [view], position)
            if count == 0:
                return False
            if not shared.stored_right(position, view[:count]):
                return None
            digest.update(view[:count])
            position += count
        if digest.hexdigest() != shared.artifact.sha256:
            return False
        shared.all_checked()
        return True


assert FLIGHT_BYTES % GRAIN_BYTES == 0
assert HASH_BYTES % GRAIN_BYTES == 0
