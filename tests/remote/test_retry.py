"""The retry loop, with a clock of its own."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from artifactfs.clock import SYSTEM_CLOCK
from artifactfs.errors import Cancelled, Unreachable
from artifactfs.remote.retry import (
    MIN_WAIT_S,
    Retry,
    Transient,
)
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
        ("Mon, 23 Nov 2026 12:00:30 -0000", 30.0),
        ("Mon, 23 Nov 2026 14:00:30 +0200", 30.0),
        ("Mon, 23 Nov 2026 12:00:30 +9999", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 3600.0),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("0", 0.0),
        (" 1.5 ", 1.5),
        ("9" * 5000, 3600.0),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("1e400000", None),
        ("²", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("999999999", 3600.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, Noon()) == seconds


@example("1\x1c")  # white space to str.strip, not to float
@given(st.text(st.characters(max_codepoint=255)))
def test_any_retry_after_is_a_bounded_wait_or_none(header: str) -> None:
    seconds = retry_after_s(header, Noon())
    assert seconds is None or 0 <= seconds <= 3600


class Passing:
    """A clock that moves on by what is waited, and the event of a session that is waited on."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 12, tzinfo=UTC)

    def monotonic_s(self) -> float:
        return sum(self.waits)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def event(self) -> threading.Event:
        clock = self

        class Waiting(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                clock.waits.append(timeout + 1e-9)
                return False

        return Waiting()


def waits(after_s: float | None, times: int = 8, seed: int = 1) -> list[float]:
    clock = Passing()
    chance = random.Random(seed)
    Retry(clock, clock.event(), chance).run(Failing(times, after_s), deadline_s=1e9)
    return clock.waits


NO_REASON_TO_HURRY = [
    0.0,
    -0.0,
    -1.0,
    -1e300,
    1e-9,
    float("-inf"),
    float("nan"),
    retry_after_s("0", Noon()),
    retry_after_s("Mon, 23 Nov 2026 11:00:00 GMT", Noon()),
    retry_after_s("-1", Noon()),
]


@pytest.mark.parametrize("after_s", NO_REASON_TO_HURRY)
def test_a_server_cannot_shorten_a_wait(after_s: float | None) -> None:
    for seed in range(50):
        assert waits(after_s, seed=seed) == waits(None, seed=seed)


@given(st.floats(0, 3600), st.integers(0, 1000))
def test_a_server_can_lengthen_a_wait(after_s: float, seed: int) -> None:
    pairs = zip(waits(after_s, seed=seed), waits(None, seed=seed), strict=True)
    assert all(asked == pytest.approx(max(after_s, own)) for asked, own in pairs)


def test_waits_grow_and_are_never_nothing() -> None:
    many = [waits(None, seed=seed) for seed in range(200)]
    assert min(min(one) for one in many) >= MIN_WAIT_S
    means = [sum(one[place] for one in many) / len(many) for place in range(6)]
    assert all(later > 1.4 * earlier for earlier, later in pairwise(means))
