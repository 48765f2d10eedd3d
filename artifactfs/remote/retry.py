"""The one retry loop of the project.

What may work the next time (`Unreachable`, `TimedOut`, and answers 408, 425, 429, 5xx, which
``session`` raises as `Transient`) is tried again with exponential back-off and full jitter
(`Backoff`). What a server asks for (``Retry-After``, or ``retry:`` in a stream) lengthens a wait
and never shortens it. The loop ends at a deadline, when the request is cancelled, or when the
session is closed. Nothing else in the project repeats a request, so that delays never multiply.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from artifactfs.clock import Clock
from artifactfs.errors import Cancelled, RemoteError

T = TypeVar("T")

MIN_WAIT_S = 0.05
FIRST_BOUND_S = 0.25
MOST_BOUND_S = 10.0
_LOOK_S = 0.2


class Backoff:
    """The waits between the attempts of one request: exponential, with full jitter.

    Each wait is a random time between `MIN_WAIT_S` and a bound, which doubles up to `MOST_BOUND_S`.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._bound_s = FIRST_BOUND_S

    def next_s(self, after_s: float | None = None) -> float:
        """Return the next wait, which is `after_s` at least; what is not a number counts as 0."""
        wait_s = self._chance.uniform(MIN_WAIT_S, self._bound_s)
        self._bound_s = min(self._bound_s * 2, MOST_BOUND_S)
        return after_s if after_s is not None and after_s > wait_s else wait_s

    def reset(self) -> None:
        """Begin with the first bound again."""
        self._bound_s = FIRST_BOUND_S


class Transient(Exception):
    """Worth another try: `error` is to be raised if there is none, `after_s` is the least wait."""

    def __init__(self, error: RemoteError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s


class Retry:
    """Runs an attempt until it succeeds, fails for good, or time is up."""

    def __init__(self, clock: Clock, closed: threading.Event, chance: random.Random) -> None:
        self._clock = clock
        self._closed = closed
        self._chance = chance

    def run(
        self,
        attempt: Callable[[], T],
        *,
        deadline_s: float,
        cancelled: threading.Event | None = None,
    ) -> T:
        """The result of `attempt`, tried for `deadline_s` seconds at most."""
        end_s = self._clock.monotonic_s() + deadline_s
        backoff = Backoff(self._chance)
        while True:
            self._check(cancelled)
            try:
                return attempt()
            except Transient as failed:
                self._check(cancelled)
                wait_s = backoff.next_s(failed.after_s)
                if self._clock.monotonic_s() + wait_s >= end_s:
                    raise failed.error from failed.__cause__
                self._wait(wait_s, cancelled)

    def _check(self, cancelled: threading.Event | None) -> None:
        if self._closed.is_set() or (cancelled is not None and cancelled.is_set()):
            raise Cancelled("the request was given up")

    def _wait(self, wait_s: float, cancelled: threading.Event | None) -> None:
        end_s = self._clock.monotonic_s() + wait_s
        while (left_s := end_s - self._clock.monotonic_s()) > 0:
            if cancelled is None:
                if self._closed.wait(left_s):
                    break
            elif cancelled.wait(min(left_s, _LOOK_S)) or self._closed.is_set():
                break
        self._check(cancelled)
