"""How fast a mount moves bytes, from what it says of itself time and again.

A mount counts; it keeps no clock. ``status --watch`` looks at it every second and hands what it
saw to `Rates`, which remembers the last `WINDOW_S`: a rate is what was added between the oldest and
the newest look, so that it neither jumps nor lags behind for long. What was uploaded is counted per
file of ``drop/``, by its progress; a file that leaves, or begins anew, takes nothing back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WINDOW_S = 4.0


@dataclass(frozen=True, slots=True)
class Look:
    """What a mount said at one moment; `sent_bytes` counts from the first look on."""

    at_s: float
    fetched_bytes: int
    sent_bytes: float
    hits: int
    misses: int


class Rates:
    """For one thread. `look` first, then ask; with one look every rate is None."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()
        self._files: dict[str, float] = {}

    def look(self, at_s: float, cache: dict[str, Any], uploads: Sequence[dict[str, Any]]) -> None:
        """Take down what ``status.json`` says of the cache, and ``uploads.json``."""
        files = {one["name"]: one["size"] * one["progress"] for one in uploads}
        sent_bytes = 0.0
        if self._looks:
            news = (size - self._files.get(name, 0.0) for name, size in files.items())
            sent_bytes = self._looks[-1].sent_bytes + sum(max(0.0, one) for one in news)
        self._files = files
        if self._looks and cache["fetched_bytes"] < self._looks[-1].fetched_bytes:
            self._looks.clear()  # it is another mount now
        self._looks.append(
            Look(at_s, cache["fetched_bytes"], sent_bytes, cache["hits"], cache["misses"])
        )
        while len(self._looks) > 2 and self._looks[1].at_s <= at_s - WINDOW_S:
            self._looks.popleft()

    @property
    def fetched_bytes_s(self) -> float | None:
        """Bytes a second from the service."""
        return self._rate(lambda look: look.fetched_bytes)

    @property
    def sent_bytes_s(self) -> float | None:
        """Bytes a second to the service."""
        return self._rate(lambda look: look.sent_bytes)

    @property
    def hit_part(self) -> float | None:
        """Which part of the reads of the last seconds needed nothing from the service, 0 to 1.

        None if there were none.
        """
        first, last = self._looks[0], self._looks[-1]
        hits, misses = last.hits - first.hits, last.misses - first.misses
        return hits / (hits + misses) if hits + misses else None

    def _rate(self, of: Callable[[Look], float]) -> float | None:
        first, last = self._looks[0], self._looks[-1]
        elapsed_s = last.at_s - first.at_s
        return (of(last) - of(first)) / elapsed_s if elapsed_s > 0 else None

    def document(self) -> dict[str, float | None]:
        """As JSON has it."""
        return {
            "fetched_bytes_s": self.fetched_bytes_s,
            "sent_bytes_s": self.sent_bytes_s,
            "hit_part": self.hit_part,
        }
