"""The lanes follow the line: one where one is enough, many where each is held back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from artifactfs.cache.concurrency import (
    FLIGHT_BYTES,
    LONG_LANES,
    MOST_FLIGHT_BYTES,
    SAFE_LANES,
    SHORT_BYTES,
    TICK_S,
    ConcurrencyLimit,
)

MB = 1_000_000


class Line:
    """Time and bytes as a line gives them to so many lanes."""

    def __init__(self, bytes_per_s: Callable[[int], float], *, most: int = 16) -> None:
        self.bytes_per_s = bytes_per_s
        self.now_s = 100.0
        self.lanes = ConcurrencyLimit(most, self.now_s)

    def run(self, seconds: float, *, held_back: bool = True) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now_s += 1.001 * TICK_S
            self.lanes.arrived(int(self.bytes_per_s(self.lanes.limit) * TICK_S))
            if held_back:
                self.lanes.held_back()
            self.lanes.tick(self.now_s)


def most_often(line: Line, seconds: float) -> int:
    """The number of lanes in nine tenths of the time."""
    seen: Counter[int] = Counter()
    for _ in range(round(seconds / TICK_S)):
        line.run(TICK_S)
        seen[line.lanes.limit] += 1
    (lanes, ticks), *_ = seen.most_common(1)
    assert ticks > 0.9 * seen.total()
    return lanes


def test_loopback_keeps_one_lane_nearly_always() -> None:
    line = Line(lambda lanes: 900 * MB / (1 + 0.05 * (lanes - 1)))
    assert most_often(line, 20) == 1
    assert line.lanes.flight_bytes(1 << 30) == MOST_FLIGHT_BYTES


def test_a_long_line_has_eight_lanes_after_a_few_round_trips() -> None:
    line = Line(lambda lanes: 0)
    line.run(4 * TICK_S)
    assert line.lanes.limit == SAFE_LANES


def test_lanes_that_are_held_back_each_become_as_many_as_there_may_be() -> None:
    line = Line(lambda lanes: 50 * MB * lanes)
    line.run(3)
    assert line.lanes.limit == 16


def test_more_lanes_that_bring_nothing_are_given_up() -> None:
    line = Line(lambda lanes: 20 * MB * min(lanes, 4))
    line.run(2)
    assert most_often(line, 28) <= SAFE_LANES


def test_a_slow_start_on_a_fast_line_ends_with_one_lane() -> None:
    line = Line(lambda lanes: 0)
    line.run(0.3)
    line.bytes_per_s = lambda lanes: 800 * MB
    line.run(3)
    assert line.lanes.limit == 1


def test_there_are_never_more_lanes_than_connections() -> None:
    line = Line(lambda lanes: 10 * MB * lanes, most=3)
    line.run(5)
    assert line.lanes.limit <= 3


@pytest.mark.parametrize("rate", [0, 5 * MB, 10_000 * MB])
def test_a_request_is_never_smaller_or_larger_than_agreed(rate: int) -> None:
    line = Line(lambda lanes: rate)
    line.run(2)
    assert FLIGHT_BYTES <= line.lanes.flight_bytes(1 << 30) <= MOST_FLIGHT_BYTES
    assert line.lanes.flight_bytes(1) == SHORT_BYTES


def test_answers_from_far_away_mean_many_lanes_and_a_share_for_each() -> None:
    lanes = ConcurrencyLimit(16, 0.0)
    assert [lanes.answered(after_s) for after_s in (0.11, 0.05, 0.05, 0.05)] == [
        False, False, True, False,
    ]  # fmt: skip
    assert lanes.limit == LONG_LANES
    assert lanes.flight_bytes(LONG_LANES * SHORT_BYTES) == SHORT_BYTES


def test_a_slow_first_connection_is_not_a_long_line() -> None:
    lanes = ConcurrencyLimit(16, 0.0)
    assert not any(lanes.answered(after_s) for after_s in (0.03, 0.03, 0.004, 0.03))
    assert lanes.limit == 1
