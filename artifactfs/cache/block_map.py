"""What is known of one content: which of its grains are here, which on their way, and how surely.

`flags` has the state of each grain (``blocks``). `claims` says for each that is absent whether
somebody is at it: `COMING`, some flight has taken upon itself to bring it; `GOING`, it was given up
and is still being taken off the disk, so that nobody may bring it yet. What is neither is to be had
by `claim`, once. Two more facts are of the whole. `verified` is what is written down of it: it once
had its SHA-256. `checked_whole` is more: it was hashed since this process opened it, and nothing
was lost since.

Readers look at the flags and read the file without the lock, so that bytes may be given up, or turn
out to be wrong, between the one and the other. Each time that this happens to any grain the `epoch`
moves on. Who reads remembers it first and compares it afterwards; what was read in between is
thrown away. Who hashes begins anew.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from artifactfs.byte_range import ByteRange
from artifactfs.cache.blocks import (
    ABSENT,
    BLOCK_BYTES,
    CHECKED,
    IN_MEMORY,
    STORED,
    block_count,
    range_of,
    runs,
)

FREE, COMING, GOING = range(3)
_COMING, _GOING, _FREE = bytes([COMING]), bytes([GOING]), bytes([FREE])


@dataclass(slots=True, eq=False)
class BlockMap:
    """The grains of one content.

    `lock` is the content's lock: it guards all that is here, and with it the content's waiters, its
    window and who uses its files. No I/O is done while it is held. What changes something here is
    called with it; looking needs it only where two looks must agree.
    """

    size_bytes: int
    flags: bytearray
    claims: bytearray
    lock: threading.Lock = field(default_factory=threading.Lock)
    verified: bool = False
    checked_whole: bool = False
    unsaved: bool = False
    epoch: int = 0

    @classmethod
    def empty(cls, size_bytes: int) -> BlockMap:
        """A table in which everything is absent."""
        count = block_count(size_bytes)
        return cls(size_bytes, bytearray(count), bytearray(count))

    # What is here

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
            last_bytes = self.size_bytes - (len(self.flags) - 1) * BLOCK_BYTES
            return (here - 1) * BLOCK_BYTES + last_bytes
        return here * BLOCK_BYTES

    def missing(self, first: int, stop: int) -> bool:
        """Whether any of these grains is absent."""
        return self.flags.find(ABSENT, first, stop) >= 0

    def hashable(self, position: int, most_bytes: int) -> int:
        """Up to where the bytes from `position` on, a grain's start, can be hashed now."""
        if self.stored_whole:
            return min(position + most_bytes, self.size_bytes)
        flags = self.flags
        stop = first = position // BLOCK_BYTES
        most = min(first + most_bytes // BLOCK_BYTES, len(flags))
        while stop < most and flags[stop] == CHECKED:
            stop += 1
        return range_of(first, stop, self.size_bytes).stop if stop > first else position

    # What changes

    def claim(self, first: int, stop: int) -> list[ByteRange]:
        """What is neither here nor on its way is on its way from now on."""
        spans = []
        for start, end in list(runs(self.flags, ABSENT, first, stop)):
            for free_start, free_end in list(runs(self.claims, FREE, start, end)):
                self.claims[free_start:free_end] = _COMING * (free_end - free_start)
                spans.append(range_of(free_start, free_end, self.size_bytes))
        return spans

    def claim_first(self, first: int, stop: int, most: int) -> ByteRange | None:
        """The same for the first of what is neither here nor on its way, up to `most` grains."""
        for start, end in runs(self.flags, ABSENT, first, stop):
            free = next(runs(self.claims, FREE, start, end), None)
            if free is not None:
                free_start, free_end = free[0], min(free[1], free[0] + most)
                self.claims[free_start:free_end] = _COMING * (free_end - free_start)
                return range_of(free_start, free_end, self.size_bytes)
        return None

    def unclaim(self, first: int, stop: int) -> None:
        """What of it has not come is not on its way any more."""
        self.claims[first:stop] = self.claims[first:stop].replace(_COMING, _FREE)

    def clear(self) -> None:
        """Nothing is here from now on."""
        self.flags[:] = bytes(len(self.flags))
        self._dropped()

    def lose(self, first: int, stop: int) -> None:
        """Grains on disk are not what they were.

        Who has changed the file there may have done so elsewhere: all is looked at anew.
        """
        for grain in range(first, stop):
            if self.flags[grain] != IN_MEMORY:
                self.flags[grain] = ABSENT
        self.flags[:] = self.flags.replace(bytes([CHECKED]), bytes([STORED]))
        self._dropped()
        self.unsaved = True

    def give_up(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Have none of these grains, which nobody claims, on disk; which there were.

        Each such range is nobody's to claim before it has `gone`.
        """
        gone: list[tuple[int, int]] = []
        for flag in (STORED, CHECKED):
            for start, end in list(runs(self.flags, flag, first, stop)):
                self.flags[start:end] = bytes(end - start)
                self.claims[start:end] = _GOING * (end - start)
                gone.append((start, end))
        if gone:
            self._dropped()
            self.unsaved = True
        return gone

    def gone(self, first: int, stop: int) -> None:
        """What was given up is not on disk any more, and may be claimed."""
        self.claims[first:stop] = bytes(stop - first)

    def reopened(self, flags: bytearray) -> None:
        """The files are those that were closed before; others may have changed their `flags`."""
        known = self.flags
        for start, stop in runs(flags, ABSENT, 0, len(flags)):
            if any(known[start:stop]):
                self._dropped()
            known[start:stop] = bytes(stop - start)
        for start, stop in list(runs(known, ABSENT, 0, len(flags))):
            known[start:stop] = flags[start:stop]

    def all_right(self) -> None:
        """The whole was read and is right, so every grain that was stored is."""
        if self.complete:
            self.flags[:] = self.flags.replace(bytes([STORED]), bytes([CHECKED]))

    def _dropped(self) -> None:
        """Bytes that may have been read are not here any more."""
        self.verified = self.checked_whole = False
        self.epoch += 1
