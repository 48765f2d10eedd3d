"""When the service is asked for its listing, by whom, and how long anybody waits for it.

One thread asks; nobody else does. A *flight* is one listing from its request to its end; flights
are numbered and never overlap. Whoever wants news orders a flight and waits for its number, for a
bounded time:

* `Refresher.refresh` wants a listing that is asked for after the call. If a flight is on its way
  already, its answer may be older than what the caller has just done elsewhere, so the next one is
  ordered; all who come meanwhile share it.
* `Refresher.freshen` is content with a listing that is at most `ttl_s` old, also one on its way.
* `Refresher.ask` is for a name that nobody knows: one flight a second at most, counted from the
  end of the last, so that a listing that takes long leaves the service a pause; whoever asks more
  often is told at once that there is no news.

**A service in trouble never holds up a caller.** It is *healthy* while its last flight succeeded
and none has been on its way for more than `OVERDUE_S`. In trouble, `ask` and `freshen` return at
once; `freshen` leaves a flight ordered, so that the next look is better, and the thread itself
tries again 2, 4, 8 … 60 s after a failure. Only `refresh`, which a user asked for by name, waits in
any case.

The age of a listing counts from its request. But one that takes longer than a second counts from
its end: otherwise a listing that takes longer than `ttl_s` would be old on arrival, and the service
would be asked without a pause.

Before the first listing there is nothing to show, and an empty directory would be a lie: programs
that mirror it would delete what they have. So `freshen` waits for that one up to `FIRST_WAIT_S`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from artifactfs.clock import SYSTEM_CLOCK, Clock

OVERDUE_S = 2.0
ASK_INTERVAL_S = 1.0
FIRST_WAIT_S = 10.0
RETRY_FIRST_S = 2.0
RETRY_MOST_S = 60.0
QUICK_S = 1.0
CLOSE_WAIT_S = 5.0

_log = logging.getLogger(__name__)


class Refresher:
    """Runs `act` on a thread of its own, one at a time, when somebody wants news.

    `act` brings the listing and raises if it cannot. All state is guarded by `_changed`'s lock,
    which is never held while `act` runs.
    """

    def __init__(
        self,
        act: Callable[[], None],
        *,
        ttl_s: float,
        what: str = "artifacts",
        clock: Clock = SYSTEM_CLOCK,
        retry_first_s: float = RETRY_FIRST_S,
    ) -> None:
        self._act = act
        self._what = what
        self._ttl_s = ttl_s
        self._clock = clock
        self._retry_first_s = retry_first_s
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._ordered = 0  # flights are numbered from 1; this many are wanted,
        self._begun = 0  # this many have begun,
        self._ended = 0  # this many have ended,
        self._succeeded = 0  # and this one was the last that brought a listing
        self._asked = 0  # the flight that the last unknown name ordered
        self._asked_s = float("-inf")
        self._began_s = 0.0
        self._ended_s = float("-inf")
        self._fresh_from_s = float("-inf")
        self._failure: Exception | None = None
        self._failures = 0

    def start(self, *, at_once: bool = True) -> None:
        """Start the thread, and with it the first flight, or that when somebody wants news."""
        with self._changed:
            if self._thread is not None or self._closed:
                return
            if at_once:
                self._ordered = max(self._ordered, 1)
            self._thread = threading.Thread(
                target=self._run, name="artifactfs-listing", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """End the thread; whoever waits is told that there is no news.

        A flight on its way is waited for, for at most `CLOSE_WAIT_S`: closing the service first
        ends it at once.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_WAIT_S)

    @property
    def failure(self) -> Exception | None:
        """Why the last flight failed; None if it did not."""
        return self._failure

    @property
    def overdue(self) -> bool:
        """Whether a flight is on its way for longer than can be waited for. At once."""
        with self._changed:
            return self._is_overdue()

    @property
    def may_ask(self) -> bool:
        """Whether `ask` would wait for news. At once."""
        with self._changed:
            return self._is_healthy() and (self._asked > self._ended or self._may_order_ask())

    def is_fresh(self) -> bool:
        """Whether the last listing is at most `ttl_s` old. At once."""
        with self._changed:
            return self._is_fresh()

    def refresh(self, wait_s: float | None) -> bool:
        """Have the service asked, after this call; True once that listing is there.

        False if it failed or did not come within `wait_s` (None: however long the flight takes).
        """
        with self._changed:
            return self._wait_for(self._order(), wait_s)

    def freshen(self, wait_s: float) -> bool:
        """Wait for a listing that is at most `ttl_s` old, if the service is well; True if it is."""
        with self._changed:
            if self._is_fresh():
                return True
            if not self._succeeded and self._failure is None:
                return self._wait_for(self._order_if_idle(), self._first_wait_s())
            if not self._is_healthy():
                if self._clock.monotonic_s() - self._ended_s >= ASK_INTERVAL_S:
                    self._order_if_idle()
                return False
            on_its_way = self._begun > self._ended
            oldest_s = self._clock.monotonic_s() - self._ttl_s
            young = on_its_way and self._ttl_s > 0 and self._began_s >= oldest_s
            return self._wait_for(self._begun if young else self._order(), wait_s)

    def ask(self, wait_s: float) -> bool:
        """Have the service asked because of a name that is not known; True if there is news."""
        with self._changed:
            if not self._is_healthy():
                return False
            if self._asked <= self._ended:
                if not self._may_order_ask():
                    return False
                self._asked = self._order()
            return self._wait_for(self._asked, wait_s)

    def _is_overdue(self) -> bool:
        return self._begun > self._ended and self._clock.monotonic_s() - self._began_s > OVERDUE_S

    def _is_healthy(self) -> bool:
        running = self._thread is not None and not self._closed
        return running and self._failure is None and not self._is_overdue()

    def _is_fresh(self) -> bool:
        return self._clock.monotonic_s() - self._fresh_from_s < self._ttl_s

    def _may_order_ask(self) -> bool:
        return self._clock.monotonic_s() - self._asked_s >= ASK_INTERVAL_S

    def _order(self) -> int:
        """The number of a flight that has not begun yet."""
        self._ordered = max(self._ordered, self._begun + 1)
        self._changed.notify_all()
        return self._begun + 1

    def _order_if_idle(self) -> int:
        return self._begun if self._begun > self._ended else self._order()

    def _first_wait_s(self) -> float:
        waited_s = self._clock.monotonic_s() - self._began_s if self._begun else 0.0
        return max(0.0, FIRST_WAIT_S - waited_s)

    def _wait_for(self, number: int, wait_s: float | None) -> bool:
        if self._thread is None:
            return False
        self._changed.wait_for(lambda: self._ended >= number or self._closed, wait_s)
        return self._succeeded >= number

    def _run(self) -> None:
        while self._next_flight():
            failure: Exception | None = None
            try:
                self._act()
            except Exception as error:  # noqa: BLE001 - the thread outlives every failure, and tells it
                failure = error.with_traceback(None)  # it would keep half a listing alive
            self._landed(failure)

    def _next_flight(self) -> bool:
        with self._changed:
            while not self._closed and self._begun >= self._ordered:
                pause_s = self._retry_pause_s()
                if pause_s is not None and pause_s <= 0:
                    self._ordered = self._begun + 1
                else:
                    self._changed.wait(pause_s)
            if self._closed:
                return False
            self._begun += 1
            self._began_s = self._clock.monotonic_s()
            return True

    def _retry_pause_s(self) -> float | None:
        if self._failure is None:
            return None
        after_s = min(RETRY_MOST_S, self._retry_first_s * 2.0 ** min(self._failures - 1, 16))
        return self._ended_s + after_s - self._clock.monotonic_s()

    def _landed(self, failure: Exception | None) -> None:
        with self._changed:
            now_s = self._clock.monotonic_s()
            first_trouble = failure is not None and self._failure is None
            over = failure is None and self._failure is not None
            self._ended = self._begun
            self._ended_s = now_s
            if self._asked == self._ended:
                self._asked_s = now_s
            self._failure = failure
            self._failures = self._failures + 1 if failure is not None else 0
            if failure is None:
                self._succeeded = self._begun
                quick = now_s - self._began_s <= QUICK_S
                self._fresh_from_s = self._began_s if quick else now_s
            self._changed.notify_all()
            closed = self._closed
        if first_trouble and not closed:
            _log.warning("the %s could not be listed, the last list stays: %s", self._what, failure)
        elif over:
            _log.info("the service lists its %s again", self._what)
