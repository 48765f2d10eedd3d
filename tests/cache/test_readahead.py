"""What is fetched ahead of which reads."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.byte_range import ByteRange
from artifactfs.cache.readahead import (
    LEAST_TRUST,
    MOST_STREAMS,
    TAIL_BYTES,
    Readahead,
)
from artifactfs.cache.readahead_budget import ReadaheadBudget
from artifactfs.cache.readahead_streams import (
    FIRST_BYTES,
    MOST_RUNS_AHEAD,
    SKIP_BYTES,
    WHOLE_TRUST,
)

KIB = 1 << 10
MIB = 1 << 20
SIZE = 1 << 40
MIDDLE = SIZE // 2
MOST = 16 * MIB


def window(most_bytes: int = MOST, total_bytes: int = 1 << 40) -> Readahead:
    return Readahead(most_bytes, ReadaheadBudget(total_bytes))


def spans(start: int, each: int, count: int, step: int | None = None) -> list[ByteRange]:
    step = each if step is None else step
    return [
        ByteRange(position, position + each)
        for position in range(start, start + count * step, step)
    ]


class Reader:
    """Plans reads, and keeps what is on its way: the union of what was read and planned."""

    def __init__(self, plans: Readahead, size_bytes: int = SIZE) -> None:
        self._window = plans
        self._size_bytes = size_bytes
        self.planned: list[ByteRange] = []
        self.ahead_bytes = 0

    def read(self, reads: Iterable[ByteRange]) -> None:
        """`ahead_bytes` is then how far beyond the last read's end its own plan or earlier went."""
        for read in reads:
            self.planned += self._window.plan(read, self._size_bytes)
            stops = [span.stop for span in self.planned if span.start <= read.stop <= span.stop]
            self.ahead_bytes = max(stops, default=read.stop) - read.stop

    def has(self, span: ByteRange) -> bool:
        """Whether all of it was planned."""
        position = span.start
        for one in sorted(self.planned):
            if one.start <= position < one.stop:
                position = one.stop
        return position >= span.stop

    @property
    def planned_bytes(self) -> int:
        total = position = 0
        for one in sorted(self.planned):
            total += max(0, one.stop - max(one.start, position))
            position = max(position, one.stop)
        return total


# One reader


def test_the_first_bytes_bring_a_first_window_at_once() -> None:
    read = ByteRange(0, 128 * KIB)
    assert window().plan(read, SIZE) == [ByteRange(read.stop, read.stop + FIRST_BYTES)]


def test_one_read_anywhere_else_fetches_nothing_ahead() -> None:
    assert window().plan(ByteRange(MIDDLE, MIDDLE + MIB), SIZE) == []


def test_a_window_grows_with_what_was_read_and_ends_at_its_limit() -> None:
    reader = Reader(window())
    reader.read(spans(MIDDLE, 128 * KIB, 2))
    assert 0 < reader.ahead_bytes <= 256 * KIB
    reader.read(spans(MIDDLE + 256 * KIB, 128 * KIB, 6))
    assert reader.ahead_bytes >= 512 * KIB
    reader.read(spans(MIDDLE + MIB, 128 * KIB, 1000))
    assert MOST // 2 < reader.ahead_bytes <= MOST


@pytest.mark.parametrize("each", [4 * KIB, 128 * KIB, MIB])
@pytest.mark.parametrize("start", [0, MIDDLE])
def test_a_sequential_reader_has_the_whole_window_when_it_has_read_as_much(
    each: int, start: int
) -> None:
    reader = Reader(window())
    reader.read(spans(start, each, MOST // each))
    assert reader.ahead_bytes >= MOST // 2


def test_plans_are_few_because_each_lasts_for_half_of_a_window() -> None:
    plans = window()
    made = [plans.plan(read, SIZE) for read in spans(MIDDLE, 4 * KIB, 16_384)]
    doublings = math.log2(64 * MIB / (4 * KIB))
    assert sum(map(len, made)) <= 2 * doublings + 2 * 64 * MIB / MOST


def test_backward_reading_has_a_window_before_it() -> None:
    reader = Reader(window())
    reader.read(spans(MIDDLE, 64 * KIB, 2, -64 * KIB))
    assert reader.planned == []
    reader.read(spans(MIDDLE - 128 * KIB, 64 * KIB, 62, -64 * KIB))
    front = MIDDLE - 63 * 64 * KIB
    assert reader.has(ByteRange(front - MIB, front))
    assert all(span.stop <= MIDDLE for span in reader.planned)


def test_who_turns_round_is_followed() -> None:
    reader = Reader(window())
    reader.read(spans(MIDDLE, 64 * KIB, 8, -64 * KIB))
    reader.planned.clear()
    reader.read(spans(MIDDLE + 64 * KIB, 64 * KIB, 16))
    assert reader.ahead_bytes >= 512 * KIB


@pytest.mark.parametrize("skip", [-MIB, -4 * KIB, 4 * KIB, SKIP_BYTES])
def test_a_small_skip_does_not_end_a_stream(skip: int) -> None:
    reader = Reader(window())
    reader.read(spans(MIDDLE, 128 * KIB, 32))
    ahead_bytes = reader.ahead_bytes
    reader.read(spans(MIDDLE + 4 * MIB + skip, 128 * KIB, 1))
    assert reader.ahead_bytes >= ahead_bytes - abs(skip) - 128 * KIB


def test_reads_in_the_wrong_order_are_one_stream() -> None:
    in_order = spans(MIDDLE, 128 * KIB, 64)
    swapped = [in_order[index ^ 1] for index in range(64)]
    reader = Reader(window())
    reader.read(swapped)
    assert reader.has(ByteRange(MIDDLE + 8 * MIB, MIDDLE + 12 * MIB))


def test_a_look_far_ahead_into_what_is_planned_plans_nothing() -> None:
    plans = window(most_bytes=64 * MIB)
    for read in spans(0, MIB, 32):
        plans.plan(read, SIZE)
    assert plans.plan(ByteRange(64 * MIB, 65 * MIB), SIZE) == []
    assert all(
        span.stop <= 200 * MIB
        for read in spans(32 * MIB, MIB, 32)
        for span in plans.plan(read, SIZE)
    )


def test_what_was_planned_and_got_lost_is_planned_again() -> None:
    plans = window()
    for read in spans(0, MIB, 32):
        plans.plan(read, SIZE)
    read = ByteRange(32 * MIB, 33 * MIB)
    (ahead,) = plans.plan(read, SIZE, lost=True)
    assert ahead == ByteRange(33 * MIB, 33 * MIB + MOST)


def test_after_everybody_has_gone_nothing_counts_as_planned() -> None:
    allowance = ReadaheadBudget(1 << 40)
    plans = Readahead(MOST, allowance)
    for read in spans(0, MIB, 32):
        plans.plan(read, SIZE)
    assert allowance.held_bytes
    plans.forget()
    assert not allowance.held_bytes
    assert plans.plan(ByteRange(32 * MIB, 33 * MIB), SIZE) == []


def test_who_reads_less_and_less_of_it_has_less_and_less_fetched() -> None:
    reader = Reader(window())
    reader.read(spans(MIDDLE, 128 * KIB, 64))
    reader.planned.clear()
    reader.read(spans(MIDDLE + 8 * MIB, 4 * KIB, 64, MIB))
    assert reader.planned_bytes <= 32 * MIB
    assert reader.ahead_bytes == 0


@pytest.mark.parametrize("start", [0, MIDDLE])
def test_to_be_told_twice_of_each_read_changes_nothing(start: int) -> None:
    once, twice = window(), window()
    for read in spans(start, 128 * KIB, 500):
        assert twice.plan(read, SIZE) == once.plan(read, SIZE)
        assert twice.plan(read, SIZE) == []


# Strides


def test_the_third_of_a_row_brings_those_that_follow_and_no_gap() -> None:
    reader = Reader(window())
    row = spans(MIDDLE, MIB, 40, 17 * MIB)
    reader.read(row[:2])
    assert reader.planned == []
    reader.read(row[2:3])
    assert reader.planned[:4] == row[3:7]
    reader.read(row[3:])
    assert all(reader.has(read) for read in row[3:])
    assert reader.planned_bytes <= (37 + MOST_RUNS_AHEAD) * MIB


def test_a_row_of_runs_that_the_kernel_cut_brings_whole_runs() -> None:
    reader = Reader(window())
    for start in range(MIDDLE, MIDDLE + 17 * MIB * 4, 17 * MIB):
        reader.read(spans(start, 128 * KIB, 8))
    assert reader.has(ByteRange(MIDDLE + 4 * 17 * MIB, MIDDLE + 4 * 17 * MIB + MIB))
    assert not reader.has(ByteRange(MIDDLE + 5 * 17 * MIB - MIB, MIDDLE + 5 * 17 * MIB))


def test_runs_at_equal_distances_that_are_read_at_a_time_each_have_a_window() -> None:
    plans = window()
    readers = [Reader(plans) for _ in range(8)]
    for step in range(32):
        for number, reader in enumerate(readers):
            reader.read(spans(MIDDLE + number * 1024 * MIB + step * MIB, MIB, 1))
    assert all(reader.ahead_bytes >= 4 * MIB for reader in readers)


def test_a_row_may_lead_backward() -> None:
    reader = Reader(window())
    row = spans(MIDDLE, MIB, 20, -17 * MIB)
    reader.read(row[:3])
    assert reader.has(row[3])
    assert reader.has(row[5])


def test_two_rows_at_once_are_both_seen() -> None:
    reader = Reader(window())
    one = spans(MIDDLE, MIB, 6, 17 * MIB)
    other = spans(MIDDLE // 2, MIB, 6, 5 * MIB)
    reader.read(read for pair in zip(one, other, strict=True) for read in pair)
    assert reader.has(one[4])
    assert reader.has(other[4])


def test_a_run_that_goes_on_is_no_longer_of_a_row() -> None:
    reader = Reader(window())
    reader.read(spans(MIDDLE, MIB, 5, 17 * MIB))
    start = MIDDLE + 4 * 17 * MIB
    reader.read(spans(start + MIB, MIB, 12))
    assert reader.ahead_bytes >= 4 * MIB


def test_a_row_leaves_the_file_at_neither_end() -> None:
    size = 100 * MIB
    reader = Reader(window(), size)
    reader.read(spans(8 * MIB, MIB, 5, 18 * MIB))
    reader.read(spans(91 * MIB, MIB, 5, -20 * MIB))
    assert reader.planned
    assert all(span.stop <= size for span in reader.planned)


# Trust


def ahead_of_a_second_read(plans: Readahead, start: int) -> int:
    reader = Reader(plans)
    reader.read(spans(start, MIB, 2))
    return reader.ahead_bytes


def test_a_file_that_is_entered_at_its_end_is_read_in_pieces() -> None:
    plans = window()
    assert plans.plan(ByteRange(SIZE - 64 * KIB, SIZE), SIZE) == []
    assert ahead_of_a_second_read(plans, MIDDLE) <= 2 * MIB * LEAST_TRUST
    assert plans.plan(ByteRange(0, MIB), SIZE) == []


def test_a_footer_that_is_read_in_parts_is_a_footer() -> None:
    plans = window()
    for read in spans(SIZE - TAIL_BYTES, 128 * KIB, 8):
        plans.plan(read, SIZE)
    assert ahead_of_a_second_read(plans, MIDDLE) <= 2 * MIB * LEAST_TRUST


def test_a_long_piece_of_such_a_file_has_its_window_all_the_same() -> None:
    reader = Reader(window())
    reader.read([ByteRange(SIZE - 64 * KIB, SIZE)])
    reader.read(spans(MIDDLE, MIB, 64))
    assert reader.ahead_bytes >= MOST // 2


def test_streams_that_are_abandoned_make_later_ones_start_smaller() -> None:
    plans = window()
    before = ahead_of_a_second_read(plans, MIDDLE)
    for number in range(1, 200):
        ahead_of_a_second_read(plans, MIDDLE + number * number * 32 * MIB)
    assert ahead_of_a_second_read(plans, MIDDLE // 2) <= before // 4


def test_streams_that_read_on_restore_it() -> None:
    plans = window()
    plans.plan(ByteRange(SIZE - 64 * KIB, SIZE), SIZE)
    before = ahead_of_a_second_read(plans, MIDDLE // 2)
    for number in range(1, 100):
        Reader(plans).read(spans(MIDDLE + number * number * 64 * MIB, MIB, 8))
    assert ahead_of_a_second_read(plans, MIDDLE // 4) >= 2 * before


def test_what_was_learned_outlasts_the_last_close() -> None:
    plans = window()
    plans.plan(ByteRange(SIZE - 64 * KIB, SIZE), SIZE)
    plans.forget()
    assert ahead_of_a_second_read(plans, MIDDLE) <= 2 * MIB * LEAST_TRUST


# Many readers


def test_interleaved_readers_each_keep_their_window() -> None:
    plans = window()
    readers = [Reader(plans) for _ in range(MOST_STREAMS)]
    for step in range(64):
        for number, reader in enumerate(readers):
            start = (number + 1) ** 2 * 128 * MIB + step * MIB
            reader.read([ByteRange(start, start + MIB)])
    assert all(reader.ahead_bytes > MOST // 2 for reader in readers)


def test_a_second_reader_from_the_start_has_a_stream_of_its_own() -> None:
    plans = window()
    first, second = Reader(plans), Reader(plans)
    first.read(spans(0, MIB, 64))
    second.read(spans(0, MIB, 32))
    first.read(spans(64 * MIB, MIB, 8))
    assert first.ahead_bytes > MOST // 2
    assert second.has(ByteRange(32 * MIB, 33 * MIB))


def test_many_handles_together_stay_within_the_allowance() -> None:
    allowance = ReadaheadBudget(64 * MIB)
    windows = [Readahead(128 * MIB, allowance) for _ in range(64)]
    readers = [Reader(one) for one in windows]
    for step in range(128):
        for reader in readers:
            reader.read(spans(step * MIB, MIB, 1))
        assert sum(reader.ahead_bytes for reader in readers) <= 64 * MIB
        assert allowance.held_bytes <= 64 * MIB
    assert all(reader.ahead_bytes > 0 for reader in readers)


# Any history

READ = st.builds(
    lambda start, pages: ByteRange(start * 4 * KIB, (start + pages) * 4 * KIB),
    st.one_of(st.integers(0, 3000), st.integers(0, 100).map(lambda n: n * 300)),
    st.sampled_from([1, 2, 16, 32, 256]),
)


@given(st.lists(READ, max_size=120), st.integers(1, 64 * MIB), st.integers(0, 8 * MIB), st.data())
def test_any_plan_lies_in_the_file_and_within_window_and_allowance(
    reads: list[ByteRange], size_bytes: int, total_bytes: int, data: st.DataObject
) -> None:
    allowance = ReadaheadBudget(total_bytes)
    plans = Readahead(MIB, allowance)
    for read in reads:
        read = read.clip(size_bytes)
        ahead = plans.plan(read, size_bytes, lost=data.draw(st.booleans()))
        assert all(span and span.stop <= size_bytes for span in ahead)
        assert sum(map(len, ahead)) <= min(MIB, total_bytes)
        assert allowance.held_bytes <= total_bytes
        assert not any(span.overlaps(read) for span in ahead)
        assert len(plans._streams) <= MOST_STREAMS


@given(st.lists(READ, max_size=120))
def test_any_history_fetches_at_most_a_multiple_of_what_was_read(reads: list[ByteRange]) -> None:
    reader = Reader(window(), 1 << 30)
    reader.read(reads)
    read_bytes = sum(map(len, reads))
    skipped_bytes = SKIP_BYTES * len(reads)
    starts = sum(read.start == 0 for read in reads)
    most_bytes = (WHOLE_TRUST + 1) * read_bytes + skipped_bytes + starts * FIRST_BYTES
    assert reader.planned_bytes <= most_bytes


@given(st.sets(st.integers(1, 1 << 28), max_size=300), st.randoms(use_true_random=False))
def test_random_reads_fetch_nothing_ahead(places: set[int], dice) -> None:
    """Places are far from each other, and no three of them in a row: those would be a stride."""
    starts = [(place * place % (1 << 31)) * SKIP_BYTES * 4 for place in places]
    starts = list(dict.fromkeys(starts))
    dice.shuffle(starts)
    known: list[int] = []
    plans = window()
    for start in starts:
        if any(2 * second - start in known for second in known):
            continue
        known.append(start)
        assert plans.plan(ByteRange(start + MIB, start + MIB + 4 * KIB), 1 << 60) == []


@given(
    st.integers(0, 1 << 20).map(lambda page: page * 4 * KIB),
    st.lists(st.sampled_from([1, 2, 8, 32, 256]), min_size=1, max_size=200),
)
def test_any_sequential_history_has_what_it_has_read_ahead(start: int, pages: list[int]) -> None:
    reader = Reader(window(most_bytes=MOST), 1 << 40)
    position = start
    for count in pages:
        reader.read([ByteRange(position, position + count * 4 * KIB)])
        position += count * 4 * KIB
    read_bytes = position - start
    if len(pages) > 1:
        assert reader.ahead_bytes >= min(read_bytes, MOST) // 2
    assert reader.ahead_bytes <= max(MOST, FIRST_BYTES)
