"""One content in this process: what all its openings have in common.

A read of one opening (``cached_file_handle``) goes like this:

* ``block_reader`` has the bytes if every grain that it touches is here, and sees whether they are
right.
* `CachedFile.request` tells the window where reading goes on, claims what is neither here nor on
its
  way, hands that to the flights (``fetcher``), and waits without a thread: when the last grain that
  it needs arrives, its callback is called by the flight that brought it (``waiters``).

Each part of this has a room of its own, and what is in it is changed there only:

    table      which grains are here or on their way; its lock is the content's one lock
    backing    the open file and the sidecar, and who uses them
    waiters    who waits for what, and why the content has failed
    reading    the way out: bytes that were seen to be right
    intake     the way in: what flights bring, and what other mounts have fetched
    proof      how far it is hashed, and what comes of that
    holes      what it gives back when the cache is full

Here they are put together, and here is decided what is fetched: what a reader asks for, what the
window wants ahead of that, and once more what a flight has not brought to those who wait for it, or
what was given back while they asked.
"""

from __future__ import annotations

import math
import threading
from typing import Protocol

from artifactfs.byte_range import ByteRange
from artifactfs.cache.block_map import BlockMap
from artifactfs.cache.block_reader import BlockReader
from artifactfs.cache.block_writer import BlockWriter, VerificationQueue
from artifactfs.cache.blocks import BLOCK_BYTES, blocks_of
from artifactfs.cache.cache_layout import CachePaths
from artifactfs.cache.disk_file import CacheFile
from artifactfs.cache.disk_warning import DiskWarning
from artifactfs.cache.hole_punching import HolePuncher
from artifactfs.cache.memory_blocks import MemoryBlocks
from artifactfs.cache.readahead import Readahead
from artifactfs.cache.readahead_budget import ReadaheadBudget
from artifactfs.cache.stats import Counters
from artifactfs.cache.verdict import ContentVerdict
from artifactfs.cache.waiters import (
    Done,
    Waiter,
    Waiters,
)
from artifactfs.errors import Cancelled
from artifactfs.model import Artifact


class FetchScheduler(Protocol):
    """Who fetches: ``flights.FlightCrew``."""

    def start(self, shared: CachedFile, span: ByteRange, *, urgent: bool) -> None: ...
    def start_background(self, shared: CachedFile) -> None: ...


class CachedFile:
    """One content in this process.

    `opens` and `cancelled` are the store's and guarded by its lock; the window is guarded by the
    table's.
    """

    def __init__(
        self,
        artifact: Artifact,
        place: CachePaths,
        size_bytes: int,
        *,
        window_max_bytes: int,
        memory: MemoryBlocks,
        flights: FetchScheduler,
        verifier: VerificationQueue,
        counters: Counters,
        allowance: ReadaheadBudget,
        warning: DiskWarning,
    ) -> None:
        self.artifact = artifact
        self.place = place
        self.size_bytes = size_bytes
        self.opens = 0
        self.cancelled = threading.Event()
        self._window = Readahead(window_max_bytes, allowance)
        self._flights = flights
        self.table = table = BlockMap.empty(size_bytes)
        self.waiters = waiters = Waiters(artifact, table)
        self.backing = backing = CacheFile(artifact, place, table, self._window.forget, warning)
        self.holes = HolePuncher(artifact, table, backing, waiters)
        self.reading = BlockReader(
            artifact,
            place.key,
            table,
            backing,
            memory=memory,
            counters=counters,
            used_s=self.holes.used_s,
        )
        self.proof = ContentVerdict(
            artifact, table, backing, waiters, reading=self.reading, counters=counters
        )
        self.intake = BlockWriter(
            artifact,
            place,
            table,
            backing,
            waiters,
            proof=self.proof,
            verifier=verifier,
            memory=memory,
            counters=counters,
            used_s=self.holes.used_s,
        )

    @property
    def wanted(self) -> bool:
        """Whether anybody has it open or waits for it."""
        return self.opens > 0 or bool(self.waiters)

    def advance(self, read: ByteRange) -> None:
        """Tell the window of a read that was answered, so that readahead goes on."""
        if not self.table.complete:
            self._fetch(read, None)

    def request(self, span: ByteRange, done: Done, deadline_s: float) -> Waiter:
        """Have `done` called when all of `span` is here, or cannot be."""
        span = span.clip(self.size_bytes)
        first, stop = blocks_of(span)
        waiter = Waiter(self.waiters, first, stop, done, deadline_s)
        self._fetch(span, waiter)
        return waiter

    def request_all(self, done: Done) -> Waiter:
        """Have `done` called when everything is here, fetched while nothing else is wanted.

        Only what a flight is about to bring is claimed (`claim_next`), so that readers and
        readahead have anything else fetched at their own priority.
        """
        waiter = Waiter(self.waiters, 0, len(self.table.flags), done, math.inf, in_background=True)
        with self.table.lock:
            error = self.waiters.failed
            is_waiting = self.waiters.add(waiter)
        if is_waiting:
            self._flights.start_background(self)
        else:
            done(error)
        return waiter

    def claim_next(self, most_bytes: int) -> ByteRange | None:
        """Claim what the background is to fetch next; None if nothing is free or wanted there."""
        with self.table.lock:
            for waiter in self.waiters.background():
                most = most_bytes // BLOCK_BYTES
                span = self.table.claim_first(waiter.first, waiter.stop, most)
                if span is not None:
                    return span
        return None

    def is_wanted_past(self, span: ByteRange) -> bool:
        """Whether a reader waits for something later in `span`, for which this is on its way."""
        first, stop = blocks_of(span)
        if not self.waiters:
            return False
        with self.table.lock:
            return self.waiters.wait_past(first, stop)

    def end_background(self, error: BaseException) -> None:
        """Nothing is fetched in the background any more; who waited for that is told."""
        with self.table.lock:
            left = self.waiters.background()
            self.waiters.take(left)
        for waiter in left:
            waiter.done(error)

    def put_off(self, span: ByteRange) -> None:
        """The background does not fetch this now: it is free for others."""
        self._free(span, None)

    def _fetch(self, span: ByteRange, waiter: Waiter | None) -> None:
        wanted: list[tuple[ByteRange, bool]] = []
        error: BaseException | None = None
        table = self.table
        with table.lock:
            if waiter is not None:
                error = self.waiters.failed
                if self.waiters.add(waiter):
                    waiter = None
            if error is None:
                wanted += [(one, True) for one in table.claim(*blocks_of(span))]
                for ahead in self._window.plan(span, self.size_bytes, lost=bool(wanted)):
                    wanted += [(one, False) for one in table.claim(*blocks_of(ahead))]
        for one, urgent in wanted:
            self._flights.start(self, one, urgent=urgent)
        if waiter is not None:
            waiter.done(error)

    def landed(self, span: ByteRange, error: BaseException | None, *, final: bool = False) -> None:
        """A flight is over: what it has not brought is free again; who waited for it is told.

        One that was cut off because nobody had the content open is no error to who has opened it
        since: unless it is `final`, it is flown again.
        """
        if isinstance(error, Cancelled) and not final:
            error = None
        if self._free(span, error):
            self._flights.start_background(self)

    def _free(self, span: ByteRange, error: BaseException | None) -> bool:
        """Unclaim what has not come of `span`; whether the background is left without it."""
        first, stop = blocks_of(span)
        again: list[ByteRange] = []
        with self.table.lock:
            self.table.unclaim(first, stop)
            left = self.waiters.left_by(first, stop)
            if error is not None:
                self.waiters.take(left)
            else:
                again = self._claim_for(left)
        for one in again:
            self._flights.start(self, one, urgent=True)
        if error is not None:
            for waiter in left:
                waiter.done(error)
            return False
        return any(waiter.in_background for waiter in left)

    def punch(self, wanted_bytes: int) -> int:
        """Give back disk space, least recently used first; how many bytes."""
        return self.holes.punch(wanted_bytes, self._gone)

    def _gone(self, ranges: list[tuple[int, int]]) -> None:
        """What was given up may be fetched again: for those who have asked meanwhile, it is."""
        again: list[ByteRange] = []
        with self.table.lock:
            for first, stop in ranges:
                self.table.gone(first, stop)
                again += self._claim_for(self.waiters.left_by(first, stop))
            in_background = bool(self.waiters.background())
        for one in again:
            self._flights.start(self, one, urgent=True)
        if in_background:
            self._flights.start_background(self)

    def _claim_for(self, waiters: list[Waiter]) -> list[ByteRange]:
        """What is to be fetched so that readers have all they wait for. The lock is held."""
        spans: list[ByteRange] = []
        for waiter in waiters:
            if waiter.in_background:
                continue
            spans += self.table.claim(waiter.first, waiter.stop)
        return spans
