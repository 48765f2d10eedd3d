"""What one flight brings, on its way to the disk.

Pieces come as the socket gave them. While more of them is there already they are gathered, and go
to the file together in one ``pwritev`` of up to `WRITE_BYTES`: large writes are fewer system calls,
and the kernel keeps what they write in larger pages, which later reads of the file are quicker by.
As soon as the socket is empty everything is written, so that no reader waits for bytes that are
here.

A piece ends anywhere; the grain that it ends in is summed as its parts come. What the disk does not
take (full, read-only, gone) is kept in memory grain by grain.
"""

from __future__ import annotations

import os
from typing import Protocol

import xxhash

from artifactfs.cache.grains import GRAIN_BYTES, checksum, span_of

WRITE_BYTES = 1 << 20


class Landing(Protocol):
    """The content that the bytes are for."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def descriptor(self) -> int: ...
    def tell_of_disk(self, error: OSError) -> None: ...
    def note(self, whole: list[tuple[int, int, bytes | None]], arrived_bytes: int) -> None: ...


class Arrival:
    """The bytes of one flight. For one thread."""

    def __init__(self, landing: Landing) -> None:
        self._landing = landing
        self._pending: list[memoryview] = []
        self._start = 0
        self._stop = 0
        self._grain = -1
        self._digest = xxhash.xxh3_64()
        self._parts: list[memoryview] = []
        self._parts_bytes = 0

    def take(self, offset: int, piece: memoryview, *, more: bool) -> None:
        """Take a piece, which must stay as it is; `more` says that others are here already."""
        if self._pending and offset != self._stop:
            self.settle()
        if not self._pending:
            self._start = self._stop = offset
        if piece:
            self._pending.append(piece)
            self._stop += len(piece)
        if not more or self._stop - self._start >= WRITE_BYTES or self._stop % WRITE_BYTES == 0:
            self.settle()

    def settle(self) -> None:
        """Write what was taken, and let the readers know who wait for it."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        in_memory = not self._write(pending)
        whole: list[tuple[int, int, bytes | None]] = []
        offset = self._start
        for piece in pending:
            self._sum(offset, piece, in_memory, whole)
            offset += len(piece)
        self._landing.note(whole, self._stop - self._start)

    def _write(self, pending: list[memoryview]) -> bool:
        descriptor = self._landing.descriptor
        if descriptor < 0:
            return False
        offset = self._start
        try:
            while offset < self._stop:
                count = os.pwritev(descriptor, pending, offset)
                offset += count
                if offset < self._stop:
                    pending = _without(pending, count)
        except OSError as error:
            self._landing.tell_of_disk(error)
            return False
        return True

    def _sum(
        self,
        offset: int,
        piece: memoryview,
        in_memory: bool,
        whole: list[tuple[int, int, bytes | None]],
    ) -> None:
        """Add to `whole` the grains that end with this piece: number, sum, bytes if in memory."""
        position, stop = offset, offset + len(piece)
        while position < stop:
            grain = position // GRAIN_BYTES
            span = span_of(grain, grain + 1, self._landing.size_bytes)
            end = min(stop, span.stop)
            part = piece[position - offset : end - offset]
            if position == span.start and end == span.stop:
                whole.append((grain, checksum(part), bytes(part) if in_memory else None))
            else:
                if position == span.start or self._grain != grain:
                    self._begin(grain)
                if self._parts_bytes == position - span.start:
                    self._digest.update(part)
                    self._parts.append(part)
                    self._parts_bytes += len(part)
                if self._parts_bytes == len(span):
                    data = b"".join(self._parts) if in_memory else None
                    whole.append((grain, self._digest.intdigest(), data))
                    self._begin(-1)
            position = end

    def _begin(self, grain: int) -> None:
        self._grain = grain
        self._digest.reset()
        self._parts.clear()
        self._parts_bytes = 0


def _without(pieces: list[memoryview], size_bytes: int) -> list[memoryview]:
    """What is left of the pieces after their first `size_bytes`."""
    left = []
    for piece in pieces:
        if size_bytes < len(piece):
            left.append(piece[size_bytes:])
        size_bytes = max(0, size_bytes - len(piece))
    return left
