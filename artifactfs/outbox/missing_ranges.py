"""Ranges of a file that a program asked for and that did not get to the spool.

A write, copy, allocation or truncation that fails because there is no room, or because the disk
fails, leaves the file partial, whatever the program does about it. The file is whole again once
each of these ranges was written after all, or was cut off. Pure.

An allocation or an extension only asks for zeros. So a later allocation or extension of the same
range is enough for it, but not for the bytes of a failed write.

The ranges stay missing after the file is closed and after the mount ends: the entry's row in the
journal keeps them as text (``w100-150 z4096-8192``: bytes and zeros). At most `MAX_RANGES` are kept
of each kind. Beyond that the two ranges with the smallest gap become one, so the file then counts
as whole only after the gap was written again, too.
"""

from __future__ import annotations

import errno
import itertools

from artifactfs.byte_range import ByteRange
from artifactfs.errors import SpoolFull

MAX_RANGES = 64
_BYTES, _ZEROS = "w", "z"
_LOSSES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})


def is_loss(error: BaseException) -> bool:
    """Whether an operation that failed so was to change the file and did not.

    Others (EOPNOTSUPP, EXDEV, EINVAL) tell the program to do the same in another way.
    """
    if isinstance(error, SpoolFull):
        return True
    return isinstance(error, OSError) and error.errno in _LOSSES


class MissingRanges:
    """Not thread-safe: the file's own lock guards it."""

    def __init__(self, text: str = "") -> None:
        """`text` is what `str` gave for these ranges."""
        self._bytes: list[ByteRange] = []
        self._zeros: list[ByteRange] = []
        for word in text.split():
            start, _, stop = word[1:].partition("-")
            self.add(ByteRange(int(start), int(stop)), zeros=word[0] == _ZEROS)

    def __str__(self) -> str:
        words = [f"{_BYTES}{one.start}-{one.stop}" for one in self._bytes]
        words += [f"{_ZEROS}{one.start}-{one.stop}" for one in self._zeros]
        return " ".join(words)

    def add(self, span: ByteRange, *, zeros: bool = False) -> None:
        """Note that this range did not get there."""
        if not span:
            return
        if zeros:
            self._zeros = _bounded([*self._zeros, span])
        else:
            self._bytes = _bounded([*self._bytes, span])

    def arrived(self, span: ByteRange, *, zeros: bool = False) -> None:
        """Note that this range was written; or only allocated, or extended over."""
        if self._zeros:
            self._zeros = _bounded(_without(self._zeros, span))
        if self._bytes and not zeros:
            self._bytes = _bounded(_without(self._bytes, span))

    def cut(self, size_bytes: int) -> None:
        """Note that the file ends here now: what lay behind is not missing any more."""
        self._bytes = [one.clip(size_bytes) for one in self._bytes if one.start < size_bytes]
        self._zeros = [one.clip(size_bytes) for one in self._zeros if one.start < size_bytes]

    @property
    def first(self) -> int | None:
        """Where the first missing range begins, None if nothing is missing."""
        return min((one.start for one in (*self._bytes, *self._zeros)), default=None)


def _bounded(spans: list[ByteRange]) -> list[ByteRange]:
    """The same ranges in order, joined where they touch; at most `MAX_RANGES` of them."""
    joined: list[ByteRange] = []
    for span in sorted(spans):
        if joined and span.start <= joined[-1].stop:
            joined[-1] = ByteRange(joined[-1].start, max(joined[-1].stop, span.stop))
        else:
            joined.append(span)
    while len(joined) > MAX_RANGES:
        gaps = [after.start - before.stop for before, after in itertools.pairwise(joined)]
        first = gaps.index(min(gaps))
        joined[first : first + 2] = [ByteRange(joined[first].start, joined[first + 1].stop)]
    return joined


def _without(spans: list[ByteRange], gone: ByteRange) -> list[ByteRange]:
    left = []
    for span in spans:
        before = ByteRange(span.start, max(span.start, min(span.stop, gone.start)))
        after = ByteRange(min(span.stop, max(span.start, gone.stop)), span.stop)
        if before.stop >= after.start:  # they do not overlap
            left.append(span)
        else:
            left += [part for part in (before, after) if part]
    return left
