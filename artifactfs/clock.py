"""Time as a dependency.

Whatever waits or compares times takes a `Clock` in its constructor, so that a test can let an hour
pass without waiting for it. `monotonic_s` measures distances; `now` is for people and the service.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the present and the passing of time come from."""

    def now(self) -> datetime:
        """The present, with zone UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; only for waits nobody needs to interrupt (others wait on an Event)."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
