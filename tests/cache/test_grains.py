"""The sidecar's code, and how bytes and grains fit each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from artifactfs.cache.grains import (
    ABSENT,
    CHECKED,
    GRAIN_BYTES,
    STORED,
    GrainTable,
    grain_count,
    grains_of,
    runs,
    span_of,
)
from artifactfs.spans import Span


@given(st.integers(0, 40), st.data())
def test_a_sidecar_says_what_was_written_into_it(count: int, data: st.DataObject) -> None:
    size = max(0, count * GRAIN_BYTES - 5)
    table = GrainTable.empty(size)
    for grain in range(len(table.flags)):
        table.flags[grain] = data.draw(st.sampled_from([ABSENT, STORED, CHECKED]))
        table.sums[grain] = data.draw(st.integers(0, 2**64 - 1))
    again = GrainTable.decode(table.encode(), size)
    assert again is not None
    assert [bool(flag) for flag in again.flags] == [bool(flag) for flag in table.flags]
    assert again.sums == table.sums
    assert again.cached_bytes == table.cached_bytes
    assert GrainTable.decode(table.encode(), size + 1) is None


@given(st.binary(max_size=300), st.integers(0, 1_000_000))
def test_what_is_no_sidecar_is_none(data: bytes, size: int) -> None:
    assert GrainTable.decode(data, size) is None


@given(st.lists(st.sampled_from([0, 1, 2]), max_size=30), st.integers(0, 2))
def test_runs_cover_exactly_the_grains_of_a_value(flags: list[int], value: int) -> None:
    found = [
        g for start, end in runs(bytearray(flags), value, 0, len(flags)) for g in range(start, end)
    ]
    assert found == [index for index, flag in enumerate(flags) if flag == value]


@given(st.integers(0, 10_000_000), st.integers(0, 10_000_000))
def test_grains_and_spans_fit_each_other(start: int, length: int) -> None:
    first, stop = grains_of(Span(start, start + length))
    size = start + length + 1
    covered = span_of(first, stop, size)
    assert covered.contains(Span(start, start + length)) or length == 0
    assert grain_count(size) >= stop
