"""What one flight brings, on its way to the disk.

The socket is read into one buffer that is used again and again (`DownloadSink` is the sink of
``remote.download``). While more has come already the buffer fills, and goes to the file in one
``pwrite`` of up to `WRITE_BYTES`: large writes are fewer system calls, and the kernel keeps what
they write in larger pages, which later reads of the file are quicker by. As soon as the socket is
empty, all grains that are whole are written, so that no reader waits for bytes that are here. The
beginning of a grain stays in the buffer until the rest of it has come.

Each grain is written by one flight, once. Those of its own span a flight has claimed before it
began (``block_map``). A server that ignores ranges sends others besides, or the same ones again:
they are taken only if nobody has them and nobody else is fetching them
(`BlockReceiver.claim_more`). What is here was seen to be right, and readers may have it: nothing
that comes later may change it.

What the disk does not take (full, read-only, gone) is kept in memory grain by grain.
"""

from __future__ import annotations

import os
from typing import Protocol

from artifactfs.byte_range import ByteRange
from artifactfs.cache.blocks import (
    BLOCK_BYTES,
    block_count,
    blocks_of,
    checksum,
    range_of,
)

WRITE_BYTES = 1 << 20


class BlockReceiver(Protocol):
    """The content that the bytes are for."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def descriptor(self) -> int: ...
    def tell_of_disk(self, error: OSError) -> None: ...
    def claim_more(self, first: int, stop: int) -> list[tuple[int, int]]: ...
    def free(self, span: ByteRange) -> None: ...
    def note(
        self, first: int, sums: list[int], kept: list[bytes] | None, arrived_bytes: int
    ) -> None: ...


class DownloadSink:
    """The bytes of one flight for `span`; `buffer` holds [_start, _stop) of the content.

    `_next` is the first grain of its own that it has not brought yet. For one thread.
    """

    def __init__(self, landing: BlockReceiver, span: ByteRange, buffer: memoryview) -> None:
        self._landing = landing
        self._buffer = buffer
        self._first, self._last = blocks_of(span)
        self._next = self._first
        self._start = 0
        self._stop = 0
        self._arrived_bytes = 0

    def room(self, offset: int) -> memoryview:
        """Where the bytes from `offset` on go. Up to where a large write should end."""
        if offset != self._stop:
            self.pause()
            self._start = self._stop = offset
        return self._buffer[self._stop - self._start : self._room_bytes]

    @property
    def _room_bytes(self) -> int:
        return min(len(self._buffer), WRITE_BYTES - self._start % WRITE_BYTES)

    def take(self, count: int, *, more: bool) -> None:
        """So many bytes were put there; `more` says that others have come already."""
        self._stop += count
        self._arrived_bytes += count
        is_full = self._stop - self._start == self._room_bytes
        if is_full or not more:
            self.pause()
        if is_full and self._stop > self._start:
            self._keep(max(self._stop // BLOCK_BYTES * BLOCK_BYTES, self._start))

    def pause(self) -> None:
        """Write the whole grains that are here, and let the readers know who wait for them."""
        size_bytes = self._landing.size_bytes
        first = -(-self._start // BLOCK_BYTES)
        last = block_count(size_bytes) if self._stop >= size_bytes else self._stop // BLOCK_BYTES
        if first >= last:
            return
        self._bring_others(first, min(last, self._first))
        own_first, own_last = max(first, self._next), min(last, self._last)
        if own_first < own_last:
            self._next = own_last
            self._bring(own_first, own_last)
        self._bring_others(max(first, self._last), last)
        self._keep(min(last * BLOCK_BYTES, size_bytes))

    def _bring_others(self, first: int, last: int) -> None:
        """What came though this flight is not for it."""
        for start, stop in self._landing.claim_more(first, last) if first < last else ():
            try:
                self._bring(start, stop)
            finally:
                self._landing.free(range_of(start, stop, self._landing.size_bytes))

    def _bring(self, first: int, last: int) -> None:
        """Write the grains [first, last), and say that they are here."""
        span = range_of(first, last, self._landing.size_bytes)
        data = self._buffer[span.start - self._start : span.stop - self._start]
        grains = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
        kept = None if self._write(data, span.start) else [bytes(grain) for grain in grains]
        sums = [checksum(grain) for grain in grains]
        arrived_bytes, self._arrived_bytes = self._arrived_bytes, 0
        self._landing.note(first, sums, kept, arrived_bytes)

    def _keep(self, position: int) -> None:
        """Forget what is before `position`."""
        left_bytes = self._stop - position
        if left_bytes:
            begin = position - self._start
            self._buffer[:left_bytes] = self._buffer[begin : begin + left_bytes]
        self._start = position

    def _write(self, data: memoryview, offset: int) -> bool:
        descriptor = self._landing.descriptor
        if descriptor < 0:
            return False
        try:
            while data:
                count = os.pwrite(descriptor, data, offset)
                offset += count
                data = data[count:]
        except OSError as error:
            self._landing.tell_of_disk(error)
            return False
        return True


assert WRITE_BYTES % BLOCK_BYTES == 0
