"""Whose turn it is: entries that may go, in the order of their closing. Pure.

Small files and large ones stand in lines of their own, so that neither waits behind the other. In
each line the first to be closed is the first to go; one that has to wait (for a moment of quiet, or
because it has failed lately) lets the others by until its time has come, then its old turn counts
again: so nothing waits without end.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from enum import Enum


class SizeClass(Enum):
    """Which line."""

    SMALL = "small"
    LARGE = "large"


@dataclass(slots=True)
class _ClassQueue:
    ready: list[tuple[int, int, int]] = field(default_factory=list)  # turn, ticket, entry
    later: list[tuple[float, int, int, int]] = field(default_factory=list)  # when, ticket, …


class UploadQueue:
    """The lines. Times are seconds of one clock. For one thread at a time."""

    def __init__(self) -> None:
        self._lines = {lane: _ClassQueue() for lane in SizeClass}
        self._tickets: dict[int, int] = {}  # entry → the ticket that counts
        self._next = itertools.count()

    def __len__(self) -> int:
        return len(self._tickets)

    def put(self, entry_id: int, turn: int, lane: SizeClass, at_s: float, now_s: float) -> None:
        """Stand in line from `at_s` on; what was said of this entry before does not count."""
        ticket = self._tickets[entry_id] = next(self._next)
        line = self._lines[lane]
        if at_s <= now_s:
            heapq.heappush(line.ready, (turn, ticket, entry_id))
        else:
            heapq.heappush(line.later, (at_s, ticket, turn, entry_id))

    def drop(self, entry_id: int) -> None:
        """Leave the line."""
        self._tickets.pop(entry_id, None)

    def take(self, lane: SizeClass, now_s: float) -> int | None:
        """The entry whose turn it is."""
        line = self._lines[lane]
        while line.later and line.later[0][0] <= now_s:
            _, ticket, turn, entry_id = heapq.heappop(line.later)
            heapq.heappush(line.ready, (turn, ticket, entry_id))
        while line.ready:
            _, ticket, entry_id = heapq.heappop(line.ready)
            if self._tickets.get(entry_id) == ticket:
                del self._tickets[entry_id]
                return entry_id
        return None

    def hurry(self) -> None:
        """Nobody has to wait for his time any more."""
        for line in self._lines.values():
            later, line.later = line.later, []
            for _, ticket, turn, entry_id in later:
                heapq.heappush(line.ready, (turn, ticket, entry_id))

    def next_s(self, lane: SizeClass) -> float | None:
        """When the next one's time comes, if nobody's has."""
        line = self._lines[lane]
        while line.later and self._tickets.get(line.later[0][3]) != line.later[0][1]:
            heapq.heappop(line.later)
        return line.later[0][0] if line.later else None
