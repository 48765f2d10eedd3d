"""Keeps the cache directory within its budget, and what is written down of open contents current.

One thread, once a second: it writes down how much of each open content is here, ends waits that are
overdue, and looks whether there may be too much. How much there is it knows from its last *survey*
of the directory and what was fetched since. A survey walks through all files, so there is one some
seconds after the start, and then only when enough has come: a sixteenth of the budget, or, while
the directory or its disk is full, `TIGHT_BYTES` at a time. What is too much goes
(``eviction_order``): whole files first, the least recently used, none that is open or pinned; then
parts of open ones.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Iterable
from typing import Protocol

from artifactfs.cache import eviction_order
from artifactfs.cache.cache_layout import CacheLayout
from artifactfs.cache.cached_file import CachedFile
from artifactfs.cache.stats import Counters

KEEP_S = 1.0
FIRST_SURVEY_S = 5.0
TIGHT_BYTES = 8 << 20
TIGHT_S = 10.0
_JOIN_S = 5.0

_log = logging.getLogger(__name__)


class EvictableContents(Protocol):
    """What is open: ``store.Store``."""

    def all_open(self) -> list[CachedFile]: ...
    def in_use(self, key: str) -> bool: ...
    def forget(self, key: str) -> None: ...


class Evictor:
    """The keeping thread. Its figures are for show and for its own decisions: races lose a few."""

    def __init__(
        self,
        contents: EvictableContents,
        places: CacheLayout,
        budget: eviction_order.Budget,
        counters: Counters,
    ) -> None:
        self.budget = budget
        self._contents = contents
        self._places = places
        self._counters = counters
        self._surveyed_bytes = 0
        self._fetched_at_survey = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="cache", daemon=True)

    def open(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, for a bounded time."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    def used_bytes(self) -> int:
        """How much the directory holds. At once."""
        return self._surveyed_bytes + max(0, self._fetched_bytes)

    @property
    def _fetched_bytes(self) -> int:
        """What has come since the last survey."""
        return self._counters.fetched_bytes - self._fetched_at_survey

    def space(self) -> tuple[int, int]:
        """What the cache may hold and how much of that is left, in bytes. At once."""
        try:
            disk = os.statvfs(self._places.root)
            free_bytes = disk.f_bavail * disk.f_frsize - self.budget.min_free_bytes
        except OSError:
            free_bytes = 0
        left_bytes = min(self.budget.size_bytes - self.used_bytes(), free_bytes)
        return self.budget.size_bytes, max(0, left_bytes)

    def came(self, size_bytes: int) -> None:
        """So much lies there now that was not fetched."""
        self._surveyed_bytes += size_bytes

    def clear(self) -> int:
        """Remove whatever is not open or pinned; the bytes that became free."""
        return self._remove(
            one
            for one in list(eviction_order.survey(self._places))
            if not one.pinned and not self._contents.in_use(one.place.key)
        )

    def _keep(self) -> None:
        surveyed_s = -TIGHT_S
        first_at_s = time.monotonic() + FIRST_SURVEY_S
        while not self._ended.wait(KEEP_S):
            now_s = time.monotonic()
            try:
                for shared in self._contents.all_open():
                    shared.waiters.overdue(now_s)
                    shared.backing.save()
                if now_s >= first_at_s or self._may_be_too_much(now_s - surveyed_s):
                    first_at_s, surveyed_s = math.inf, now_s
                    self._survey()
            except Exception:  # noqa: BLE001 - without its keeper the cache would grow for ever
                _log.exception("the cache could not be kept in order")

    def _may_be_too_much(self, since_s: float) -> bool:
        fetched_bytes = self._fetched_bytes
        if fetched_bytes > self.budget.size_bytes // 16:
            return True
        if fetched_bytes <= (0 if since_s > TIGHT_S else TIGHT_BYTES):
            return False
        return (
            self.used_bytes() > self.budget.size_bytes
            or self._free_bytes() < self.budget.min_free_bytes
        )

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._places.root).free
        except OSError:
            return 1 << 62

    def _survey(self) -> None:
        fetched_bytes = self._counters.fetched_bytes
        found = list(eviction_order.survey(self._places))
        self._surveyed_bytes = sum(one.disk_bytes for one in found)
        self._fetched_at_survey = fetched_bytes
        self._places.remove_older()
        excess = eviction_order.excess_bytes(self._surveyed_bytes, self._free_bytes(), self.budget)
        if excess:
            excess -= self._remove(eviction_order.choose(found, excess, self._contents.in_use))
            for shared in self._contents.all_open():
                if excess > 0:
                    excess -= self._gone(shared.punch(excess))

    def _remove(self, victims: Iterable[eviction_order.EvictionCandidate]) -> int:
        freed_bytes = 0
        for victim in victims:
            self._contents.forget(victim.place.key)
            if eviction_order.remove(victim.place):
                freed_bytes += victim.disk_bytes
        return self._gone(freed_bytes)

    def _gone(self, freed_bytes: int) -> int:
        self._counters.evicted_bytes += freed_bytes
        self._surveyed_bytes = max(0, self._surveyed_bytes - freed_bytes)
        return freed_bytes
