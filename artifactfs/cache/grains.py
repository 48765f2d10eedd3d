"""Which parts of a content are on disk, and how that is written down.

A content is cut into grains of 32 KiB. A random read of a page fetches eight times what it asked,
and over a fast line that costs no more than the page alone would (measured on loopback: 75 us for
4 KiB, 85 for 32, 125 for 128); one gigabyte needs a table of 32 768 rows, 288 KiB. Each grain is in
one of four states:

    ABSENT     not here
    STORED     on disk, says the sidecar; its xxh3 is checked when it is first used after a mount
    CHECKED    on disk, and seen to be right since the mount
    IN_MEMORY  fetched, but the disk did not take it

The **sidecar** beside the content's file says which grains are there, with the xxh3-64 of each. It
is written as a whole to a new file that is renamed over the old one, and carries a checksum of
itself: a sidecar that is torn, truncated, of another version or for another size is as good as
none, and the content is fetched again. The data need not be on disk before the sidecar says so,
because each grain is checked against its sum.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from artifactfs.spans import Span

GRAIN_BYTES = 32 * 1024
ABSENT, STORED, CHECKED, IN_MEMORY = range(4)

_MAGIC = b"artifactfs grains 1\n"
_HEADER = struct.Struct("<20sQQIB")
_SUM = struct.Struct("<Q")


def grain_count(size_bytes: int) -> int:
    """How many grains a content of this size has."""
    return -(-size_bytes // GRAIN_BYTES)


def grains_of(span: Span) -> tuple[int, int]:
    """The half-open range of grains that `span` touches."""
    return span.start // GRAIN_BYTES, grain_count(span.stop)


def span_of(first: int, stop: int, size_bytes: int) -> Span:
    """The bytes of a half-open range of grains."""
    return Span(first * GRAIN_BYTES, min(stop * GRAIN_BYTES, size_bytes))


def runs(flags: bytearray, value: int, first: int, stop: int) -> Iterator[tuple[int, int]]:
    """The half-open ranges within [first, stop) whose grains all have this value."""
    position = first
    while (start := flags.find(value, position, stop)) >= 0:
        end = start
        while end < stop and flags[end] == value:
            end += 1
        yield start, end
        position = end


def checksum(data: bytes | memoryview) -> int:
    """The xxh3-64 of a grain."""
    return xxhash.xxh3_64_intdigest(data)


@dataclass(slots=True)
class GrainTable:
    """State and sum of each grain. Guarded by its content's lock."""

    size_bytes: int
    flags: bytearray
    sums: array[int]
    verified: bool = False

    @classmethod
    def empty(cls, size_bytes: int) -> GrainTable:
        """A table in which everything is absent."""
        count = grain_count(size_bytes)
        return cls(size_bytes, bytearray(count), array("Q", bytes(8 * count)))

    def clear(self) -> None:
        """Everything is absent from now on."""
        self.flags[:] = bytes(len(self.flags))
        self.verified = False

    @property
    def complete(self) -> bool:
        """Whether no grain is absent."""
        return ABSENT not in self.flags

    @property
    def stored_whole(self) -> bool:
        """Whether every grain is on disk, seen to be right or not."""
        return ABSENT not in self.flags and IN_MEMORY not in self.flags

    @property
    def on_disk(self) -> bool:
        """Whether every grain is on disk and was seen to be right."""
        return self.flags.count(CHECKED) == len(self.flags)

    @property
    def cached_bytes(self) -> int:
        """How many bytes are here."""
        here = len(self.flags) - self.flags.count(ABSENT)
        if here and self.flags[-1] != ABSENT:
            last_bytes = self.size_bytes - (len(self.flags) - 1) * GRAIN_BYTES
            return (here - 1) * GRAIN_BYTES + last_bytes
        return here * GRAIN_BYTES

    def encode(self) -> bytes:
        """The sidecar. What is only in memory is not in it."""
        stored = bytes(1 if flag in (STORED, CHECKED) else 0 for flag in self.flags)
        sums = array("Q", self.sums)
        if sys.byteorder == "big":
            sums.byteswap()
        header = _HEADER.pack(
            _MAGIC, self.size_bytes, GRAIN_BYTES, stored.count(1), int(self.verified)
        )
        body = header + stored + sums.tobytes()
        return body + _SUM.pack(checksum(body))

    @classmethod
    def decode(cls, data: bytes, size_bytes: int) -> GrainTable | None:
        """The table in a sidecar, or None if that is not sound or not for this size."""
        count = grain_count(size_bytes)
        if len(data) != _HEADER.size + 9 * count + _SUM.size:
            return None
        body, total = data[: -_SUM.size], data[-_SUM.size :]
        if _SUM.unpack(total)[0] != checksum(body):
            return None
        magic, size, grain, stored_count, verified = _HEADER.unpack_from(body)
        if (magic, size, grain) != (_MAGIC, size_bytes, GRAIN_BYTES):
            return None
        flags = bytearray(body[_HEADER.size : _HEADER.size + count])
        if flags.count(STORED) != stored_count or flags.count(ABSENT) + stored_count != count:
            return None
        sums = array("Q")
        sums.frombytes(body[_HEADER.size + count :])
        if sys.byteorder == "big":
            sums.byteswap()
        return cls(size_bytes, flags, sums, bool(verified))


HEADER_BYTES = _HEADER.size


def peek(header: bytes) -> tuple[int, int, bool] | None:
    """Size, cached bytes and "verified" from a sidecar's first bytes, unchecked."""
    if len(header) < _HEADER.size:
        return None
    magic, size, grain, stored, verified = _HEADER.unpack_from(header)
    if magic != _MAGIC or grain != GRAIN_BYTES:
        return None
    return size, min(size, stored * GRAIN_BYTES), bool(verified)
