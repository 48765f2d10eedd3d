"""What comes in for one content: from its flights, and from other mounts of the same cache.

Flights bring pieces in rising order (``download_sink`` writes and sums them). `note` takes down
which grains are whole, has their sums written down, and lets the readers go whose last grain it
was: readers never wait for the end of a flight. What the disk did not take is kept in memory for a
while, so that reading goes on uncached.

Other mounts may use the same files. Before a flight begins its grains are reserved (`reserve`,
`free`), and what another mount has fetched meanwhile is taken over instead (``disk_format``).

Nothing but a SHA-256 tells that all bytes are of one content. Where none is known, the ETag that
they come with has to be always the same (`comes_as`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from array import array
from typing import Protocol

import xxhash

from artifactfs.byte_range import ByteRange
from artifactfs.cache.block_map import BlockMap
from artifactfs.cache.blocks import (
    ABSENT,
    BLOCK_BYTES,
    CHECKED,
    IN_MEMORY,
    STORED,
    blocks_of,
    range_of,
    runs,
)
from artifactfs.cache.cache_layout import CachePaths
from artifactfs.cache.disk_file import CacheFile
from artifactfs.cache.disk_format import Sidecar
from artifactfs.cache.hole_punching import STRETCH_BYTES
from artifactfs.cache.memory_blocks import MemoryBlocks
from artifactfs.cache.stats import Counters
from artifactfs.cache.verdict import ContentVerdict
from artifactfs.cache.waiters import Waiters
from artifactfs.errors import ContentChanged
from artifactfs.model import Artifact

_log = logging.getLogger(__name__)


class VerificationQueue(Protocol):
    """Who hashes the whole: ``verifier.Verifier``."""

    def follow(self, proof: ContentVerdict) -> None: ...


class BlockWriter:
    """Takes in what comes for one content. For the flights' threads."""

    def __init__(
        self,
        artifact: Artifact,
        place: CachePaths,
        table: BlockMap,
        backing: CacheFile,
        waiters: Waiters,
        *,
        proof: ContentVerdict,
        verifier: VerificationQueue,
        memory: MemoryBlocks,
        counters: Counters,
        used_s: array[int],
    ) -> None:
        self.size_bytes = table.size_bytes
        self.tell_of_disk = backing.tell_of_disk
        self._artifact = artifact
        self._place = place
        self._table = table
        self._backing = backing
        self._waiters = waiters
        self._proof = proof
        self._verifier = verifier
        self._memory = memory
        self._counters = counters
        self._used_s = used_s

    @property
    def descriptor(self) -> int:
        """The open file, or -1 if nothing may be written to it."""
        return self._backing.writable()

    def comes_as(self, etag: str) -> None:
        """Bytes are about to come with this ETag.

        If they are of another version than what is here, this content has failed for whoever has it
        open, and its files are removed, so that an opening after the last of those begins anew.
        Raises `ContentChanged`.
        """
        if self._artifact.sha256 is not None:
            return
        version = xxhash.xxh3_64_intdigest(etag.encode()) or 1
        backing, sidecar = self._backing, self._backing.sidecar
        known = backing.known_version()
        error: ContentChanged | None = None
        with self._table.lock:
            if not backing.settle_version(known, version):
                error = self._waiters.failed = ContentChanged(
                    f"{self._artifact.filename!r} ({self._artifact.id}) is not what it was: "
                    "the service changed the content of an id"
                )
        if error is not None:
            _log.error("%s", error)
            for path in (self._place.path, self._place.sidecar):
                with contextlib.suppress(OSError):
                    os.unlink(path)  # noqa: PTH108 - paths are text here
            raise error
        if not known and sidecar is not None:
            backing.write_down(lambda: sidecar.set_version(version))

    def note(
        self, first: int, sums: list[int], kept: list[bytes] | None, arrived_bytes: int
    ) -> None:
        """Grains have come, from `first` on; `kept` holds them if the disk did not take them."""
        self._counters.fetched_bytes += arrived_bytes
        sidecar = self._backing.sidecar
        if kept is not None:
            for number, data in enumerate(kept, first):
                self._memory.put(self._place.key, number, data)
            self._counters.uncached_grains += len(kept)
        elif sidecar is not None:
            self._backing.write_down(lambda: sidecar.record(first, sums))
        state = CHECKED if kept is None else IN_MEMORY
        stop = first + len(sums)
        self._used_s[first * BLOCK_BYTES // STRETCH_BYTES] = int(time.monotonic())
        table = self._table
        with table.lock:
            flags = table.flags
            if flags.count(CHECKED, first, stop) == 0:
                flags[first:stop] = bytes([state]) * len(sums)
            else:
                for grain in range(first, stop):
                    flags[grain] = CHECKED if flags[grain] == CHECKED else state
            table.claims[first:stop] = bytes(stop - first)
            table.unsaved = True
            ready = self._waiters.contented()
        for waiter in ready:
            waiter.done(None)
        if self._proof.to_verify:
            self._verifier.follow(self._proof)

    def reserve(self, span: ByteRange, *, insist: bool) -> list[ByteRange] | None:
        """What of `span` to fetch now; None: another mount is fetching some of it.

        With `insist` it is fetched none the less. `free` it afterwards unless it was None.
        """
        sidecar = self._backing.sidecar
        if sidecar is None:
            return [span]
        first, stop = blocks_of(span)
        is_ours = sidecar.reserve(first, stop)
        self._take_over(sidecar, first, stop)
        if not is_ours and not insist:
            return None
        with self._table.lock:
            missing = list(runs(self._table.flags, ABSENT, first, stop))
        return [range_of(start, end, self.size_bytes) for start, end in missing]

    def claim_more(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Which of these grains, that came unasked, nobody else has or fetches.

        They are claimed and reserved; `free` each run of them afterwards.
        """
        with self._table.lock:
            spans = self._table.claim(first, stop)
        ours: list[tuple[int, int]] = []
        for span in spans:
            missing = self.reserve(span, insist=False)
            if missing is None:
                with self._table.lock:
                    self._table.unclaim(*blocks_of(span))
                continue
            position = span.start
            for one in (*missing, ByteRange(span.stop, span.stop)):
                self.free(ByteRange(position, one.start))  # another mount has it already
                position = one.stop
            ours += map(blocks_of, missing)
        return ours

    def free(self, span: ByteRange) -> None:
        """The opposite of `reserve`."""
        sidecar = self._backing.sidecar
        if sidecar is not None:
            sidecar.free(*blocks_of(span))

    def _take_over(self, sidecar: Sidecar, first: int, stop: int) -> None:
        """What another mount has fetched meanwhile is here."""
        try:
            sums = sidecar.sums(first, stop)
        except OSError:
            return
        if not any(sums):
            return
        table = self._table
        with table.lock:
            for grain, one in enumerate(sums, first):
                if one and table.flags[grain] == ABSENT:
                    table.flags[grain] = STORED
                    table.claims[grain] = 0
            ready = self._waiters.contented()
        for waiter in ready:
            waiter.done(None)
        if self._proof.to_verify:
            self._verifier.follow(self._proof)
