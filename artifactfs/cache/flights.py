"""The threads that fetch.

A *flight* is one ranged download for one content. Spans wait in a queue; a thread that is free
takes the first piece of one, as long as one request should be (``lanes``), so that a large window
uses as many connections as bring something, and a reader who jumps elsewhere does not wait for all
of it. Each grain is claimed by one flight at a time (``content``): no byte is downloaded twice.

Flights that somebody waits for go before those that read ahead. *Bulk* flights, longer than what
one reader waits for at a time, share the lanes; short ones go whenever a thread is free, because
what they cost is a round trip and not the line. A bulk flight gives up its lane `EARLY_BYTES`
before its end: the next request is on its way before the last bytes of this one have come, and the
line is never idle for a round trip.

A flight that only reads ahead for a content which nobody has open any more is not started, and one
under way is cut off.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from artifactfs.artifact import Artifact
from artifactfs.cache.arrival import WRITE_BYTES, Arrival
from artifactfs.cache.content import Shared
from artifactfs.cache.grains import GRAIN_BYTES
from artifactfs.cache.lanes import SHORT_BYTES, TICK_S, Lanes
from artifactfs.errors import Cancelled
from artifactfs.spans import Span

EARLY_BYTES = 4 << 20
_JOIN_S = 5.0

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Where bytes come from: ``remote.Downloader``."""

    def stream(
        self,
        artifact: Artifact,
        span: Span,
        sink: Any,
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
    """The fetching threads. `_lock` guards the queue, the lanes and how many are in use."""

    def __init__(self, source: Source, connections: int, deadline_s: float) -> None:
        self._source = source
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._queue: list[tuple[_Order, Shared, Span]] = []
        self._numbers = itertools.count()
        self._lanes = Lanes(connections, time.monotonic())
        self._in_use = 0
        self._ticking = False
        self._closing = False
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._fly, name=f"fetch-{number}", daemon=True)
            for number in range(connections)
        ]

    def open(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End what is under way and the threads, for a bounded time."""
        with self._lock:
            self._closing = True
            queue, self._queue = self._queue, []
            self._wake.notify_all()
        self._ended.set()
        for _, shared, span in queue:
            shared.landed(span, Cancelled("the mount is ending"), final=True)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_JOIN_S)

    def start(self, shared: Shared, span: Span, *, urgent: bool) -> None:
        """Fetch `span`, in one flight or several."""
        with self._lock:
            closing = self._closing
            if not closing:
                order = _Order(0 if urgent else 1, next(self._numbers))
                heapq.heappush(self._queue, (order, shared, span))
                self._wake.notify()
        if closing:
            shared.landed(span, Cancelled("the mount is ending"), final=True)

    def _fly(self) -> None:
        buffer = memoryview(bytearray(WRITE_BYTES))
        while True:
            with self._lock:
                while (taken := self._take()) is None and not self._closing:
                    self._rest()
                if taken is None:
                    return
            shared, span, lane = taken
            shared.retain()
            try:
                self._flight(shared, span, lane, buffer)
            finally:
                lane.leave()
                shared.release()

    def _rest(self) -> None:
        """Wait for something to do. `_lock` is held.

        While work is held back, one thread looks from time to time whether there are more lanes:
        over a line on which nothing arrives nobody else would.
        """
        if not self._queue or self._ticking:
            self._wake.wait()
            return
        self._ticking = True
        self._wake.wait(TICK_S)
        self._ticking = False

    def _take(self) -> tuple[Shared, Span, _Lane] | None:
        """The next flight, if there is one that may go now. `_lock` is held."""
        if self._lanes.tick(time.monotonic()):
            self._wake.notify_all()
        if not self._queue:
            return None
        order, shared, span = self._queue[0]
        is_bulk = len(span) > SHORT_BYTES
        if is_bulk and self._in_use >= self._lanes.limit:
            self._lanes.held_back()
            return self._take_short()
        heapq.heappop(self._queue)
        stop = min(span.stop, _aligned(span.start + self._lanes.flight_bytes(len(span))))
        if stop < span.stop:
            heapq.heappush(self._queue, (order, shared, Span(stop, span.stop)))
            self._wake.notify()
        self._in_use += is_bulk
        return shared, Span(span.start, stop), _Lane(self, is_bulk)

    def _take_short(self) -> tuple[Shared, Span, _Lane] | None:
        for entry in self._queue:
            _, shared, span = entry
            if len(span) <= SHORT_BYTES:
                self._queue.remove(entry)
                heapq.heapify(self._queue)
                return shared, span, _Lane(self, False)
        return None

    def _flight(self, shared: Shared, span: Span, lane: _Lane, buffer: memoryview) -> None:
        if not shared.wanted:
            shared.landed(span, Cancelled("nobody wants it any more"))
            return
        flying = _Flying(Arrival(shared, buffer), lane, span, self._ended)
        error: BaseException | None = None
        try:
            self._source.stream(
                shared.artifact,
                span,
                flying,
                cancelled=shared.cancelled if not self._ended.is_set() else self._ended,
                deadline_s=self._deadline_s,
            )
        except BaseException as caught:  # noqa: BLE001 - the readers are told whatever it is
            error = caught
        try:
            flying.pause()
            shared.landed(span, error, final=self._ended.is_set())
        except Exception:  # noqa: BLE001 - a thread that ends would leave readers waiting
            _log.exception("a reader of %s could not be told", shared.artifact.id)

    def progressed(self, size_bytes: int, first_after_s: float | None) -> None:
        """Bytes came, the first of a flight after so long: what that tells of the lanes."""
        with self._lock:
            self._lanes.arrived(size_bytes)
            if self._queue and self._in_use >= self._lanes.limit:
                self._lanes.held_back()
            more = first_after_s is not None and self._lanes.answered(first_after_s)
            if self._lanes.tick(time.monotonic()) or more:
                self._wake.notify_all()

    def leave_lane(self) -> None:
        """One lane is free."""
        with self._lock:
            self._in_use -= 1
            self._wake.notify()


class _Lane:
    """A flight's place among the bulk flights, given up early. For one thread."""

    def __init__(self, crew: FlightCrew, is_bulk: bool) -> None:
        self._crew = crew
        self._held = is_bulk
        self._began_s: float | None = time.monotonic()

    def arrived(self, size_bytes: int, left_bytes: int) -> None:
        """Bytes came; so many are still to come."""
        began_s, self._began_s = self._began_s, None
        self._crew.progressed(size_bytes, began_s and time.monotonic() - began_s)
        if left_bytes <= EARLY_BYTES:
            self.leave()

    def leave(self) -> None:
        """Give the lane up, if it is still held."""
        if self._held:
            self._held = False
            self._crew.leave_lane()


class _Flying:
    """The sink of one flight. For one thread."""

    def __init__(self, arrival: Arrival, lane: _Lane, span: Span, ended: threading.Event) -> None:
        self._arrival = arrival
        self._lane = lane
        self._stop = span.stop
        self._ended = ended
        self._position = span.start
        self.pause = arrival.pause

    def room(self, offset: int) -> memoryview:
        self._position = offset
        return self._arrival.room(offset)

    def take(self, count: int, *, more: bool) -> bool:
        self._arrival.take(count, more=more)
        self._position += count
        self._lane.arrived(count, self._stop - self._position)
        return self._position < self._stop and not self._ended.is_set()


def _aligned(position: int) -> int:
    return position // SHORT_BYTES * SHORT_BYTES


assert SHORT_BYTES % GRAIN_BYTES == 0
