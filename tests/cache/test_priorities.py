"""Who waits goes first: pinning holds up no reader and no readahead for longer than one grain.

The source delivers what is pinned only as far as the test lets it, and everything else without
waiting. So no time is measured: what a reader gets while nothing of a pinned file is let through
did not wait for it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from artifactfs.byte_range import ByteRange
from artifactfs.cache import CachedFileHandle, DiskCache
from artifactfs.cache.blocks import BLOCK_BYTES
from artifactfs.errors import Cancelled
from artifactfs.model import Artifact
from tests.cache.source import NOW, Probe
from tests.cache.test_cache import Cache
from tests.helpers import wait_until

PINNED_BYTES = 48 << 20
FILE_BYTES = 6 << 20
FEW = 100  # grains that may come before a slow thread of the test has asked; a piece has 256


def data_of(artifact: Artifact, start: int, stop: int) -> bytes:
    """Each artifact's bytes are its number, over and over."""
    return bytes([int(artifact.id)]) * (stop - start)


def artifact(number: int, size_bytes: int) -> Artifact:
    digest = hashlib.sha256(f"{number}".encode()).hexdigest()
    return Artifact(f"{number}", f"{number}.bin", NOW, NOW, sha256=digest, size_bytes=size_bytes)


class Gated:
    """Delivers grain by grain. Of `held` artifacts each grain needs a permit, but in `free`."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.free = ByteRange(0, 0)
        self.permits = threading.Semaphore(0)
        self.waiting = 0
        self.delivered: list[tuple[str, int]] = []
        self.requests: list[tuple[str, ByteRange]] = []
        self._lock = threading.Lock()
        self.ended = threading.Event()

    def probe(self, artifact: Artifact) -> Probe:
        return Probe(artifact.size_bytes)

    def _permit(self, cancelled: threading.Event | None) -> None:
        with self._lock:
            self.waiting += 1
        try:
            while not self.permits.acquire(timeout=0.01):
                if self.ended.is_set() or (cancelled is not None and cancelled.is_set()):
                    raise Cancelled("cut off")
        finally:
            with self._lock:
                self.waiting -= 1

    def stream(
        self,
        artifact: Artifact,
        span: ByteRange,
        sink: Any,
        *,
        cancelled: threading.Event | None = None,
        deadline_s: float | None = None,
    ) -> None:
        with self._lock:
            self.requests.append((artifact.id, span))
        position = span.start
        while position < span.stop:
            end = min(position // BLOCK_BYTES * BLOCK_BYTES + BLOCK_BYTES, span.stop)
            is_free = self.free.start <= position < self.free.stop
            if artifact.id in self.held and not is_free:
                self._permit(cancelled)
            with self._lock:
                self.delivered.append((artifact.id, position))
            while position < end:
                room = sink.room(position)[: end - position]
                room[:] = data_of(artifact, position, position + len(room))
                position += len(room)
                if not sink.take(len(room), more=position < end):
                    sink.pause()
                    return
        sink.pause()

    def grains_of(self, artifact: Artifact) -> int:
        with self._lock:
            return sum(one == artifact.id for one, _ in self.delivered)


@pytest.fixture
def source() -> Gated:
    return Gated()


@pytest.fixture
def over(tmp_path: Path, source: Gated) -> Iterator[Callable[[int], DiskCache]]:
    cache = Cache(tmp_path / "cache")
    yield lambda connections: cache.over(source, connections=connections, window_max_bytes=32 << 20)  # type: ignore[arg-type]
    source.ended.set()
    for store in cache.stores:
        store.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def pin(store: DiskCache, source: Gated, count: int) -> list[Artifact]:
    """Pin files of which nothing comes, and wait until each connection for that is stuck."""
    pinned = [artifact(number, PINNED_BYTES) for number in range(1, count + 1)]
    source.held |= {one.id for one in pinned}
    for one in pinned:
        store.pin(one)
    wait_until(lambda: source.waiting >= 1)
    return pinned


def fill(source: Gated, connections: int) -> None:
    """Wait until pinning uses all connections that it may."""
    wait_until(lambda: source.waiting == max(1, connections - max(1, connections // 4)))


def read(content: CachedFileHandle, one: Artifact, start: int, stop: int) -> None:
    assert content.read(start, stop) == data_of(one, start, min(stop, one.size_bytes or 0))


def let_through_until(done: Future[None], source: Gated, most: int) -> None:
    """Let grains of what is pinned through, one at a time, until something is done."""
    for _ in range(most):
        if done.done():
            break
        source.permits.release()
        wait_until(lambda: done.done() or (source.permits._value == 0 and source.waiting))
    done.result(10)


@pytest.mark.parametrize("connections", [2, 4, 8])
@pytest.mark.parametrize("pins", [1, 3])
def test_a_read_of_another_file_does_not_wait_for_what_is_pinned(
    over: Callable[[int], DiskCache], source: Gated, connections: int, pins: int
) -> None:
    store = over(connections)
    pinned = pin(store, source, pins)
    fill(source, connections)
    other = artifact(9, FILE_BYTES)
    content = store.open(other)
    for start in (5 << 20, 2 << 20, 3 << 20):
        read(content, other, start, start + 4096)
    content.close()
    assert sum(map(source.grains_of, pinned)) == 0


@pytest.mark.parametrize("connections", [1, 2, 4])
@pytest.mark.parametrize("pins", [1, 3])
def test_as_many_readers_as_there_are_connections_do_not_wait_for_a_piece_of_what_is_pinned(
    over: Callable[[int], DiskCache],
    source: Gated,
    pool: ThreadPoolExecutor,
    connections: int,
    pins: int,
) -> None:
    store = over(connections)
    pinned = pin(store, source, pins)
    fill(source, connections)
    others = [artifact(number, FILE_BYTES) for number in range(4, 4 + connections)]
    contents = [store.open(one) for one in others]

    def read_all() -> None:
        reads = [
            pool.submit(read, content, one, 3 << 20, (3 << 20) + 4096)
            for content, one in zip(contents, others, strict=True)
        ]
        for done in reads:
            done.result()

    let_through_until(pool.submit(read_all), source, FEW)
    assert sum(map(source.grains_of, pinned)) <= FEW
    for content in contents:
        content.close()


@pytest.mark.parametrize("connections", [2, 4])
@pytest.mark.parametrize("pins", [1, 3])
def test_a_sequential_reader_and_its_readahead_go_before_what_is_pinned(
    over: Callable[[int], DiskCache], source: Gated, connections: int, pins: int
) -> None:
    store = over(connections)
    pinned = pin(store, source, pins)
    other = artifact(9, 24 << 20)
    content = store.open(other)
    for start in range(0, 24 << 20, 128 << 10):
        read(content, other, start, start + (128 << 10))
    content.close()
    assert sum(map(source.grains_of, pinned)) == 0
    assert len([one for one, _ in source.requests if one == other.id]) < 96, "it is read ahead"


@pytest.mark.parametrize("connections", [1, 2, 4])
@pytest.mark.parametrize("offset", [PINNED_BYTES - 4096, 20 << 20, 2 << 20])
def test_a_block_of_the_pinned_file_itself_does_not_wait_for_those_before_it(
    over: Callable[[int], DiskCache],
    source: Gated,
    pool: ThreadPoolExecutor,
    connections: int,
    offset: int,
) -> None:
    source.free = ByteRange(offset // BLOCK_BYTES * BLOCK_BYTES, offset + 4096)
    store = over(connections)
    (pinned,) = pin(store, source, 1)
    fill(source, connections)
    content = store.open(pinned)
    done = pool.submit(read, content, pinned, offset, offset + 4096)
    let_through_until(done, source, FEW)
    assert source.grains_of(pinned) <= FEW + 8
    content.close()


def test_a_pinned_file_that_is_read_in_order_is_read_ahead(
    over: Callable[[int], DiskCache], source: Gated
) -> None:
    """What nobody has claimed is the reader's to have fetched, in large requests."""
    source.free = ByteRange(24 << 20, PINNED_BYTES)
    store = over(2)
    (pinned,) = pin(store, source, 1)
    content = store.open(pinned)
    for start in range(24 << 20, 40 << 20, 128 << 10):
        read(content, pinned, start, start + (128 << 10))
    content.close()
    assert len(source.requests) < 64


@pytest.mark.parametrize("connections", [1, 3])
def test_pins_are_fetched_whole_and_each_byte_once(
    over: Callable[[int], DiskCache], source: Gated, connections: int
) -> None:
    store = over(connections)
    pinned = [artifact(number, 9_000_001) for number in range(1, 4)]
    for one in pinned:
        store.pin(one)
    for one in pinned:
        wait_until(lambda one=one: store.usage(one).cached_bytes == 9_000_001)  # type: ignore[misc]
        assert source.grains_of(one) == -(-9_000_001 // BLOCK_BYTES)


def test_what_gave_way_is_fetched_afterwards_and_once(
    over: Callable[[int], DiskCache], source: Gated, pool: ThreadPoolExecutor
) -> None:
    store = over(1)
    (pinned,) = pin(store, source, 1)
    other = artifact(9, FILE_BYTES)
    content = store.open(other)
    for number in range(5):
        done = pool.submit(read, content, other, number << 20, (number << 20) + 4096)
        let_through_until(done, source, FEW)
    content.close()
    source.permits.release(2 * PINNED_BYTES // BLOCK_BYTES)
    wait_until(lambda: store.usage(pinned).cached_bytes == PINNED_BYTES, 30)
    assert source.grains_of(pinned) == PINNED_BYTES // BLOCK_BYTES
    read_pinned = store.open(pinned)
    read(read_pinned, pinned, 30 << 20, 31 << 20)
    read_pinned.close()


def test_a_store_that_is_closed_under_way_leaves_no_pin_waiting(
    over: Callable[[int], DiskCache], source: Gated
) -> None:
    store = over(1)
    pin(store, source, 3)
    source.ended.set()
    store.close()
    wait_until(lambda: store.statistics().open_contents == 0)
