"""The one retry loop of the project.

What may work the next time (`Unreachable`, `TimedOut`, and answers 408, 425, 429, 5xx, which
``session`` raises as `Transient`) is tried again with exponential back-off and full jitter, that is
after a random time between zero and twice the bound of the time before; or after what
``Retry-After`` says. It ends at a deadline, when the request is cancelled, or when the session is
closed. Nothing else in the project repeats a request, so that delays never multiply.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from artifactfs.clock import Clock
from artifactfs.errors import Cancelled, RemoteError

T = TypeVar("T")

FIRST_BOUND_S = 0.25
MOST_BOUND_S = 10.0
_LOOK_S = 0.2


class Transient(Exception):
    """Worth another try: `error` is to be raised if there is none, `after_s` is a wish."""

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
        bound_s = FIRST_BOUND_S
        while True:
            self._check(cancelled)
            try:
                return attempt()
            except Transient as failed:
                self._check(cancelled)
                wait_s = failed.after_s
                if wait_s is None:
                    wait_s = self._chance.uniform(0, bound_s)
                bound_s = min(bound_s * 2, MOST_BOUND_S)
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
