"""SHA-256 while bytes are written.

As long as a file is written from its start on, each byte is hashed once, as it comes. What was
written before that point is changed later, or cut off, ends it: the file is then read again before
its upload. A gap that is filled later does not: hashing stands still at the gap, and what lies
beyond is read when the file is closed.
"""

from __future__ import annotations

import hashlib


class RollingHash:
    """The hash of the first `hashed_bytes` of a file that is being written. For one thread at a
    time."""

    def __init__(self) -> None:
        self.hashed_bytes = 0
        self._digest = hashlib.sha256()
        self._broken = False

    def wrote(self, offset: int, data: bytes | memoryview) -> None:
        """These bytes were written there."""
        if self._broken or offset > self.hashed_bytes:
            return
        if offset < self.hashed_bytes:
            self._broken = True
            return
        self._digest.update(data)
        self.hashed_bytes += len(data)

    def cut(self, size_bytes: int) -> None:
        """The file was truncated or extended to this size."""
        if size_bytes == 0:
            self.__init__()  # type: ignore[misc]
        elif size_bytes < self.hashed_bytes:
            self._broken = True

    def result(self, size_bytes: int) -> str | None:
        """The hash of a file of this size, if every byte of it was hashed."""
        if self._broken or self.hashed_bytes != size_bytes:
            return None
        return self._digest.copy().hexdigest()
