"""How many bytes all readers of a store together may have on their way before they read them.

Each stream (``readahead_streams``) asks when it wants to plan more. Those that have something
planned divide what may be shared among them evenly; a small part is kept back, so that one more
always gets `_SMALLEST` of it, also while others still hold more than their part, having asked when
they were fewer. Together they never hold more than the total.

A stream that was abandoned does not say so. Time is counted in bytes, by what everybody has read:
who has not asked again while twice the total was read by others is not counted any more.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

_KEPT_BACK = 4  # a quarter
_SMALLEST = 256
_EXPIRED = 2


@dataclass(slots=True)
class _Share:
    """What one stream has planned, and when that was in bytes read by all."""

    size_bytes: int
    when_bytes: int


class ReadaheadBudget:
    """The bytes planned ahead in one store. `_lock` guards who holds how much."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._shared_bytes = total_bytes - total_bytes // _KEPT_BACK
        self._lock = threading.Lock()
        self._holdings: dict[object, _Share] = {}  # who asked last stands last
        self._read_bytes = 0

    def ask(self, stream: object, wanted_bytes: int, *, ahead_bytes: int, read_bytes: int) -> int:
        """How much may be planned ahead of `stream`, of which `ahead_bytes` are already.

        `read_bytes` is what it has read since it last asked.
        """
        with self._lock:
            self._read_bytes += read_bytes
            self._holdings.pop(stream, None)
            self._expire()
            others_bytes = sum(holding.size_bytes for holding in self._holdings.values())
            part_bytes = self._shared_bytes // (len(self._holdings) + 1)
            granted_bytes = max(
                min(part_bytes, self._shared_bytes - others_bytes),
                min(self._total_bytes // _SMALLEST, self._total_bytes - others_bytes),
            )
            granted_bytes = min(granted_bytes, wanted_bytes)
            held_bytes = max(granted_bytes, ahead_bytes)
            if held_bytes:
                self._holdings[stream] = _Share(held_bytes, self._read_bytes)
            return granted_bytes

    def give_back(self, stream: object) -> None:
        """The stream is over."""
        with self._lock:
            self._holdings.pop(stream, None)

    @property
    def held_bytes(self) -> int:
        """What all hold together."""
        with self._lock:
            return sum(holding.size_bytes for holding in self._holdings.values())

    def _expire(self) -> None:
        while self._holdings:
            stream, holding = next(iter(self._holdings.items()))
            if self._read_bytes - holding.when_bytes <= self._total_bytes * _EXPIRED:
                return
            del self._holdings[stream]
