"""A trace replayed against a window, over a line that is modelled: no time passes.

The line has lanes; each carries one flight at a time, whose first byte comes after the latency and
whose grains come one after the other at the lane's rate. Flights that somebody waits for go first,
as in ``flights``. A handle has at most two reads under way, as the kernel's readahead has: a read
is issued when the one before the last is answered, and *stalls* if not all of its bytes are there
by then. So what a read that nobody waits for costs is counted like any other: the figures are a
little worse than life. As in ``content``, the window is told of a read that was missing twice, and
forgets when the last handle is closed.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from artifactfs.byte_range import ByteRange
from artifactfs.cache.readahead import Readahead
from artifactfs.cache.readahead_budget import ReadaheadBudget

TRACES = Path(__file__).parent / "traces"
PAGE_BYTES = 4096
MIB = 1 << 20
FLIGHT_BYTES = 8 * MIB
WINDOW_BYTES = 128 * MIB


@dataclass(frozen=True)
class Trace:
    """Which bytes were read through which handle, in this order, of a file of this size.

    None for the bytes: the handle was closed.
    """

    size_bytes: int
    events: tuple[tuple[int, ByteRange | None], ...]

    @property
    def reads(self) -> list[ByteRange]:
        """The reads of all handles."""
        return [read for _, read in self.events if read is not None]

    @property
    def asked_bytes(self) -> int:
        """How many different bytes."""
        pages: set[int] = set()
        for read in self.reads:
            pages.update(range(read.start // PAGE_BYTES, -(-read.stop // PAGE_BYTES)))
        last_bytes = self.size_bytes % PAGE_BYTES
        is_last_short = last_bytes and self.size_bytes // PAGE_BYTES in pages
        return len(pages) * PAGE_BYTES - (PAGE_BYTES - last_bytes if is_last_short else 0)


def load(name: str) -> Trace:
    """A trace that ``traces/record.py`` has written."""
    header, *lines = (TRACES / f"{name}.trace").read_text().splitlines()
    size_bytes: int = json.loads(header)["size_bytes"]
    return Trace(size_bytes, tuple(_events(lines, size_bytes)))


def _events(lines: Iterable[str], size_bytes: int) -> Iterator[tuple[int, ByteRange | None]]:
    for line in lines:
        if line.endswith(" closed"):
            yield int(line.split()[0]), None
            continue
        handle, page, pages, *times = line.split()
        start, length = int(page) * PAGE_BYTES, int(pages) * PAGE_BYTES
        for _ in range(int(times[0].removeprefix("x")) if times else 1):
            yield int(handle), ByteRange(start, start + length).clip(size_bytes)
            start += length


def made_of(size_bytes: int, reads: Iterable[ByteRange]) -> Trace:
    """A trace of one handle, made up."""
    return Trace(size_bytes, tuple((1, read) for read in reads))


@dataclass(frozen=True)
class Line:
    """What each lane brings, and how many there are."""

    latency_s: float = 0.05
    lane_bytes_s: float = 50e6
    lanes: int = 8

    def one_by_one_s(self, trace: Trace) -> float:
        """How long one lane takes that fetches exactly these reads, one after the other."""
        return sum(self.latency_s + len(read) / self.lane_bytes_s for read in trace.reads)


@dataclass(frozen=True)
class Outcome:
    """What a replay has cost."""

    reads: int
    asked_bytes: int
    fetched_bytes: int
    stalls: int
    elapsed_s: float

    @property
    def ratio(self) -> float:
        """Bytes fetched for each that was asked."""
        return self.fetched_bytes / self.asked_bytes


@dataclass(order=True)
class _Flight:
    rank: int
    number: int
    first: int
    stop: int


class _Wire:
    """Flights under way and waiting, and when each grain is here."""

    def __init__(self, line: Line, grain_bytes: int) -> None:
        self._line = line
        self._grain_bytes = grain_bytes
        self._free_at_s = [0.0] * line.lanes
        self._queue: list[_Flight] = []
        self._number = 0
        self.here_at_s: dict[int, float] = {}
        self.claimed: set[int] = set()

    def claim(self, span: ByteRange, *, urgent: bool) -> bool:
        """Fetch what of it is neither here nor on its way; whether there was any."""
        grains = range(span.start // self._grain_bytes, -(-span.stop // self._grain_bytes))
        new = [grain for grain in grains if grain not in self.claimed]
        self.claimed.update(new)
        most = FLIGHT_BYTES // self._grain_bytes
        for index, first in enumerate(new):
            if index and first == new[index - 1] + 1 and self._queue_end(first, most):
                continue
            self._number += 1
            self._last = _Flight(0 if urgent else 1, self._number, first, first + 1)
            heapq.heappush(self._queue, self._last)
        return bool(new)

    def claim_ahead(self, spans: list[ByteRange]) -> None:
        """The same for what nobody waits for."""
        for span in spans:
            self.claim(span, urgent=False)

    def _queue_end(self, grain: int, most: int) -> bool:
        if self._last.stop - self._last.first >= most:
            return False
        self._last.stop = grain + 1
        return True

    def run(self, until_s: float) -> None:
        """Start what can be started by then."""
        while self._queue and self._free_at_s[0] <= until_s:
            self._start_next(until_s)

    def _start_next(self, not_before_s: float) -> None:
        flight = heapq.heappop(self._queue)
        at_s = max(heapq.heappop(self._free_at_s), self._now_s)
        at_s += self._line.latency_s
        for grain in range(flight.first, flight.stop):
            at_s += self._grain_bytes / self._line.lane_bytes_s
            self.here_at_s[grain] = at_s
        heapq.heappush(self._free_at_s, at_s)

    _now_s = 0.0

    def at(self, now_s: float) -> None:
        """It is so late now."""
        self.run(now_s)
        self._now_s = now_s

    def whole_at_s(self, span: ByteRange) -> float:
        """When all of it is here."""
        self.run(self._now_s)
        grains = range(span.start // self._grain_bytes, -(-span.stop // self._grain_bytes))
        while any(grain not in self.here_at_s for grain in grains):
            self._start_next(self._now_s)
        return max((self.here_at_s[grain] for grain in grains), default=0.0)


def replay(
    trace: Trace,
    line: Line | None = None,
    *,
    grain_bytes: int = 64 << 10,
    window_bytes: int = WINDOW_BYTES,
) -> Outcome:
    """Read what the trace reads, and count."""
    window = Readahead(window_bytes, ReadaheadBudget(4 * window_bytes))
    wire = _Wire(line or Line(), grain_bytes)
    answered_s: dict[int, list[float]] = {}
    now_s = end_s = 0.0
    stalls = 0
    for handle, read in trace.events:
        if read is None:
            answered_s.pop(handle, None)
            if not answered_s:
                window.forget()
            continue
        last_but_one_s, last_s = answered_s.setdefault(handle, [now_s, now_s])
        now_s = max(now_s, last_but_one_s)
        wire.at(now_s)
        lost = wire.claim(read, urgent=True)
        wire.claim_ahead(window.plan(read, trace.size_bytes, lost=lost))
        here_s = wire.whole_at_s(read)
        if here_s > now_s:
            stalls += 1
            wire.claim_ahead(window.plan(read, trace.size_bytes))  # told again when it is answered
        done_s = max(here_s, now_s)
        answered_s[handle] = sorted((last_s, done_s))
        end_s = max(end_s, done_s)
    fetched_bytes = sum(
        min((grain + 1) * grain_bytes, trace.size_bytes) - grain * grain_bytes
        for grain in wire.claimed
    )
    return Outcome(len(trace.reads), trace.asked_bytes, fetched_bytes, stalls, end_s)
