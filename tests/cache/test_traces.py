"""Recorded programs replayed: what is fetched for them, and how often they would have to wait.

The line has 50 ms of latency and eight lanes of 50 MB/s; nothing here depends on how fast the
machine is. Limits are what the window reaches now, with a little room: a change that fetches more
or stalls oftener fails here first, with a name that says who suffers.
"""

from __future__ import annotations

import pytest

from artifactfs.byte_range import ByteRange
from tests.cache.replay import MIB, TRACES, Line, Outcome, load, made_of, replay
from tests.cache.traces.record import WORKLOADS

COLUMN_BYTES = (1 << 30) // 800 * 8
FLOATS_TENSOR_BYTES = 512 * 2048 * 4

# trace: bytes fetched for each byte asked, and stalls, at most
LIMITS = {
    "backward": (1.0, 45),
    "cp": (1.0, 40),
    "cp-user": (1.0, 120),
    "duckdb-column": (1.1, 17),
    "duckdb-column-user": (1.1, 75),
    "four-parts": (1.0, 290),
    "grep": (1.0, 35),
    "h5py-all": (1.0, 32),
    "h5py-slice": (2.4, 9),
    "head-c": (2.7, 3),
    "mapped-random": (1.6, 200),
    "parquet-column": (1.1, 17),
    "parquet-column-256": (1.1, 49),
    "parquet-column-mapped": (1.1, 21),
    "parquet-column-user": (1.1, 70),
    "parquet-row-group": (1.2, 12),
    "parquet-whole": (1.0, 75),
    "random": (9.0, 200),
    "random-unhinted": (9.0, 200),
    "records-shuffled": (1.0, 520),
    "safetensors-mapped": (1.0, 80),
    "safetensors-mapped-user": (1.0, 420),
    "safetensors-one": (1.8, 7),
    "safetensors-whole": (1.0, 80),
    "sha256sum": (1.0, 40),
    "sha256sum-user": (1.0, 130),
    "skip": (1.25, 32),
    "skip-user": (1.15, 200),
    "tac": (1.0, 50),
    "tail-c": (1.3, 2),
    "tail-half": (1.0, 46),
    "tar-t": (2.8, 52),
    "tar-x": (1.0, 40),
    "tar-x-one": (2.6, 56),
    "three-at-once": (1.0, 44),
    "willneed": (1.0, 1),
    "zip-list": (2.1, 2),
    "zip-member": (1.0, 50),
    "zip-member-user": (1.05, 310),
}


def test_every_trace_has_its_workload_and_its_limits() -> None:
    recorded = {path.stem for path in TRACES.glob("*.trace")}
    assert recorded == {workload.name for workload in WORKLOADS} == LIMITS.keys()


@pytest.mark.parametrize("name", LIMITS)
def test_a_program_gets_its_bytes_without_many_others_and_without_much_waiting(name: str) -> None:
    most_ratio, most_stalls = LIMITS[name]
    outcome = replay(load(name))
    assert outcome.fetched_bytes >= outcome.asked_bytes
    assert outcome.ratio <= most_ratio + 0.005
    assert outcome.stalls <= most_stalls


@pytest.mark.parametrize("grain_kib", [32, 64, 128])
@pytest.mark.parametrize("name", LIMITS)
def test_a_program_waits_about_as_often_whatever_a_grain_is(name: str, grain_kib: int) -> None:
    _, most_stalls = LIMITS[name]
    outcome = replay(load(name), grain_bytes=grain_kib << 10)
    assert outcome.stalls <= 1.1 * most_stalls + 5


def speedup(name: str) -> float:
    trace, line = load(name), Line()
    return line.one_by_one_s(trace) / replay(trace, line).elapsed_s


@pytest.mark.parametrize("name", ["skip", "skip-user"])
def test_a_stride_is_fetched_over_many_lanes(name: str) -> None:
    assert speedup(name) >= 6


@pytest.mark.parametrize("name", ["cp", "cp-user", "sha256sum", "safetensors-mapped"])
def test_who_reads_through_soon_has_the_line_to_himself(name: str) -> None:
    trace, line = load(name), Line()
    all_lanes_s = trace.asked_bytes / (line.lanes * line.lane_bytes_s)
    assert replay(trace, line).elapsed_s <= 2 * all_lanes_s + 6 * line.latency_s


@pytest.mark.parametrize("each", [128 << 10, MIB])
def test_a_whole_gibibyte_comes_at_most_of_the_lines_rate(each: int) -> None:
    size_bytes = 1 << 30
    trace = made_of(size_bytes, (ByteRange(at, at + each) for at in range(0, size_bytes, each)))
    line = Line(latency_s=0.01)
    assert replay(trace, line).elapsed_s <= 1.25 * size_bytes / (line.lanes * line.lane_bytes_s)


@pytest.mark.parametrize("grain_kib", [32, 64, 128])
@pytest.mark.parametrize("name", ["parquet-column-256", "parquet-column-user"])
def test_a_column_costs_little_more_than_its_bytes(name: str, grain_kib: int) -> None:
    outcome = replay(load(name), grain_bytes=grain_kib << 10)
    assert outcome.fetched_bytes <= 1.3 * COLUMN_BYTES


@pytest.mark.parametrize("name", ["zip-list", "tail-c"])
def test_a_look_at_the_end_of_a_file_starts_no_readahead(name: str) -> None:
    grain_bytes = 64 << 10
    outcome = replay(load(name), grain_bytes=grain_bytes)
    assert outcome.fetched_bytes <= outcome.asked_bytes + grain_bytes


@pytest.mark.parametrize("grain_kib", [32, 64, 128])
@pytest.mark.parametrize("name", ["random", "random-unhinted"])
def test_random_reads_fetch_the_grains_that_they_touch_and_no_more(
    name: str, grain_kib: int
) -> None:
    grain_bytes = grain_kib << 10
    trace = load(name)
    touched = {at // grain_bytes for read in trace.reads for at in (read.start, read.stop - 1)}
    assert replay(trace, grain_bytes=grain_bytes).fetched_bytes == len(touched) * grain_bytes


def test_one_tensor_of_many_costs_a_few_times_its_bytes() -> None:
    assert replay(load("safetensors-one")).fetched_bytes <= 3 * FLOATS_TENSOR_BYTES + MIB


def test_processes_at_once_cost_one_download() -> None:
    for name in ("three-at-once", "four-parts"):
        trace = load(name)
        assert replay(trace).fetched_bytes == trace.size_bytes


def test_without_a_window_the_same_programs_would_wait_at_nearly_every_read() -> None:
    """The limits mean something: this is what they are compared with."""

    def stalls(name: str) -> tuple[Outcome, Outcome]:
        return replay(load(name)), replay(load(name), window_bytes=0)

    for name in ("cp-user", "safetensors-mapped-user", "skip-user", "backward"):
        ours, without = stalls(name)
        assert without.stalls > 0.9 * without.reads
        assert ours.elapsed_s < without.elapsed_s / 5
