"""A clock that is set by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


class HandClock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self._passed_s = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self._passed_s)

    def monotonic_s(self) -> float:
        return 1000.0 + self._passed_s

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._passed_s += seconds
