"""Who needs a content, or an upload, just now.

A content that no artifact has may be let go, so it has to be *held* from before it is there until
an artifact that has it is listed. Whoever lets go must be *alone* with it from looking until it is
gone. One controller knows this by itself; several that share a bucket ask the database they share
(``shared_index``).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Guard(Protocol):
    """For the event loop's thread. Keys are digests and upload ids."""

    def holding(self, key: str) -> AbstractContextManager[None]:
        """Keep others from being alone with it. Several may hold it at once."""
        ...

    def alone(self, key: str) -> AbstractContextManager[bool]:
        """Whether nobody holds it; if so, nobody will before the block ends."""
        ...


class LocalGuard:
    """One controller's. Inside `alone` nothing may be awaited."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Count who holds it."""
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[bool]:
        """Whether that is nobody."""
        yield key not in self._held
