"""What the grain table says of what is coming and going."""

from __future__ import annotations

from artifactfs.cache.grains import (
    CHECKED,
    GRAIN_BYTES,
    span_of,
)
from artifactfs.cache.table import GrainTable

GRAINS = 100
SIZE = GRAINS * GRAIN_BYTES - 1


def test_each_grain_is_claimed_once() -> None:
    table = GrainTable.empty(SIZE)
    table.flags[20:30] = bytes([CHECKED]) * 10
    assert table.claim(10, 25) == [span_of(10, 20, SIZE)]
    assert table.claim(0, GRAINS) == [
        span_of(0, 10, SIZE),
        span_of(30, GRAINS, SIZE),
    ]
    assert table.claim(0, GRAINS) == []


def test_what_is_going_is_not_claimed_before_it_has_gone() -> None:
    table = GrainTable.empty(SIZE)
    table.flags[20:30] = bytes([CHECKED]) * 10
    assert table.give_up(10, 40) == [(20, 30)]
    assert table.claim(15, 35) == [span_of(15, 20, SIZE), span_of(30, 35, SIZE)]
    table.unclaim(15, 35)  # a flight that had brought what is going now
    assert table.claim(20, 30) == []
    table.gone(20, 30)
    assert table.claim(20, 30) == [span_of(20, 30, SIZE)]


def test_giving_up_moves_the_epoch_and_ends_what_was_known_of_the_whole() -> None:
    table = GrainTable.empty(SIZE)
    assert table.give_up(0, GRAINS) == []
    table.flags[:] = bytes([CHECKED]) * GRAINS
    table.verified = table.checked_whole = True
    epoch = table.epoch
    table.give_up(5, 6)
    assert table.epoch > epoch
    assert not table.verified
    assert not table.checked_whole
