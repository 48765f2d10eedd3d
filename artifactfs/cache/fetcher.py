"""The threads that fetch.

A *flight* is one ranged download for one content. Spans wait in a queue; a thread that is free
takes the first piece of one, as long as one request should be (``concurrency``), so that a large
window uses as many connections as bring something, and a reader who jumps elsewhere does not wait
for all of it. Each grain is claimed by one flight at a time (``block_map``): no byte is downloaded
twice.

Flights that somebody waits for go before those that read ahead. *Bulk* flights, longer than what
one reader waits for at a time, share the lanes; short ones go whenever a thread is free, because
what they cost is a round trip and not the line. A bulk flight gives up its lane `EARLY_BYTES`
before its end: the next request is on its way before the last bytes of this one have come, and the
line is never idle for a round trip.

*Background* flights (a pinned file) come last. They have no place in the queue: a thread that finds
nothing there asks a content for the next piece that nobody has claimed (`CachedFile.claim_next`),
in turn if there are several. They leave a quarter of the connections free, and use the lanes that
bulk flights leave. One gives way at the next grain's end when something in the queue waits for a
thread, when bulk flights have taken its lane, or when a reader waits for what it would bring later.
Bulk flights leave one connection free, for the short ones.

A flight that only reads ahead for a content which nobody has open any more is not started, and one
under way is cut off. One for which another mount of the same cache directory is fetching something
is put off, `PUT_OFF_S` at a time, and finds it there; if the other brings nothing for `PATIENCE_S`,
it is flown all the same.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from artifactfs.byte_range import ByteRange
from artifactfs.cache.blocks import BLOCK_BYTES
from artifactfs.cache.cached_file import CachedFile
from artifactfs.cache.concurrency import (
    FLIGHT_BYTES,
    SHORT_BYTES,
    TICK_S,
    ConcurrencyLimit,
)
from artifactfs.cache.download_sink import WRITE_BYTES, DownloadSink
from artifactfs.errors import Cancelled
from artifactfs.model import Artifact

EARLY_BYTES = 4 << 20
PUT_OFF_S = 0.01
PATIENCE_S = 3.0
_JOIN_S = 5.0
URGENT, AHEAD, BACKGROUND = range(3)

_log = logging.getLogger(__name__)


class DownloadSource(Protocol):
    """Where bytes come from: ``remote.Downloader``."""

    def stream(
        self,
        artifact: Artifact,
        span: ByteRange,
        sink: Any,
        *,
        cancelled: threading.Event | None = None,
        deadline_s: float | None = None,
    ) -> Any: ...

    def probe(self, artifact: Artifact) -> Any: ...


@dataclass(frozen=True, slots=True, order=True)
class _Fetch:
    """What is to be fetched: urgent ones first, then in their order.

    Which span one in the background is for is settled when it begins. `put_off_since_s` is when
    another mount was first seen to be fetching some of it.
    """

    rank: int
    number: int
    shared: CachedFile = field(compare=False)
    span: ByteRange = field(compare=False)
    put_off_since_s: float | None = field(compare=False, default=None)

    @property
    def is_bulk(self) -> bool:
        """Whether it is longer than what one reader waits for at a time."""
        return not self.is_background and len(self.span) > SHORT_BYTES

    @property
    def is_background(self) -> bool:
        """Whether everything else goes first."""
        return self.rank == BACKGROUND


class Fetcher:
    """The fetching threads. `_lock` guards the queue, the lanes and how many are in use."""

    def __init__(self, source: DownloadSource, connections: int, deadline_s: float) -> None:
        self._source = source
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._resting: list[threading.Condition] = []  # who came last is woken first
        self._queue: list[_Fetch] = []
        self._put_off: list[tuple[float, _Fetch]] = []
        self._background: deque[_Fetch] = deque()
        self._numbers = itertools.count()
        self._lanes = ConcurrencyLimit(connections, time.monotonic())
        self._in_use = 0
        self._most_bulk = connections - 1 if connections > 1 else math.inf  # lanes have a limit too
        self._most_background = max(1, connections - max(1, connections // 4))
        self._busy_bulk = 0
        self._busy_background = 0
        self._giving_way = 0
        self._idle = 0
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
            flights = [*self._queue, *(flight for _, flight in self._put_off)]
            flights += self._background
            self._queue.clear()
            self._put_off.clear()
            self._background.clear()
            self._wake_all()
        self._ended.set()
        for flight in flights:
            error = Cancelled("the mount is ending")
            if flight.is_background:
                flight.shared.end_background(error)
            else:
                flight.shared.landed(flight.span, error, final=True)
        end_s = time.monotonic() + _JOIN_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end_s - time.monotonic()))

    def start(self, shared: CachedFile, span: ByteRange, *, urgent: bool) -> None:
        """Fetch `span`, in one flight or several."""
        with self._lock:
            closing = self._closing
            if not closing:
                flight = _Fetch(URGENT if urgent else AHEAD, next(self._numbers), shared, span)
                heapq.heappush(self._queue, flight)
                self._wake_one()
        if closing:
            shared.landed(span, Cancelled("the mount is ending"), final=True)

    def start_background(self, shared: CachedFile) -> None:
        """Fetch what is wanted of it in the background (`CachedFile.claim_next`)."""
        self._go_on_with(_Fetch(BACKGROUND, next(self._numbers), shared, ByteRange(0, 0)))

    def _go_on_with(self, flight: _Fetch) -> None:
        """Have a background flight's content asked again, after the others."""
        with self._lock:
            closing = self._closing
            if not closing and all(one.shared is not flight.shared for one in self._background):
                self._background.append(flight)
                self._wake_one()
        if closing:
            flight.shared.end_background(Cancelled("the mount is ending"))

    def _fly(self) -> None:
        buffer = memoryview(bytearray(WRITE_BYTES))
        bell = threading.Condition(self._lock)
        while True:
            with self._lock:
                was_looking = False
                while (taken := self._take()) is None and not self._closing:
                    was_looking = self._rest(bell)
                if taken is None:
                    return
                if was_looking and self._has_work:
                    self._wake_one()  # to look instead
            flight, lane = taken
            flight.shared.backing.retain()
            try:
                self._begin(flight, lane, buffer)
            except Exception as error:  # noqa: BLE001 - else readers would wait, and a thread be lost
                _log.exception("a flight for %s failed", flight.shared.artifact.id)
                flight.shared.landed(flight.span, error)
            finally:
                lane.end()
                flight.shared.backing.release()

    def _rest(self, bell: threading.Condition) -> bool:
        """Wait for something to do; whether as the one who looks. `_lock` is held.

        While work is held back, one thread looks from time to time whether there are more lanes:
        over a line on which nothing arrives nobody else would. One thread also looks after what was
        put off.
        """
        self._resting.append(bell)
        looks = not self._ticking and self._has_work
        self._idle += 1
        if looks:
            self._ticking = True
            bell.wait(PUT_OFF_S if self._put_off else TICK_S)
            self._ticking = False
        else:
            bell.wait()
        self._idle -= 1
        if bell in self._resting:
            self._resting.remove(bell)
        return looks

    @property
    def _has_work(self) -> bool:
        """Whether something waits to be taken. `_lock` is held."""
        return bool(self._queue or self._put_off or self._background)

    def _wake_one(self) -> None:
        """Of the threads that rest, the one that has the warmest memory. `_lock` is held."""
        if self._resting:
            self._resting.pop().notify()

    def _wake_all(self) -> None:
        while self._resting:
            self._resting.pop().notify()

    def _take(self) -> tuple[_Fetch, _OriginQueue] | None:
        """The next flight, if there is one that may go now. `_lock` is held."""
        now_s = time.monotonic()
        if self._lanes.tick(now_s):
            self._wake_all()
        while self._put_off and self._put_off[0][0] <= now_s:
            flight = heapq.heappop(self._put_off)[1]
            if flight.is_background:
                self._background.append(flight)
            else:
                heapq.heappush(self._queue, flight)
        if not self._queue:
            return self._take_background()
        first = self._queue[0]
        if first.is_bulk and not self._may_go_in_bulk:
            self._lanes.held_back()
            return self._take_short()
        heapq.heappop(self._queue)
        span = first.span
        stop = min(span.stop, _aligned(span.start + self._lanes.flight_bytes(len(span))))
        if stop < span.stop:
            heapq.heappush(self._queue, replace(first, span=ByteRange(stop, span.stop)))
            self._wake_one()
        return replace(first, span=ByteRange(span.start, stop)), self._lane_for(first)

    @property
    def _may_go_in_bulk(self) -> bool:
        """Whether another bulk flight has a lane, and leaves a thread. `_lock` is held."""
        return self._in_use < self._lanes.limit and self._busy_bulk < self._most_bulk

    def _take_background(self) -> tuple[_Fetch, _OriginQueue] | None:
        if not self._background:
            return None
        if self._in_use + self._busy_background >= self._lanes.limit:
            self._lanes.held_back()
            return None
        if self._busy_bulk + self._busy_background >= self._most_background:
            return None
        flight = self._background.popleft()
        return flight, self._lane_for(flight)

    def _lane_for(self, flight: _Fetch) -> _OriginQueue:
        self._in_use += flight.is_bulk
        self._busy_bulk += flight.is_bulk
        self._busy_background += flight.is_background
        return _OriginQueue(self, flight)

    def _take_short(self) -> tuple[_Fetch, _OriginQueue] | None:
        short = ((one, index) for index, one in enumerate(self._queue) if not one.is_bulk)
        first = min(short, default=None)
        if first is None:
            return None
        flight, index = first
        del self._queue[index]  # not by `remove`: the pieces of one flight are all equal
        heapq.heapify(self._queue)
        return flight, self._lane_for(flight)

    def _begin(self, flight: _Fetch, lane: _OriginQueue, buffer: memoryview) -> None:
        shared = flight.shared
        if flight.is_background:
            piece = shared.claim_next(FLIGHT_BYTES)
            if piece is None:
                return
            flight = replace(flight, span=piece)
        span = flight.span
        if not shared.wanted:
            shared.landed(span, Cancelled("nobody wants it any more"))
            return
        now_s = time.monotonic()
        since_s = flight.put_off_since_s or now_s
        missing = shared.intake.reserve(span, insist=now_s - since_s >= PATIENCE_S)
        if missing is None:
            if flight.is_background:
                shared.put_off(span)
            self._put_back(replace(flight, put_off_since_s=since_s), now_s + PUT_OFF_S)
            return
        if flight.is_background:
            self._go_on_with(replace(flight, put_off_since_s=None))
        error: BaseException | None = None
        try:
            for one in missing:
                self._fetch(shared, one, lane, buffer)
        except BaseException as caught:  # noqa: BLE001 - the readers are told whatever it is
            error = caught
        finally:
            shared.intake.free(span)
        shared.landed(span, error, final=self._ended.is_set())

    def _put_back(self, flight: _Fetch, due_s: float) -> None:
        with self._lock:
            if not self._closing:
                others = (one for _, one in self._put_off if one.is_background)
                if not (
                    flight.is_background and any(one.shared is flight.shared for one in others)
                ):
                    heapq.heappush(self._put_off, (due_s, flight))
                self._wake_one()
                return
        error = Cancelled("the mount is ending")
        flight.shared.landed(flight.span, error, final=True)
        if flight.is_background:
            flight.shared.end_background(error)

    def _fetch(
        self, shared: CachedFile, span: ByteRange, lane: _OriginQueue, buffer: memoryview
    ) -> None:
        flying = _FetchSink(
            shared, DownloadSink(shared.intake, span, buffer), lane, span, self._ended
        )
        try:
            self._source.stream(
                shared.artifact,
                span,
                flying,
                cancelled=shared.cancelled if not self._ended.is_set() else self._ended,
                deadline_s=self._deadline_s,
            )
        finally:
            flying.pause()

    def progressed(self, size_bytes: int, first_after_s: float | None) -> None:
        """Bytes came, the first of a flight after so long: what that tells of the lanes."""
        with self._lock:
            self._lanes.arrived(size_bytes)
            wanted = self._in_use + (0 if self._queue else self._busy_background)
            if (self._queue or self._background) and wanted >= self._lanes.limit:
                self._lanes.held_back()
            more = first_after_s is not None and self._lanes.answered(first_after_s)
            if self._lanes.tick(time.monotonic()) or more:
                self._wake_all()

    def leave_lane(self) -> None:
        """One lane is free."""
        with self._lock:
            self._in_use -= 1
            self._wake_one()

    def is_in_the_way(self) -> bool:
        """Whether a background flight has to end now: something else waits for what it has."""
        with self._lock:
            stay = self._busy_background - self._giving_way
            is_thread_wanted = self._queue and not self._idle and not self._giving_way
            if not is_thread_wanted and self._in_use + stay <= self._lanes.limit:
                return False
            self._giving_way += 1
            return True

    def ended(self, flight: _Fetch, *, gave_way: bool) -> None:
        """A flight is over, and its thread free."""
        with self._lock:
            self._busy_bulk -= flight.is_bulk
            self._busy_background -= flight.is_background
            self._giving_way -= gave_way
            self._wake_one()


class _OriginQueue:
    """A flight's place among the bulk flights, given up early. For one thread."""

    def __init__(self, crew: Fetcher, flight: _Fetch) -> None:
        self._crew = crew
        self._flight = flight
        self._held = flight.is_bulk
        self._gives_way = False
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

    def end(self) -> None:
        """The flight is over."""
        self.leave()
        self._crew.ended(self._flight, gave_way=self._gives_way)

    def gives_way(self, left: ByteRange) -> bool:
        """Whether the flight is to end here, with so much `left`. Only one in the background."""
        if not self._flight.is_background:
            return False
        self._gives_way = self._gives_way or self._crew.is_in_the_way()
        return self._gives_way or self._flight.shared.is_wanted_past(left)


class _FetchSink:
    """The sink of one flight. For one thread."""

    def __init__(
        self,
        shared: CachedFile,
        arrival: DownloadSink,
        lane: _OriginQueue,
        span: ByteRange,
        ended: threading.Event,
    ) -> None:
        self._shared = shared
        self._arrival = arrival
        self._lane = lane
        self._stop = span.stop
        self._ended = ended
        self._position = span.start
        self.pause = arrival.pause

    def version(self, etag: str) -> None:
        self._shared.intake.comes_as(etag)

    def room(self, offset: int) -> memoryview:
        self._position = offset
        return self._arrival.room(offset)

    def take(self, count: int, *, more: bool) -> bool:
        self._arrival.take(count, more=more)
        self._position += count
        self._lane.arrived(count, self._stop - self._position)
        if self._position >= self._stop or self._ended.is_set():
            return False
        return not self._lane.gives_way(ByteRange(self._position, self._stop))


def _aligned(position: int) -> int:
    return position // SHORT_BYTES * SHORT_BYTES


assert SHORT_BYTES % BLOCK_BYTES == 0
