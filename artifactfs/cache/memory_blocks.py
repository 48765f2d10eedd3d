"""Where grains stay for a while that the disk did not take, so that reading goes on uncached."""

from __future__ import annotations

import threading

from cachetools import LRUCache

MEMORY_BYTES = 64 << 20


class MemoryBlocks:
    """Grains that the disk did not take, the latest 64 MiB of them. Guarded by `_lock`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grains: LRUCache[tuple[str, int], bytes] = LRUCache(MEMORY_BYTES, len)

    def put(self, key: str, grain: int, data: bytes) -> None:
        """Keep a grain."""
        with self._lock:
            self._grains[key, grain] = data

    def get(self, key: str, grain: int) -> bytes | None:
        """A grain, if it is still here."""
        with self._lock:
            return self._grains.get((key, grain))
