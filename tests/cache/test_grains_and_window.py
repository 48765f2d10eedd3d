"""Pure parts: spans and grains, and how far to read ahead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from artifactfs.cache.grains import grain_count, grains_of, runs, span_of
from artifactfs.cache.window import FIRST_BYTES, MOST_STREAMS, Window
from artifactfs.spans import Span

MIB = 1 << 20
SIZE = 1 << 40


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


def test_a_sequential_reader_gets_a_window_that_doubles_up_to_its_limit() -> None:
    window = Window(16 * MIB)
    ahead = []
    for position in range(0, 200 * MIB, MIB // 8):
        plan = window.plan(Span(position, position + MIB // 8), SIZE)
        ahead.append(plan.stop - position)
    assert ahead[0] <= 2 * FIRST_BYTES
    assert max(ahead) <= 17 * MIB
    assert min(ahead[-100:]) >= 8 * MIB


def test_random_reads_fetch_what_they_ask() -> None:
    window = Window(16 * MIB)
    for position in (500, 3, 900, 77, 640, 211):
        read = Span(position * MIB * 10, position * MIB * 10 + 4096)
        assert window.plan(read, SIZE) == read


def test_several_interleaved_readers_each_keep_their_window() -> None:
    window = Window(16 * MIB)
    last = {}
    for step in range(200):
        for reader in range(8):
            start = reader * 1000 * MIB + step * MIB // 2
            last[reader] = len(window.plan(Span(start, start + MIB // 2), SIZE))
    assert all(length >= 8 * MIB for length in last.values())


def test_a_plan_never_leaves_the_file_and_always_holds_the_read() -> None:
    window = Window(16 * MIB)
    for position in range(0, 5 * MIB, MIB // 4):
        read = Span(position, position + MIB // 4)
        plan = window.plan(read, 5 * MIB)
        assert plan.contains(read)
        assert plan.stop <= 5 * MIB


@given(st.lists(st.integers(0, 10_000), max_size=200))
def test_any_history_is_bounded(positions: list[int]) -> None:
    window = Window(16 * MIB)
    for position in positions:
        read = Span(position * MIB, position * MIB + 100)
        assert len(window.plan(read, SIZE)) <= 17 * MIB
    assert len(window._streams) <= MOST_STREAMS
