"""Ranges of a file that a program asked for and that did not get to the spool.

A write, copy, allocation or truncation that fails because there is no room, or because the disk
fails, leaves the file partial, whatever the program does about it. The file is whole again once
each of these ranges was written after all, or was cut off. Pure.

An allocation or an extension only asks for zeros. So a later allocation or extension of the same
range is enough for it, but not for the bytes of a failed write.
"""

from __future__ import annotations

import errno

from artifactfs.errors import SpoolFull
from artifactfs.spans import Span

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

    def __init__(self) -> None:
        self._bytes: list[Span] = []
        self._zeros: list[Span] = []

    def add(self, span: Span, *, zeros: bool = False) -> None:
        """Note that this range did not get there."""
        if span:
            (self._zeros if zeros else self._bytes).append(span)

    def arrived(self, span: Span, *, zeros: bool = False) -> None:
        """Note that this range was written; or only allocated, or extended over."""
        if self._zeros:
            self._zeros = _without(self._zeros, span)
        if self._bytes and not zeros:
            self._bytes = _without(self._bytes, span)

    def cut(self, size_bytes: int) -> None:
        """Note that the file ends here now: what lay behind is not missing any more."""
        self._bytes = [one.clip(size_bytes) for one in self._bytes if one.start < size_bytes]
        self._zeros = [one.clip(size_bytes) for one in self._zeros if one.start < size_bytes]

    @property
    def first(self) -> int | None:
        """Where the first missing range begins, None if nothing is missing."""
        return min((one.start for one in (*self._bytes, *self._zeros)), default=None)


def _without(spans: list[Span], gone: Span) -> list[Span]:
    left = []
    for span in spans:
        before = Span(span.start, max(span.start, min(span.stop, gone.start)))
        after = Span(min(span.stop, max(span.start, gone.stop)), span.stop)
        if before.stop >= after.start:  # they do not overlap
            left.append(span)
        else:
            left += [part for part in (before, after) if part]
    return left
