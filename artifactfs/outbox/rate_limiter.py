"""A limit in bytes a second for all uploads together."""

from __future__ import annotations

import threading

from artifactfs.clock import Clock

_BURST_S = 0.25


class RateLimiter:
    """A token bucket. `rate_bytes_s` 0 is no limit. The bucket is guarded by `_lock`."""

    def __init__(self, rate_bytes_s: int, clock: Clock) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at_s = 0.0

    def take(self, size_bytes: int, cancelled: threading.Event) -> None:
        """Wait until this many bytes may go, or `cancelled` is set."""
        if self._rate_bytes_s <= 0 or size_bytes <= 0:
            return
        with self._lock:
            now_s = self._clock.monotonic_s()
            start_s = max(self._free_at_s, now_s - _BURST_S)
            self._free_at_s = start_s + size_bytes / self._rate_bytes_s
            wait_s = start_s - now_s
        if wait_s > 0:
            cancelled.wait(wait_s)
