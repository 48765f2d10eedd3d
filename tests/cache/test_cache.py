"""The cache: right bytes or an error, each byte fetched once, whatever happens to its files."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactfs.byte_range import ByteRange
from artifactfs.cache import DiskCache
from artifactfs.cache.blocks import BLOCK_BYTES
from artifactfs.cache.disk_format import HEADER_BYTES, SUM_BYTES
from artifactfs.cache.eviction import Evictor
from artifactfs.errors import (
    BadAnswer,
    CacheError,
    ContentChanged,
    ContentMismatch,
    TimedOut,
    Unreachable,
)
from artifactfs.model import Artifact
from tests.cache.source import Probe, Source, artifact_of, broken
from tests.helpers import wait_until


class Cache:
    """One cache directory, opened as often as a test likes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stores: list[DiskCache] = []

    def over(self, source: Source, **more: object) -> DiskCache:
        wanted: dict[str, object] = {
            "origin": "http://service:80",
            "size_bytes": 1 << 30,
            "min_free_bytes": 0,
            "window_max_bytes": 1 << 20,
            "connections": 4,
            "read_timeout_s": 10.0,
        }
        store = DiskCache(self.directory, source, **(wanted | more))  # type: ignore[arg-type]
        store.start()
        self.stores.append(store)
        return store

    def close(self, store: DiskCache) -> None:
        self.stores.remove(store)
        store.close()

    def file(self, artifact: Artifact, suffix: str = "") -> Path:
        (found,) = self.directory.rglob(f"{artifact.sha256}{suffix}")
        return found


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    made = Cache(tmp_path / "cache")
    yield made
    for store in made.stores:
        store.close()


DATA = random.Random(1).randbytes(3_000_017)


def read_all(store: DiskCache, artifact: Artifact, data: bytes = DATA) -> None:
    content = store.open(artifact)
    try:
        position = 0
        while piece := content.read(position, position + 100_000):
            assert piece == data[position : position + len(piece)]
            position += len(piece)
        assert position == len(data)
    finally:
        content.close()


def test_sixteen_readers_of_one_file_fetch_each_byte_once(cache: Cache) -> None:
    source = Source(DATA)
    store = cache.over(source)
    content = store.open(artifact_of(DATA))

    def read(seed: int) -> None:
        choice = random.Random(seed)
        for _ in range(60):
            start = choice.randrange(len(DATA))
            stop = start + choice.randrange(200_000)
            assert content.read(start, stop) == DATA[start:stop]

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(read, seed) for seed in range(16)]:
            done.result()
    assert content.read(0, len(DATA)) == DATA
    content.close()
    assert source.delivered_bytes == len(DATA)


def test_a_random_read_fetches_the_grains_it_touches_and_no_more(cache: Cache) -> None:
    source = Source(DATA)
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    assert content.read(1_000_000, 1_000_010) == DATA[1_000_000:1_000_010]
    content.close()
    assert source.delivered_bytes == BLOCK_BYTES


def test_what_was_read_once_is_not_fetched_again_after_a_restart(cache: Cache) -> None:
    source = Source(DATA)
    store = cache.over(source)
    read_all(store, artifact_of(DATA))
    cache.close(store)
    again = Source(DATA)
    read_all(cache.over(again), artifact_of(DATA))
    assert again.requests == []


def test_a_reader_gets_its_bytes_before_the_download_ends(cache: Cache) -> None:
    source = Source(DATA)
    held = threading.Event()
    passed = threading.Event()

    def hold_the_rest(offset: int, piece: bytes) -> bytes:
        if offset >= 2 * BLOCK_BYTES:
            passed.set()
            assert held.wait(10)
        return piece

    source.fault = hold_the_rest
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    assert content.read(0, 1000) == DATA[:1000]
    held.set()
    content.close()


def test_a_flipped_bit_in_the_cache_is_fetched_again(cache: Cache) -> None:
    source = Source(DATA)
    store = cache.over(source)
    read_all(store, artifact_of(DATA))
    cache.close(store)
    with cache.file(artifact_of(DATA)).open("r+b") as file:
        file.seek(700_000)
        byte = file.read(1)[0]
        file.seek(700_000)
        file.write(bytes([byte ^ 4]))
    again = Source(DATA)
    read_all(cache.over(again), artifact_of(DATA))
    assert 0 < again.delivered_bytes <= BLOCK_BYTES


@pytest.mark.parametrize("cut", [0, 1, 30, 200])
def test_a_torn_sidecar_means_refetch_never_wrong_bytes(cache: Cache, cut: int) -> None:
    store = cache.over(Source(DATA))
    read_all(store, artifact_of(DATA))
    cache.close(store)
    sidecar = cache.file(artifact_of(DATA), ".grains")
    sidecar.write_bytes(sidecar.read_bytes()[:cut])
    again = Source(DATA)
    read_all(cache.over(again), artifact_of(DATA))
    left = max(0, (cut - HEADER_BYTES) // SUM_BYTES)
    assert again.delivered_bytes == len(DATA) - left * BLOCK_BYTES


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 400), bit=st.integers(0, 7))
def test_any_flipped_bit_in_a_sidecar_never_gives_wrong_bytes(
    cache: Cache, where: int, bit: int
) -> None:
    data = DATA[:400_000]
    shutil.rmtree(cache.directory, ignore_errors=True)
    store = cache.over(Source(data))
    read_all(store, artifact_of(data), data)
    cache.close(store)
    sidecar = cache.file(artifact_of(data), ".grains")
    content = bytearray(sidecar.read_bytes())
    content[where % len(content)] ^= 1 << bit
    sidecar.write_bytes(content)
    store = cache.over(Source(data))
    read_all(store, artifact_of(data), data)
    cache.close(store)


def test_a_content_that_is_not_what_its_hash_says_is_fetched_once_more(cache: Cache) -> None:
    source = Source(DATA)
    flips = [True]

    def flip_once(offset: int, piece: bytes) -> bytes:
        if offset == 0 and flips:
            flips.clear()
            return b"\0" + piece[1:]
        return piece

    source.fault = flip_once
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    content.read(0, len(DATA))
    wait_until(lambda: store.statistics().mismatches == 1)
    assert content.read(0, len(DATA)) == DATA
    wait_until(lambda: content.verified)
    assert content.backing_fd() is not None
    content.close()


def test_a_content_that_stays_wrong_is_an_error(cache: Cache) -> None:
    source = Source(DATA)
    source.fault = lambda offset, piece: bytes(len(piece))
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    deadline = time.monotonic() + 20
    with pytest.raises(ContentMismatch):
        while time.monotonic() < deadline:
            content.read(0, len(DATA))
    content.close()


def test_an_error_of_the_source_reaches_the_reader_and_the_next_read_tries_again(
    cache: Cache,
) -> None:
    source = Source(DATA)
    source.fault = broken
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    with pytest.raises(Unreachable):
        content.read(0, 10)
    source.fault = lambda offset, piece: piece
    assert content.read(0, 10) == DATA[:10]
    content.close()


def test_a_source_that_hangs_times_out_and_cached_bytes_are_read_meanwhile(cache: Cache) -> None:
    source = Source(DATA)
    store = cache.over(source, read_timeout_s=1.0)
    content = store.open(artifact_of(DATA))
    content.read(2_000_000, 2_000_010)
    source.gate.clear()
    with pytest.raises(TimedOut):
        content.read(0, 10)
    assert content.try_read(2_000_000, 2_000_010) == DATA[2_000_000:2_000_010]
    source.gate.set()
    content.close()


def test_a_cancelled_request_is_not_called_back(cache: Cache) -> None:
    source = Source(DATA)
    source.gate.clear()
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    called: list[BaseException | None] = []
    content.request(ByteRange(0, 10), called.append).cancel()
    source.gate.set()
    assert content.read(0, 10) == DATA[:10]
    assert called == []
    content.close()


def test_a_server_that_ignores_ranges_fills_the_cache_in_one_go(cache: Cache) -> None:
    source = Source(DATA)
    source.ranged = False
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    assert content.read(1_500_000, 1_500_100) == DATA[1_500_000:1_500_100]
    assert content.read(0, 100) == DATA[:100]
    content.close()


def test_an_unknown_hash_and_size_are_found_out(cache: Cache) -> None:
    artifact = artifact_of(DATA, sha256=None, size_bytes=None)
    store = cache.over(Source(DATA))
    read_all(store, artifact)
    assert store.usage(artifact).size_bytes == len(DATA)


def test_a_size_that_differs_from_the_listing_is_an_error(cache: Cache) -> None:
    store = cache.over(Source(DATA))
    first = store.open(artifact_of(DATA))
    with pytest.raises(BadAnswer):
        store.open(artifact_of(DATA, size_bytes=5))
    first.close()


def test_the_cache_keeps_to_its_size_and_spares_what_is_open_or_pinned(cache: Cache) -> None:
    store = cache.over(Source(b""), size_bytes=1 << 20)
    cache.close(store)
    files = [random.Random(n).randbytes(300_000) for n in range(6)]
    for number, data in enumerate(files):
        store = cache.over(Source(data))
        if number == 0:
            store.pin(artifact_of(data))
        read_all(store, artifact_of(data), data)
        wait_until(lambda store=store: store.statistics().open_contents == 0)  # type: ignore[misc]
        cache.close(store)
        os.utime(cache.file(artifact_of(data), ".grains"), (number, number))
    store = cache.over(Source(files[1]), size_bytes=1 << 20)
    opened = store.open(artifact_of(files[1]))
    os.utime(cache.file(artifact_of(files[1]), ".grains"), (1, 1))
    wait_until(lambda: store.statistics().evicted_bytes > 0, 20)
    left = {
        number for number, data in enumerate(files) if store.usage(artifact_of(data)).cached_bytes
    }
    assert {0, 1, 5} <= left
    assert 2 not in left
    assert opened.read(0, 100) == files[1][:100]
    opened.close()


def test_a_cache_directory_deleted_under_way_loses_nothing(cache: Cache) -> None:
    source = Source(DATA)
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    content.read(0, 100)
    shutil.rmtree(cache.directory)
    assert content.read(1_000_000, 2_000_000) == DATA[1_000_000:2_000_000]
    content.close()
    read_all(store, artifact_of(DATA))


def test_a_cache_directory_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="--cache-dir"):
        Cache(tmp_path / "file" / "cache").over(Source(DATA))


@pytest.mark.parametrize(
    "cause", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENXIO, errno.ESTALE]
)
@pytest.mark.parametrize("call", ["mkdir", "open", "pwrite", "chmod", "link", "rename", "replace"])
def test_a_disk_that_takes_nothing_is_read_past_and_said_once(
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cause: int,
    call: str,
) -> None:
    """Whatever call the disk refuses, from the start on."""

    def refuse(path: object, *args: object, **more: object) -> object:
        writes = call != "open" or (args and int(args[0]) & os.O_ACCMODE)  # type: ignore[call-overload]
        if writes and (isinstance(path, int) or str(cache.directory) in str(path)):
            raise OSError(cause, os.strerror(cause), str(path))
        return before(path, *args, **more)

    before = getattr(os, call)
    monkeypatch.setattr(os, call, refuse)
    store = cache.over(Source(DATA))
    for _ in range(2):
        read_all(store, artifact_of(DATA))
        read_all(store, artifact_of(DATA, sha256=None, size_bytes=None))
    (tmp_path / "spooled").write_bytes(DATA)
    store.adopt(artifact_of(DATA), tmp_path / "spooled")
    read_all(store, artifact_of(DATA))
    said = [one for one in caplog.records if one.name.startswith("artifactfs.cache")]
    assert len(said) <= 1, caplog.text
    for one in said:
        assert "cache.dir" in one.getMessage()
        assert os.strerror(cause) in one.getMessage()


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_what_has_neither_a_size_nor_a_place_on_disk_is_read(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """An artifact without a size is fetched whole to learn it."""
    source = Source(DATA)
    source.ranged = False
    monkeypatch.setattr(source, "probe", lambda artifact: Probe(None))
    store = cache.over(source)
    before = getattr(os, call)

    def refuse(path: object, *args: object, **more: object) -> object:
        if str(cache.directory) in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return before(path, *args, **more)

    monkeypatch.setattr(os, call, refuse)
    artifact = artifact_of(DATA, sha256=None, size_bytes=None)
    read_all(store, artifact)
    monkeypatch.undo()
    monkeypatch.setattr(source, "probe", lambda artifact: Probe(None))
    read_all(store, artifact)
    assert store.usage(artifact).size_bytes == len(DATA)


def test_an_adopted_file_is_never_fetched(cache: Cache, tmp_path: Path) -> None:
    source = Source(DATA)
    store = cache.over(source)
    (tmp_path / "spooled").write_bytes(DATA)
    assert store.adopt(artifact_of(DATA), tmp_path / "spooled")
    (tmp_path / "spooled").unlink()
    read_all(store, artifact_of(DATA))
    assert source.requests == []


def test_what_its_user_has_removed_or_rewritten_is_not_adopted_and_nothing_is_said(
    cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = cache.over(Source(DATA))
    assert not store.adopt(artifact_of(DATA), tmp_path / "gone")
    (tmp_path / "rewritten").write_bytes(b"another")
    assert not store.adopt(artifact_of(DATA), tmp_path / "rewritten")
    assert caplog.records == []
    read_all(store, artifact_of(DATA))


def test_what_the_disk_does_not_take_is_said_once_with_a_remedy(
    cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = cache.over(Source(DATA))
    (tmp_path / "spooled").write_bytes(DATA)
    (tmp_path / "cache" / "v2" / "sha256").write_text("in the way")
    for name in ("first.bin", "second.bin"):
        artifact = dataclasses.replace(artifact_of(DATA), filename=name)
        assert not store.adopt(artifact, tmp_path / "spooled")
    (said,) = caplog.records
    assert said.levelname == "WARNING"
    (tmp_path / "cache" / "v2" / "sha256").unlink()
    for part in ("first.bin", "Not a directory", "cache clear", "cache.dir"):
        assert part in said.getMessage()
    read_all(store, artifact_of(DATA))


def test_two_mounts_that_read_one_file_at_once_fetch_each_byte_once(cache: Cache) -> None:
    sources = [Source(DATA, 20_000), Source(DATA, 20_000)]
    for source in sources:
        source.fault = lambda offset, piece: (time.sleep(0.001), piece)[1]
    stores = [cache.over(source) for source in sources]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(read_all, store, artifact_of(DATA)) for store in stores]:
            done.result()
    assert sum(source.delivered_bytes for source in sources) <= len(DATA) * 1.01
    assert all(store.statistics().refetched_grains == 0 for store in stores)


def test_a_mount_that_hangs_in_a_download_does_not_hang_another(cache: Cache) -> None:
    hanging = Source(DATA)
    hanging.gate.clear()
    one, other = cache.over(hanging), cache.over(Source(DATA))
    stuck = one.open(artifact_of(DATA))
    stuck.request(ByteRange(0, 10), lambda _: None)
    wait_until(lambda: hanging.requests)
    read_all(other, artifact_of(DATA))
    hanging.gate.set()
    stuck.close()


def test_what_another_mount_has_removed_and_partly_fetched_again_is_not_taken_for_whole(
    cache: Cache,
) -> None:
    source = Source(DATA)
    one, other = cache.over(source), cache.over(Source(DATA))
    read_all(one, artifact_of(DATA))
    wait_until(lambda: other.clear() > 0)  # whoever hashes it has it open still
    content = other.open(artifact_of(DATA))
    content.read(0, 100)
    content.close()
    before = source.delivered_bytes
    read_all(one, artifact_of(DATA))
    assert source.delivered_bytes > before


def test_what_another_mount_has_given_back_a_part_of_is_not_verified_any_more(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifactfs.cache.hole_punching.SPARED_S", -1)
    one, other = cache.over(Source(DATA)), cache.over(Source(DATA))
    content = one.open(artifact_of(DATA))
    content.read(0, len(DATA))
    wait_until(lambda: content.verified)
    content.close()
    theirs = other.open(artifact_of(DATA))
    theirs.read(0, len(DATA))
    (shared,) = other.all_open()
    wait_until(lambda: shared.punch(1 << 30))  # whoever hashes it has it open still
    theirs.close()
    content = one.open(artifact_of(DATA))
    assert not content.complete
    assert not content.verified
    content.close()


def test_a_file_larger_than_the_cache_gives_back_what_was_read_before(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifactfs.cache.hole_punching.SPARED_S", -1)
    data = random.Random(2).randbytes(24 << 20)
    source = Source(data, 1 << 20)
    store = cache.over(source, size_bytes=8 << 20)
    artifact = artifact_of(data)
    content = store.open(artifact)
    for start in range(0, len(data), 1 << 20):
        assert content.read(start, start + (1 << 20)) == data[start : start + (1 << 20)]
    file = cache.file(artifact)
    wait_until(lambda: file.stat().st_blocks * 512 <= 9 << 20, 20)
    wait_until(lambda: store.statistics().evicted_bytes > 0)
    for start in range(0, len(data), 1 << 20):
        assert content.read(start, start + (1 << 20)) == data[start : start + (1 << 20)]
    content.close()


def test_what_the_kernel_reads_by_itself_is_not_given_back(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    surveys = []
    survey = Evictor._survey
    monkeypatch.setattr(Evictor, "_may_be_too_much", lambda *_: True)
    monkeypatch.setattr(Evictor, "_survey", lambda keeper: surveys.append(survey(keeper)))
    store = cache.over(Source(DATA), size_bytes=1 << 20)
    content = store.open(artifact_of(DATA))
    content.read(0, len(DATA))
    wait_until(lambda: content.backing_fd() is not None)
    before = store.statistics().evicted_bytes
    other = store.open(artifact_of(DATA))
    done = len(surveys)
    wait_until(lambda: len(surveys) >= done + 2)  # the last of them has begun after that
    assert store.statistics().evicted_bytes == before
    assert cache.file(artifact_of(DATA)).read_bytes() == DATA
    other.close()
    content.close()


def test_a_content_that_stayed_wrong_is_not_downloaded_again_for_a_while(cache: Cache) -> None:
    source = Source(DATA)
    source.fault = lambda offset, piece: bytes(len(piece))
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    with pytest.raises(ContentMismatch):
        while True:
            content.read(0, len(DATA))
    content.close()
    before = len(source.requests)
    with pytest.raises(ContentMismatch):
        store.open(artifact_of(DATA))
    assert len(source.requests) == before


def test_the_cache_of_an_older_version_is_removed_and_of_a_newer_one_left_alone(
    cache: Cache,
) -> None:
    for name in ("v1", "v99", "mine"):
        (cache.directory / name).mkdir(parents=True)
        (cache.directory / name / "file").write_text("x")
    store = cache.over(Source(DATA), size_bytes=1 << 20)
    read_all(store, artifact_of(DATA))
    wait_until(lambda: not (cache.directory / "v1").exists(), 10)
    assert (cache.directory / "v99" / "file").exists()
    assert (cache.directory / "mine" / "file").exists()


def test_nobody_else_can_look_into_the_cache(cache: Cache) -> None:
    store = cache.over(Source(DATA))
    read_all(store, artifact_of(DATA))
    assert cache.directory.stat().st_mode & 0o077 == 0
    assert cache.file(artifact_of(DATA)).stat().st_mode & 0o077 == 0


CHILD = """
import sys, time
from pathlib import Path
from tests.cache.test_cache import Cache, DATA
from tests.cache.source import Probe, Source, artifact_of
store = Cache(Path(sys.argv[1])).over(Source(DATA))
content = store.open(artifact_of(DATA))
content.read(0, 2_000_000)
print("read", flush=True)
time.sleep(60)
"""


def test_a_kill_in_mid_download_leaves_a_usable_cache(cache: Cache) -> None:
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(cache.directory)],
        stdout=subprocess.PIPE, cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"read\n"
    wait_until(lambda: list(cache.directory.rglob("*.grains")), 10)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    source = Source(DATA)
    read_all(cache.over(source), artifact_of(DATA))
    assert source.delivered_bytes < len(DATA)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    reads=st.lists(st.tuples(st.integers(0, 700_000), st.integers(0, 300_000)), max_size=12),
    breaks=st.sets(st.integers(0, 14)),
    restart=st.integers(0, 12),
)
def test_random_reads_and_faults_give_right_bytes_or_an_error(
    cache: Cache, reads: list[tuple[int, int]], breaks: set[int], restart: int
) -> None:
    data = DATA[:700_001]
    shutil.rmtree(cache.directory, ignore_errors=True)
    source = Source(data)
    pieces = [0]

    def fault(offset: int, piece: bytes) -> bytes:
        pieces[0] += 1
        if pieces[0] in breaks:
            raise Unreachable("broke")
        return piece

    source.fault = fault
    store = cache.over(source)
    content = store.open(artifact_of(data))
    for number, (start, length) in enumerate(reads):
        if number == restart:
            content.close()
            cache.close(store)
            store = cache.over(source)
            content = store.open(artifact_of(data))
        try:
            assert content.read(start, start + length) == data[start : start + length]
        except Unreachable:
            assert breaks
    content.close()
    cache.close(store)


OTHER = random.Random(2).randbytes(len(DATA))


def versions() -> tuple[Source, Source, Artifact]:
    """The same id before and after its content was changed, which only its ETag tells."""
    before, after = Source(DATA), Source(OTHER)
    before.etag, after.etag = '"one"', '"two"'
    return before, after, artifact_of(DATA, sha256=None)


def test_what_was_cached_before_its_id_meant_something_else_is_never_mixed(cache: Cache) -> None:
    before, after, artifact = versions()
    store = cache.over(before)
    content = store.open(artifact)
    assert content.read(0, 1000) == DATA[:1000]
    content.close()
    cache.close(store)
    store = cache.over(after)
    content, other = store.open(artifact), store.open(artifact)
    with pytest.raises(ContentChanged):
        content.read(2_000_000, 2_001_000)
    for one in (content, other):
        with pytest.raises(ContentChanged):
            one.read(0, 1000)
        one.close()
    read_all(store, artifact, OTHER)


def test_only_the_next_opening_is_told_that_its_pages_are_old(cache: Cache) -> None:
    before, after, artifact = versions()
    store = cache.over(before)
    content = store.open(artifact)
    content.read(0, 1000)
    before.etag, before.data = after.etag, OTHER
    with pytest.raises(ContentChanged):
        content.read(2_000_000, 2_001_000)
    content.close()
    for is_as_before in (False, True):
        content = store.open(artifact)
        assert content.is_as_before is is_as_before
        assert content.read(0, 1000) == OTHER[:1000]
        content.close()


def test_another_mount_sees_of_which_version_the_bytes_are(cache: Cache) -> None:
    before, after, artifact = versions()
    one, two = cache.over(before), cache.over(after)
    first, second = one.open(artifact), two.open(artifact)
    assert first.read(0, 1000) == DATA[:1000]
    with pytest.raises(ContentChanged):
        second.read(2_000_000, 2_001_000)
    assert first.read(2_000_000, 2_001_000) == DATA[2_000_000:2_001_000]
    first.close()
    second.close()


def test_another_etag_of_a_content_with_a_hash_is_no_change(cache: Cache) -> None:
    before, _, _ = versions()
    content = cache.over(before).open(artifact_of(DATA))
    assert content.read(0, 1000) == DATA[:1000]
    before.etag = '"another front end\'s"'
    assert content.read(2_000_000, 2_001_000) == DATA[2_000_000:2_001_000]
    content.close()


def test_what_is_here_is_not_changed_by_what_comes_unasked(cache: Cache) -> None:
    """A server that ignores ranges sends what is here already once more, and not the same."""
    source = Source(DATA)
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    assert content.read(0, 10) == DATA[:10]
    source.ranged = False
    source.fault = lambda offset, piece: bytes(len(piece)) if offset == 0 else piece
    assert content.read(2_000_000, 2_000_010) == DATA[2_000_000:2_000_010]
    assert content.read(0, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
    content.close()
    cache.close(store)
    content = cache.over(Source(DATA)).open(artifact_of(DATA))
    assert content.try_read(0, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
    content.close()


def test_what_comes_unasked_is_kept(cache: Cache) -> None:
    source = Source(DATA)
    source.ranged = False
    store = cache.over(source)
    content = store.open(artifact_of(DATA))
    assert content.read(2_000_000, 2_000_010) == DATA[2_000_000:2_000_010]
    assert content.try_read(0, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
    content.close()
    assert len(source.requests) == 1
