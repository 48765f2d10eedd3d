"""The window at work in a store: what a source is asked for, and when."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.byte_range import ByteRange
from artifactfs.cache import CachedFileHandle, DiskCache
from tests.cache.source import Source, artifact_of
from tests.helpers import wait_until

MIB = 1 << 20
DATA = random.Random(2).randbytes(40 * MIB)


@pytest.fixture
def source() -> Source:
    return Source(DATA, piece_bytes=MIB)


@pytest.fixture
def store(source: Source, tmp_path: Path) -> Iterator[DiskCache]:
    made = DiskCache(
        tmp_path / "cache",
        source,
        origin="http://service:80",
        size_bytes=1 << 30,
        min_free_bytes=0,
        window_max_bytes=8 * MIB,
        connections=4,
        read_timeout_s=10.0,
    )
    made.start()
    yield made
    made.close()


@pytest.fixture
def content(store: DiskCache) -> Iterator[CachedFileHandle]:
    opened = store.open(artifact_of(DATA))
    yield opened
    opened.close()


def is_here(content: CachedFileHandle, start: int, stop: int) -> bool:
    return content.try_read(start, stop) == DATA[start:stop]


def test_the_first_bytes_do_not_wait_for_what_is_read_ahead(
    content: CachedFileHandle, source: Source
) -> None:
    assert content.read(0, 4096) == DATA[:4096]
    first = min(source.requests, key=lambda span: span.start)  # two fetch at the same time
    assert first.start == 0
    assert len(first) < MIB


def test_a_sequential_reader_finds_the_next_bytes_here(
    content: CachedFileHandle, source: Source
) -> None:
    for start in range(0, 4 * MIB, MIB):
        content.read(start, start + MIB)
    wait_until(lambda: source.delivered_bytes >= 10 * MIB)
    requests = len(source.requests)
    assert is_here(content, 4 * MIB, 5 * MIB)
    assert is_here(content, 5 * MIB, 6 * MIB)
    assert len(source.requests) <= requests + 2


def test_a_stride_is_fetched_without_its_gaps(content: CachedFileHandle, source: Source) -> None:
    for start in range(2 * MIB, 40 * MIB, 6 * MIB):
        assert content.read(start, start + MIB) == DATA[start : start + MIB]
    assert source.delivered_bytes <= 8 * MIB


def test_what_a_closed_file_had_planned_is_fetched_for_the_next_who_opens_it(
    store: DiskCache, source: Source
) -> None:
    source.gate.clear()
    gone = store.open(artifact_of(DATA))
    gone.request(ByteRange(0, MIB), lambda error: None)
    wait_until(lambda: source.requests)
    gone.close()
    source.gate.set()
    back = store.open(artifact_of(DATA))
    for start in range(0, 40 * MIB, MIB):
        assert back.read(start, start + MIB) == DATA[start : start + MIB]
    back.close()
