"""Half-open byte ranges, ``[start, stop)``, as in Python's own slices.

They are validated once, where they enter (a kernel request, a header of the service); inside the
project a `ByteRange` is always sound. HTTP's inclusive ranges (RFC 9110 §14) exist only in
``remote``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """The bytes from `start` up to, but without, `stop`; both in bytes, ``0 <= start <= stop``."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a byte range: [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def __bool__(self) -> bool:
        return self.stop > self.start

    def __str__(self) -> str:
        return f"[{self.start}, {self.stop})"

    def clip(self, size_bytes: int) -> ByteRange:
        """The part of this span that lies inside a file of `size_bytes`."""
        return ByteRange(min(self.start, size_bytes), min(self.stop, size_bytes))

    def overlaps(self, other: ByteRange) -> bool:
        """Whether both share at least one byte."""
        return self.start < other.stop and other.start < self.stop

    def contains(self, other: ByteRange) -> bool:
        """Whether every byte of `other` lies in this span."""
        return self.start <= other.start and other.stop <= self.stop
