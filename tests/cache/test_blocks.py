"""How bytes and grains fit each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from artifactfs.byte_range import ByteRange
from artifactfs.cache.blocks import (
    block_count,
    blocks_of,
    range_of,
    runs,
)


@given(st.lists(st.sampled_from([0, 1, 2]), max_size=30), st.integers(0, 2))
def test_runs_cover_exactly_the_grains_of_a_value(flags: list[int], value: int) -> None:
    found = [
        g for start, end in runs(bytearray(flags), value, 0, len(flags)) for g in range(start, end)
    ]
    assert found == [index for index, flag in enumerate(flags) if flag == value]


@given(st.integers(0, 10_000_000), st.integers(0, 10_000_000))
def test_grains_and_spans_fit_each_other(start: int, length: int) -> None:
    first, stop = blocks_of(ByteRange(start, start + length))
    size = start + length + 1
    covered = range_of(first, stop, size)
    assert covered.contains(ByteRange(start, start + length)) or length == 0
    assert block_count(size) >= stop
