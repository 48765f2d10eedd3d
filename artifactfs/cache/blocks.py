"""The parts that a content is cut into, and the states that each can be in.

A content is cut into grains of 32 KiB. A random read of a page fetches eight times what it asked,
and over a fast line that costs no more than the page alone would (measured on loopback: 75 us for
4 KiB, 85 for 32, 125 for 128); one gigabyte needs a table of 32 768 rows, 288 KiB. Each grain is in
one of four states:

    ABSENT     not here
    STORED     on disk, says the sidecar; its xxh3 is checked when it is first used after a mount
    CHECKED    on disk, and seen to be right since the mount
    IN_MEMORY  fetched, but the disk did not take it

Which is in which, ``block_map`` knows; how that is written down is ``disk_format``'s matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import xxhash

from artifactfs.byte_range import ByteRange

BLOCK_BYTES = 32 * 1024
ABSENT, STORED, CHECKED, IN_MEMORY = range(4)
_RUNS = [re.compile(re.escape(bytes([value])) + b"+") for value in range(4)]


def block_count(size_bytes: int) -> int:
    """How many grains a content of this size has."""
    return -(-size_bytes // BLOCK_BYTES)


def blocks_of(span: ByteRange) -> tuple[int, int]:
    """The half-open range of grains that `span` touches."""
    return span.start // BLOCK_BYTES, block_count(span.stop)


def range_of(first: int, stop: int, size_bytes: int) -> ByteRange:
    """The bytes of a half-open range of grains."""
    return ByteRange(first * BLOCK_BYTES, min(stop * BLOCK_BYTES, size_bytes))


def runs(flags: bytearray, value: int, first: int, stop: int) -> Iterator[tuple[int, int]]:
    """The half-open ranges within [first, stop) whose grains all have this value."""
    for run in _RUNS[value].finditer(flags, first, stop):
        yield run.span()


def checksum(data: bytes | memoryview) -> int:
    """The xxh3-64 of a grain; never 0, which stands for "none"."""
    return xxhash.xxh3_64_intdigest(data) or 1
