"""Who is fetched next: nothing short is stuck behind something huge, and nothing waits for ever.

The queue is asked directly, without its threads: one lane, which a huge flight has taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from artifactfs.byte_range import ByteRange
from artifactfs.cache.concurrency import SHORT_BYTES
from artifactfs.cache.fetcher import Fetcher


@dataclass(frozen=True)
class Content:
    """What a flight is for, as far as the queue looks: not at all."""

    name: str


class Queue:
    """A crew that nobody flies for. `take` is what a thread that is free would fetch now."""

    def __init__(self) -> None:
        nobody: Any = None
        self._crew = Fetcher(nobody, connections=1, deadline_s=60)
        self._lanes: list[Any] = []

    def start(self, name: str, blocks: int, *, urgent: bool = True) -> None:
        shared: Any = Content(name)
        self._crew.start(shared, ByteRange(0, blocks * SHORT_BYTES), urgent=urgent)

    def take(self) -> str | None:
        taken = self._crew._take()
        if taken is None:
            return None
        flight, lane = taken
        self._lanes.append(lane)
        return str(flight.shared.name)

    def land(self) -> None:
        """What was taken has been fetched."""
        for lane in self._lanes:
            lane.leave()
        self._lanes.clear()


@pytest.fixture
def queue() -> Queue:
    made = Queue()
    made.start("huge", 1000)
    assert made.take() == "huge"
    return made


def test_a_short_flight_goes_past_the_huge_one_that_has_the_lane(queue: Queue) -> None:
    queue.start("large", 1000)
    queue.start("short", 1)
    assert queue.take() == "short"
    assert queue.take() is None, "the lane is taken"


def test_who_only_reads_ahead_goes_past_too_if_it_is_short(queue: Queue) -> None:
    queue.start("large", 1000)
    queue.start("ahead", 1, urgent=False)
    assert queue.take() == "ahead"


def test_the_huge_one_goes_on_as_soon_as_its_lane_is_free(queue: Queue) -> None:
    for number in range(10):
        queue.start(f"short-{number}", 1)
    queue.land()
    assert queue.take() == "huge", "it came first"
    assert queue.take() == "short-0"


def test_a_stream_of_short_ones_keeps_nobody_out(queue: Queue) -> None:
    for number in range(5):
        queue.start(f"large-{number}", 2)
        queue.start(f"old-{number}", 1)
    waiting = {f"{kind}-{number}" for kind in ("large", "old") for number in range(5)} | {"huge"}
    turns = 0
    while waiting:
        turns += 1
        assert turns < 2000, f"{waiting} wait without end"
        queue.start("new", 1)
        if turns % 2:
            queue.land()
        waiting.discard(queue.take() or "")
    assert turns > 11


def test_everything_that_stands_in_line_is_taken_once(queue: Queue) -> None:
    names = [f"{number}" for number in range(50)]
    for number, name in enumerate(names):
        queue.start(name, 1, urgent=number % 3 == 0)
    assert sorted(filter(None, (queue.take() for _ in range(60)))) == sorted(names)


def test_short_ones_go_in_the_order_in_which_they_stand_in_line(queue: Queue) -> None:
    for number in range(20):
        queue.start(f"ahead-{number:02}", 1, urgent=False)
        queue.start(f"urgent-{number:02}", 1)
    taken = [queue.take() for _ in range(40)]
    assert taken == sorted(filter(None, taken), key=lambda name: (name[0] != "u", name))
