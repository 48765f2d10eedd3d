"""What the spool may still take."""

from __future__ import annotations

import threading

from artifactfs.errors import SpoolFull
from artifactfs.outbox.spool import SpoolSlot


class SpoolQuota:
    """Counts what the spool holds. `_lock` guards the count.

    Some of the disk is spared for the journal, so that what was closed can still be written down,
    uploaded and removed when programs have filled the rest.
    """

    def __init__(self, max_size_bytes: int) -> None:
        self._max_size_bytes = max_size_bytes
        self._lock = threading.Lock()
        self._used_bytes = 0
        self._slot: SpoolSlot | None = None

    def use(self, slot: SpoolSlot, used_bytes: int) -> None:
        """Count for this slot from now on."""
        self._slot = slot
        self._used_bytes = used_bytes

    def reserve(self, size_bytes: int) -> None:
        """Room for that many more bytes, or fewer. Raises `SpoolFull`."""
        slot = self._slot
        assert slot is not None, "the outbox was not started"
        if size_bytes > 0 and slot.left_bytes() < size_bytes:
            raise SpoolFull(f"the spool's disk is full: {slot.files}")
        with self._lock:
            after_bytes = self._used_bytes + size_bytes
            if 0 < self._max_size_bytes < after_bytes and size_bytes >= 0:
                raise SpoolFull(f"the spool holds its {self._max_size_bytes} bytes")
            self._used_bytes = max(0, after_bytes)
