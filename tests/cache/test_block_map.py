"""What the grain table says of what is coming and going."""

from __future__ import annotations

from artifactfs.cache.block_map import BlockMap
from artifactfs.cache.blocks import (
    BLOCK_BYTES,
    CHECKED,
    range_of,
)

GRAINS = 100
SIZE = GRAINS * BLOCK_BYTES - 1


def test_each_grain_is_claimed_once() -> None:
    table = BlockMap.empty(SIZE)
    table.flags[20:30] = bytes([CHECKED]) * 10
    assert table.claim(10, 25) == [range_of(10, 20, SIZE)]
    assert table.claim(0, GRAINS) == [
        range_of(0, 10, SIZE),
        range_of(30, GRAINS, SIZE),
    ]
    assert table.claim(0, GRAINS) == []


def test_what_is_going_is_not_claimed_before_it_has_gone() -> None:
    table = BlockMap.empty(SIZE)
    table.flags[20:30] = bytes([CHECKED]) * 10
    assert table.give_up(10, 40) == [(20, 30)]
    assert table.claim(15, 35) == [range_of(15, 20, SIZE), range_of(30, 35, SIZE)]
    table.unclaim(15, 35)  # a flight that had brought what is going now
    assert table.claim(20, 30) == []
    table.gone(20, 30)
    assert table.claim(20, 30) == [range_of(20, 30, SIZE)]


def test_giving_up_moves_the_epoch_and_ends_what_was_known_of_the_whole() -> None:
    table = BlockMap.empty(SIZE)
    assert table.give_up(0, GRAINS) == []
    table.flags[:] = bytes([CHECKED]) * GRAINS
    table.verified = table.checked_whole = True
    epoch = table.epoch
    table.give_up(5, 6)
    assert table.epoch > epoch
    assert not table.verified
    assert not table.checked_whole
