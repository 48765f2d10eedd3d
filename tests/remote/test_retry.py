"""The retry loop, with a clock of its own."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime

import pytest

from artifactfs.clock import SYSTEM_CLOCK
from artifactfs.errors import Cancelled, Unreachable
from artifactfs.remote.retry import Retry, Transient
from artifactfs.remote.session import retry_after_s


class Failing:
    def __init__(self, times: int, after_s: float | None = 0.0) -> None:
        self.left, self.calls, self.after_s = times, 0, after_s

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise Transient(Unreachable("away"), self.after_s)
        return "done"


def loop(closed: threading.Event | None = None) -> Retry:
    return Retry(SYSTEM_CLOCK, closed or threading.Event(), random.Random(1))


def test_what_passes_is_tried_until_it_works() -> None:
    failing = Failing(5)
    assert loop().run(failing, deadline_s=10) == "done"
    assert failing.calls == 6


def test_without_time_there_is_one_attempt_and_the_real_error() -> None:
    failing = Failing(5)
    with pytest.raises(Unreachable, match="away"):
        loop().run(failing, deadline_s=0)
    assert failing.calls == 1


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    failing = Failing(5, after_s=100)
    with pytest.raises(Unreachable):
        loop().run(failing, deadline_s=10)
    assert failing.calls == 1


def test_what_does_not_pass_is_raised_at_once() -> None:
    def refuse() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        loop().run(refuse, deadline_s=10)


@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_a_wait_ends_when_it_is_given_up(how: str) -> None:
    closed, cancelled = threading.Event(), threading.Event()
    threading.Timer(0.1, (closed if how == "closed" else cancelled).set).start()
    with pytest.raises(Cancelled):
        loop(closed).run(Failing(5, after_s=30), deadline_s=100, cancelled=cancelled)


class Noon:
    def now(self) -> datetime:
        return datetime(2026, 11, 23, 12, tzinfo=UTC)

    def monotonic_s(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        return


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        (None, None),
        ("999999999", 3600.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, Noon()) == seconds
