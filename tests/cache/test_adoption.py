"""Adopted files: only compared bytes are believed, and a file with another name is not written."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactfs.cache import CachedFileHandle, DiskCache
from artifactfs.cache.blocks import BLOCK_BYTES, checksum
from artifactfs.cache.disk_format import HEADER_BYTES, SUM_BYTES
from tests.cache.source import Source, artifact_of
from tests.cache.test_cache import Cache, read_all
from tests.helpers import wait_until

DATA = random.Random(7).randbytes(3_000_017)
OTHER = random.Random(8).randbytes(len(DATA))
ARTIFACT = artifact_of(DATA)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    made = Cache(tmp_path / "cache")
    yield made
    for store in made.stores:
        store.close()


@pytest.fixture
def spooled(tmp_path: Path) -> Path:
    path = tmp_path / "spooled"
    path.write_bytes(DATA)
    return path


@pytest.fixture(params=["link", "copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the file can be linked into the cache."""

    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if request.param == "copy":
        monkeypatch.setattr(os, "link", refuse)
    return str(request.param)


def files_of(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.directory.rglob("*") if path.is_file())


def test_what_is_adopted_is_verified_and_not_fetched(cache: Cache, spooled: Path, way: str) -> None:
    source = Source(DATA)
    store = cache.over(source)
    assert store.adopt(ARTIFACT, spooled)
    assert store.usage(ARTIFACT).verified
    assert spooled.stat().st_nlink == (2 if way == "link" else 1)
    read_all(store, ARTIFACT, DATA)
    assert source.requests == []


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK_BYTES, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_file_of_any_size_is_adopted(
    cache: Cache, spooled: Path, way: str, size_bytes: int
) -> None:
    data = DATA[:size_bytes]
    spooled.write_bytes(data)
    source = Source(data)
    store = cache.over(source)
    assert store.adopt(artifact_of(data), spooled)
    read_all(store, artifact_of(data), data)
    assert source.requests == []
    assert store.statistics().refetched_grains == 0


def test_other_bytes_of_the_same_size_are_not_adopted(
    cache: Cache, spooled: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    spooled.write_bytes(OTHER)
    store = cache.over(Source(DATA))
    assert not store.adopt(ARTIFACT, spooled)
    assert files_of(cache) == []
    assert spooled.stat().st_nlink == 1
    read_all(store, ARTIFACT, DATA)
    assert spooled.read_bytes() == OTHER
    assert caplog.records == []


def test_a_rewrite_in_place_between_the_two_steps_is_not_adopted(
    cache: Cache, spooled: Path, way: str
) -> None:
    store = cache.over(Source(DATA))
    staged = store.stage(ARTIFACT, spooled)
    assert staged is not None
    with spooled.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"rewritten")
    rewritten = spooled.read_bytes()
    assert not staged.finish()
    assert files_of(cache) == []
    read_all(store, ARTIFACT, DATA)
    assert spooled.read_bytes() == rewritten
    assert spooled.stat().st_nlink == 1


def test_a_file_that_is_replaced_or_removed_after_the_first_step_is_adopted_as_it_was(
    cache: Cache, spooled: Path, way: str
) -> None:
    source = Source(DATA)
    store = cache.over(source)
    staged = store.stage(ARTIFACT, spooled)
    assert staged is not None
    spooled.unlink()
    spooled.write_bytes(OTHER)
    assert staged.finish()
    read_all(store, ARTIFACT, DATA)
    assert source.requests == []
    assert spooled.read_bytes() == OTHER


def test_what_is_discarded_leaves_nothing(cache: Cache, spooled: Path, way: str) -> None:
    store = cache.over(Source(DATA))
    staged = store.stage(ARTIFACT, spooled)
    assert staged is not None
    staged.discard()
    assert files_of(cache) == []
    assert spooled.stat().st_nlink == 1
    assert not store.usage(ARTIFACT).cached_bytes


def test_the_first_step_reads_nothing(
    cache: Cache, spooled: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cache.over(Source(DATA))
    with monkeypatch.context() as patch:
        for name in ("read", "pread", "preadv", "fsync", "fdatasync"):
            patch.delattr(os, name)
        staged = store.stage(ARTIFACT, spooled)
    assert staged is not None
    assert staged.finish()


def test_an_open_content_goes_on_with_its_own_file(cache: Cache, spooled: Path) -> None:
    store = cache.over(Source(DATA))
    content = store.open(ARTIFACT)
    assert content.read(0, 10) == DATA[:10]
    assert not store.adopt(ARTIFACT, spooled)
    assert spooled.stat().st_nlink == 1
    assert content.read(0, len(DATA)) == DATA
    content.close()


# A file that has another name is never written to


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def rot(file: Path, sidecar: Path) -> None:
    flip(file, 1_000_000)


def cut_off(file: Path, sidecar: Path) -> None:
    os.truncate(file, 500_000)


def lengthen(file: Path, sidecar: Path) -> None:
    os.truncate(file, len(DATA) + 1)


def empty(file: Path, sidecar: Path) -> None:
    os.truncate(file, 0)


def rewrite_with_sums(file: Path, sidecar: Path) -> None:
    """Wrong bytes that have their checksums: only the SHA-256 tells."""
    with file.open("r+b") as opened:
        opened.write(OTHER)
    with sidecar.open("r+b") as opened:
        opened.seek(HEADER_BYTES)
        for start in range(0, len(OTHER), BLOCK_BYTES):
            opened.write(checksum(OTHER[start : start + BLOCK_BYTES]).to_bytes(8, "little"))


def forget_some(file: Path, sidecar: Path) -> None:
    with sidecar.open("r+b") as opened:
        opened.seek(HEADER_BYTES + 3 * SUM_BYTES)
        opened.write(bytes(20 * SUM_BYTES))


def tear_sidecar(file: Path, sidecar: Path) -> None:
    os.truncate(sidecar, 30)


def remove_sidecar(file: Path, sidecar: Path) -> None:
    sidecar.unlink()


def state_of(path: Path) -> tuple[bytes, int, int, int]:
    found = path.stat()
    return path.read_bytes(), found.st_size, found.st_blocks, found.st_mtime_ns


@pytest.mark.parametrize(
    "damage",
    [rot, cut_off, lengthen, empty, rewrite_with_sums, forget_some, tear_sidecar, remove_sidecar],
)
def test_a_damaged_file_with_another_name_is_fetched_into_new_files(
    cache: Cache, spooled: Path, damage: Callable[[Path, Path], None]
) -> None:
    store = cache.over(Source(DATA))
    assert store.adopt(ARTIFACT, spooled)
    damage(cache.file(ARTIFACT), cache.file(ARTIFACT, ".grains"))
    before = state_of(spooled)

    def opened_again_is_whole() -> bool:
        content = store.open(ARTIFACT)
        try:
            content.read(0, len(DATA))
            wait_until(lambda: content.read(0, len(DATA)) == DATA)
            assert state_of(spooled) == before
            return content.verified and content.backing_fd() is not None
        finally:
            content.close()
            store.verify()

    wait_until(opened_again_is_whole)
    assert state_of(spooled) == before
    assert cache.file(ARTIFACT).read_bytes() == DATA
    assert not cache.file(ARTIFACT).samefile(spooled)


def opened_with_losses(store: DiskCache, cache: Cache) -> CachedFileHandle:
    """An open content with a wrong byte that is found when the content is read or hashed."""
    flip(cache.file(ARTIFACT), 1_000_000)
    return store.open(ARTIFACT)


def drop_name_by_hand(cache: Cache, store: DiskCache) -> None:
    cache.file(ARTIFACT).unlink()


def drop_directory_by_hand(cache: Cache, store: DiskCache) -> None:
    for path in cache.directory.rglob("*"):
        if path.is_file():
            path.unlink()


def replace_name(cache: Cache, store: DiskCache) -> None:
    other = cache.directory / "replacement"
    other.write_bytes(DATA)
    other.replace(cache.file(ARTIFACT))


def keep_names(cache: Cache, store: DiskCache) -> None:
    pass


@pytest.mark.parametrize(
    "change", [keep_names, drop_name_by_hand, drop_directory_by_hand, replace_name]
)
def test_an_open_file_whose_other_name_stays_is_not_written_to(
    cache: Cache, spooled: Path, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Cache, DiskCache], None],
) -> None:  # fmt: skip
    """Also when the cache's own name goes, so that the other one is the only one left."""
    monkeypatch.setattr("artifactfs.cache.hole_punching.SPARED_S", -1)
    source = Source(DATA)
    store = cache.over(source)
    assert store.adopt(ARTIFACT, spooled)
    content = opened_with_losses(store, cache)
    before = state_of(spooled)
    change(cache, store)
    (shared,) = store.all_open()
    assert shared.punch(1 << 30) == 0
    assert content.read(0, len(DATA)) == DATA
    assert source.delivered_bytes > 0
    assert shared.punch(1 << 30) == 0
    assert state_of(spooled) == before
    content.close()
    read_all(store, ARTIFACT, DATA)
    assert state_of(spooled) == before


def test_a_file_whose_other_name_has_gone_is_written_to_again(cache: Cache, spooled: Path) -> None:
    source = Source(DATA)
    store = cache.over(source)
    assert store.adopt(ARTIFACT, spooled)
    content = opened_with_losses(store, cache)
    inode = spooled.stat().st_ino
    spooled.unlink()
    assert content.read(0, len(DATA)) == DATA
    assert 0 < source.delivered_bytes <= BLOCK_BYTES
    assert cache.file(ARTIFACT).read_bytes() == DATA
    assert cache.file(ARTIFACT).stat().st_ino == inode
    content.close()


def test_a_name_that_others_give_a_file_that_is_being_filled_stops_its_filling(
    cache: Cache, tmp_path: Path
) -> None:
    store = cache.over(Source(DATA))
    content = store.open(ARTIFACT)
    assert content.read(0, 10) == DATA[:10]
    wait_until(lambda: store.statistics().fetched_bytes >= 1 << 20)  # what is read ahead has come
    os.link(cache.file(ARTIFACT), tmp_path / "theirs")
    before = state_of(tmp_path / "theirs")
    assert content.read(0, len(DATA)) == DATA
    assert state_of(tmp_path / "theirs") == before
    content.close()

    def read_again_is_kept() -> bool:
        read_all(store, ARTIFACT, DATA)
        return cache.file(ARTIFACT).read_bytes() == DATA

    wait_until(read_again_is_kept)
    assert state_of(tmp_path / "theirs") == before
