"""Reads what is here of one content, and believes nothing that was not seen to be right.

If every grain that a read touches is CHECKED it is one ``pread``. The threads that talk to the
kernel do that for each of its reads, so this path has no call that it can do without. Grains that
are only STORED are checked against their sums first. What is wrong, or beyond the end of a file
that was longer once, is *lost*: it is absent again, the reader asks for it as for anything that is
not here, and every other grain is to be checked anew. Grains that the disk did not take come from
memory.

No lock is held while anything is read. That the bytes did not go meanwhile the epoch tells
(``block_map``).
"""

from __future__ import annotations

import logging
import os
import time
from array import array

from artifactfs.byte_range import ByteRange
from artifactfs.cache.block_map import BlockMap
from artifactfs.cache.blocks import (
    ABSENT,
    BLOCK_BYTES,
    CHECKED,
    IN_MEMORY,
    STORED,
    blocks_of,
    checksum,
    range_of,
)
from artifactfs.cache.disk_file import CacheFile
from artifactfs.cache.hole_punching import STRETCH_BYTES
from artifactfs.cache.memory_blocks import MemoryBlocks
from artifactfs.cache.stats import Counters
from artifactfs.model import Artifact

_log = logging.getLogger(__name__)


class BlockReader:
    """Reads one content. Any thread may; `used_s` is told of it (``hole_punching``)."""

    def __init__(
        self,
        artifact: Artifact,
        key: str,
        table: BlockMap,
        backing: CacheFile,
        *,
        memory: MemoryBlocks,
        counters: Counters,
        used_s: array[int],
    ) -> None:
        self._artifact = artifact
        self._key = key
        self._size_bytes = table.size_bytes
        self._table = table
        self._backing = backing
        self._memory = memory
        self._counters = counters
        self._used_s = used_s

    def try_read(self, start: int, stop: int) -> bytes | None:
        """The bytes if they are here."""
        stop = min(stop, self._size_bytes)
        if start >= stop:
            return b""
        table = self._table
        flags = table.flags
        epoch = table.epoch
        first, last = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES + 1
        if flags.count(CHECKED, first, last) != last - first:
            if flags.find(ABSENT, first, last) >= 0:
                return None
            if not self._check(first, last):
                return None
            if flags.find(IN_MEMORY, first, last) >= 0:
                data = self._from_memory(start, stop, first, last)
                return data if epoch == table.epoch else None
        try:
            data = os.pread(self._backing.descriptor, stop - start, start)
        except OSError as error:
            self._lose(first, last, str(error))
            return None
        if len(data) != stop - start:
            self._lose(first, last, "the file is too short")
            return None
        if epoch != table.epoch:
            return None  # grains were given up meanwhile, perhaps these
        self._used_s[start // STRETCH_BYTES] = int(time.monotonic())
        self._counters.read_bytes += len(data)
        return data

    def stored_right(self, position: int, data: memoryview) -> bool:
        """Whether bytes read from the file at `position`, a grain's start, have their checksums."""
        for grain in range(*blocks_of(ByteRange(position, position + len(data)))):
            if self._table.flags[grain] == STORED:
                start = grain * BLOCK_BYTES - position
                if checksum(data[start : start + BLOCK_BYTES]) != self._sum(grain):
                    self._lose_stored(grain)
                    return False
        return True

    def _check(self, first: int, last: int) -> bool:
        """See whether grains that an earlier mount stored are right."""
        table = self._table
        for grain in range(first, last):
            if table.flags[grain] != STORED:
                continue
            data = self._grain(grain)
            if data is None or checksum(data) != self._sum(grain):
                self._lose_stored(grain)
                return False
            with table.lock:
                if table.flags[grain] == STORED:
                    table.flags[grain] = CHECKED
        return True

    def _grain(self, grain: int) -> bytes | None:
        """A grain as it is on disk, if it can be read to its end."""
        span = range_of(grain, grain + 1, self._size_bytes)
        try:
            data = os.pread(self._backing.descriptor, len(span), span.start)
        except OSError:
            return None
        return data if len(data) == len(span) else None

    def _sum(self, grain: int) -> int:
        """The sum written down for a grain, or 0."""
        sidecar = self._backing.sidecar
        if sidecar is None:
            return 0
        try:
            return sidecar.sums(grain, grain + 1)[0]
        except OSError:
            return 0

    def _from_memory(self, start: int, stop: int, first: int, last: int) -> bytes | None:
        table = self._table
        pieces = []
        for grain in range(first, last):
            if table.flags[grain] == IN_MEMORY:
                data = self._memory.get(self._key, grain)
                if data is None:
                    with table.lock:
                        table.flags[grain] = ABSENT
                    return None
            else:
                data = self._grain(grain)
                if data is None:
                    self._lose(grain, grain + 1, "the file is too short")
                    return None
            begin = grain * BLOCK_BYTES
            pieces.append(data[max(0, start - begin) : stop - begin])
        return b"".join(pieces)

    def _lose_stored(self, grain: int) -> None:
        """It does not have its sum. That is no wonder if it was given up meanwhile."""
        if self._table.flags[grain] == STORED:
            self._lose(grain, grain + 1, "its checksum is wrong")

    def _lose(self, first: int, last: int, why: str) -> None:
        sidecar = self._backing.sidecar
        if sidecar is not None:
            self._backing.write_down(lambda: sidecar.forget(first, last))
        with self._table.lock:
            self._table.lose(first, last)
        self._counters.refetched_grains += last - first
        _log.warning(
            "%s: cached bytes [%d, %d) are fetched again: %s",
            self._artifact.id, first * BLOCK_BYTES, last * BLOCK_BYTES, why,
        )  # fmt: skip
