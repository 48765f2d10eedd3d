"""Random faults between service and reader, random reads: right bytes, or a clean error.

The real ``remote.Service`` and the real ``cache.Store`` read from an origin over sockets that does
to each request what a fault says (``faulty_origin``). Hypothesis makes the plans. What is promised,
and what is asserted of every single read:

* **A fault that shows** (a broken connection, an error, an answer for another range, of another
  size or version, a page of a proxy) never becomes a wrong byte. What a repetition can bear is
  borne: the reader never hears of it. Everything else is an `ArtifactfsError` within the time
  that `read.timeout` allows.
* **A fault that does not show** (a flipped bit, another range under the right name) can reach a
  reader only before the whole is here to be compared with its SHA-256, and only where the origin
  forged: never once the content is verified. What was forged is dropped, and fetched again.
* **Afterwards** a read of the whole gives bytes with the artifact's SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from artifactfs.cache import DiskCache
from artifactfs.cache.blocks import BLOCK_BYTES
from artifactfs.cache.cached_file_handle import CachedFileHandle
from artifactfs.config import HttpConfig
from artifactfs.errors import ArtifactfsError, Cancelled
from artifactfs.model import Artifact
from artifactfs.remote import Service
from artifactfs.token import Secret, TokenSource
from tests.cache.faulty_origin import BEARABLE, FINAL, FORGING, Fault, Origin
from tests.helpers import wait_until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AT_ONCE = 32
CONNECTIONS = 48
READ_TIMEOUT_S = 20.0
HANGS_S = 90.0
SIZES = (1, 4096, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES + 17, 2_500_001)
NOISE = random.Random(4).randbytes(4 << 20)


@dataclass(frozen=True)
class Read:
    """One step of a reader; `at` is a part of the size."""

    how: str
    at: float
    length: int


@dataclass(frozen=True)
class Case:
    """One content, what its origin does wrong, and who reads it."""

    size_bytes: int
    presigned: bool
    faults: list[Fault]
    readers: list[list[Read]]


def faults_of(*kinds: str, most: int) -> st.SearchStrategy[list[Fault]]:
    fault = st.builds(Fault, st.sampled_from(kinds), st.sampled_from((0.0, 0.3, 0.7, 1.0)))
    return st.lists(fault, min_size=1, max_size=most)


reads = st.builds(
    Read,
    st.sampled_from(("read", "read", "walk", "try", "reopen")),
    st.sampled_from((0.0, 0.0, 0.2, 0.4999, 0.6, 0.8, 0.99)),
    st.sampled_from((1, 4096, 50_000, BLOCK_BYTES, 300_000)),
)


def cases(
    faults: st.SearchStrategy[list[Fault]], sizes: Sequence[int] = SIZES
) -> st.SearchStrategy[list[Case]]:
    case = st.builds(
        Case,
        st.sampled_from(sizes),
        st.booleans(),
        faults,
        st.lists(st.lists(reads, min_size=1, max_size=4), min_size=1, max_size=2),
    )
    return st.lists(case, min_size=AT_ONCE, max_size=AT_ONCE)


@dataclass
class World:
    """An origin, and a cache that reads from it."""

    origin: Origin
    store: DiskCache
    readers: ThreadPoolExecutor
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def publish(self, case: Case) -> Listed:
        """A content that nobody has seen before."""
        number = next(self.numbers)
        data = number.to_bytes(8, "big") + NOISE[number % 1000 :]
        data = data[-case.size_bytes :] if case.size_bytes < 8 else data[: case.size_bytes]
        name = f"art_{number}"
        self.origin.serve(name, data, presigned=case.presigned, faults=case.faults)
        known = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        return Listed(Artifact(name, name, NOW, NOW, **known), data)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Listed:
    """What the listing says, and what the content is."""

    artifact: Artifact
    data: bytes


@contextlib.contextmanager
def world_of(directory: Path, read_timeout_s: float) -> Iterator[World]:
    http = HttpConfig(connect_timeout_s=2.0, timeout_s=0.4, retry_for_s=5.0)
    token = TokenSource("a test", value=Secret("token"))
    with Origin() as origin, ThreadPoolExecutor(2 * AT_ONCE) as readers:
        service = Service(origin.url, token, http, pool_size=CONNECTIONS)
        store = DiskCache(
            directory,
            service.downloads,
            origin=service.origin,
            size_bytes=1 << 30,
            min_free_bytes=0,
            window_max_bytes=1 << 20,
            connections=CONNECTIONS,
            read_timeout_s=read_timeout_s,
        )
        store.start()
        try:
            yield World(origin, store, readers)
        finally:
            service.close()
            store.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_of(tmp_path / "cache", READ_TIMEOUT_S) as made:
        yield made


class Reader:
    """Takes the steps of one reader and checks every byte it gets."""

    def __init__(self, world: World, listed: Listed) -> None:
        self._world = world
        self._listed = listed
        self.errors: list[ArtifactfsError] = []

    def run(self, steps: list[Read]) -> list[ArtifactfsError]:
        """The errors it met, all of them clean."""
        content = self._world.store.open(self._listed.artifact)
        try:
            for step in steps:
                if step.how == "reopen":
                    content.close()
                    content = self._world.store.open(self._listed.artifact)
                else:
                    self._step(content, step)
        finally:
            content.close()
        return self.errors

    def _step(self, content: CachedFileHandle, step: Read) -> None:
        start = int(step.at * len(self._listed.data))
        for _ in range(3 if step.how == "walk" else 1):
            stop = start + step.length
            was_verified = content.verified
            try:
                if step.how == "try":
                    got = content.try_read(start, stop)
                else:
                    got = content.read(start, stop)
            except ArtifactfsError as error:
                assert not isinstance(error, Cancelled), "nobody gave anything up"
                self.errors.append(error)
                return
            if got is not None:
                self._check(start, stop, got, exact=was_verified)
            start = stop

    def _check(self, start: int, stop: int, got: bytes, *, exact: bool) -> None:
        right = self._listed.data[start:stop]
        assert len(got) == len(right)
        if got == right:
            return
        assert not exact, "a verified content has a wrong byte"
        forged = self._world.origin.forged(self._listed.artifact.id)
        for position in (start + n for n, byte in enumerate(got) if byte != right[n]):
            assert any(first <= position < last for first, last in forged), (
                f"byte {position} of {len(self._listed.data)} is wrong and was not forged"
            )


def read_all(world: World, plan: list[Case]) -> list[list[ArtifactfsError]]:
    """Have every reader of every case read at once, then heal and read each content whole.

    Returns the errors that the readers of each case met before.
    """
    listed = [world.publish(case) for case in plan]
    running = [
        [world.readers.submit(Reader(world, one).run, steps) for steps in case.readers]
        for case, one in zip(plan, listed, strict=True)
    ]
    met = [[error for each in of for error in each.result(HANGS_S)] for of in running]
    world.origin.heal()
    for done in [world.readers.submit(_whole_is_right, world, one) for one in listed]:
        done.result(HANGS_S)
    for one in listed:
        world.origin.forget(one.artifact.id)
    return met


def _whole_is_right(world: World, listed: Listed) -> None:
    """A read after the faults is right; what answers from before did may still have to show."""
    wait_until(lambda: _verifies(world, listed.artifact), HANGS_S / 2)


def _verifies(world: World, artifact: Artifact) -> bool:
    content = world.store.open(artifact)
    try:
        wait_until(lambda: _reads_whole(content, artifact) and content.verified, HANGS_S / 2)
        return _reads_whole(content, artifact)
    except ArtifactfsError:
        return False
    finally:
        content.close()


def _reads_whole(content: CachedFileHandle, artifact: Artifact) -> bool:
    assert content.size_bytes is not None
    data = content.read(0, content.size_bytes)
    return hashlib.sha256(data).hexdigest() == artifact.sha256


def many(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


@many(24)
@given(plan=cases(faults_of(*BEARABLE, most=3)))
def test_what_a_repetition_can_bear_never_reaches_the_reader(
    world: World, plan: list[Case]
) -> None:
    for case, errors in zip(plan, read_all(world, plan), strict=True):
        assert not errors, f"{case}: {errors}"


@many(24)
@given(plan=cases(faults_of(*BEARABLE, *FINAL, *FINAL, most=5)))
def test_what_shows_is_an_error_or_right_bytes(world: World, plan: list[Case]) -> None:
    read_all(world, plan)


def with_one_forgery(bearable: list[Fault], forged: Fault, place: int) -> list[Fault]:
    place %= len(bearable) + 1
    return [*bearable[:place], forged, *bearable[place:]]


@many(24)
@given(
    plan=cases(
        st.builds(
            with_one_forgery,
            faults_of(*BEARABLE, most=2),
            st.builds(Fault, st.sampled_from(FORGING), st.sampled_from((0.0, 0.3, 0.7, 1.0))),
            st.integers(0, 2),
        ),
        SIZES[1:],  # a content of one byte would be that of other cases too
    )
)
def test_what_does_not_show_is_found_out_dropped_and_fetched_again(
    world: World, plan: list[Case]
) -> None:
    read_all(world, plan)


def test_an_origin_that_stays_broken_is_an_error_in_time(tmp_path: Path) -> None:
    size_bytes = 5 * BLOCK_BYTES + 17
    plan = [
        Case(size_bytes, presigned, [Fault(kind)] * 20_000, [[Read("read", 0.1, 300_000)]])
        for kind in (*BEARABLE, *FINAL)
        for presigned in (False, True)
    ]
    with world_of(tmp_path / "cache", 1.0) as world:
        met = read_all(world, plan)
    broken = {case.faults[0].kind for case, errors in zip(plan, met, strict=True) if errors}
    assert {"reset", "stall", "no answer", "503", "404", "other range"} <= broken
