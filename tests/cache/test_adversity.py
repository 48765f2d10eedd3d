"""The cache's files are changed, cut, removed or locked under it: right bytes all the same."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from artifactfs.byte_range import ByteRange
from artifactfs.cache import CachedFileHandle
from artifactfs.cache.blocks import BLOCK_BYTES
from artifactfs.cache.disk_format import (
    HEADER_BYTES,
    SUM_BYTES,
    Sidecar,
)
from artifactfs.errors import Cancelled
from artifactfs.model import Artifact
from artifactfs.system import fallocate
from tests.cache.source import Source, artifact_of
from tests.cache.test_cache import CHILD, DATA, Cache, cache, read_all
from tests.helpers import wait_until

__all__ = ["cache"]
OTHER = bytes(reversed(DATA))


class Two:
    """Several sources, each for its own content."""

    def __init__(self, *sources: Source) -> None:
        self._sources = {artifact_of(source.data).sha256: source for source in sources}

    def probe(self, artifact: Artifact) -> object:
        return self._sources[artifact.sha256].probe(artifact)

    def stream(self, artifact: Artifact, span: ByteRange, sink: object, **more: object) -> None:
        self._sources[artifact.sha256].stream(artifact, span, sink, **more)  # type: ignore[arg-type]


def check(content: CachedFileHandle, data: bytes = DATA) -> None:
    for start in range(0, len(data), 150_000):
        assert content.read(start, start + 150_000) == data[start : start + 150_000]


def cut(path: Path) -> None:
    os.truncate(path, 70_000)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + 20 * SUM_BYTES)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("spoil", [cut, empty, flip, Path.unlink])
def test_a_sidecar_spoilt_while_its_content_is_open(
    cache: Cache, spoil: Callable[[Path], None]
) -> None:
    store = cache.over(Source(DATA))
    content = store.open(artifact_of(DATA))
    content.read(0, 1_000_000)
    spoil(cache.file(artifact_of(DATA), ".grains"))
    check(content)
    content.close()
    cache.close(store)
    read_all(cache.over(Source(DATA)), artifact_of(DATA))


@pytest.mark.parametrize("spoil", [cut, empty, Path.unlink])
def test_a_content_whose_file_is_cut_off_while_it_is_open(
    cache: Cache, spoil: Callable[[Path], None]
) -> None:
    store = cache.over(Source(DATA))
    content = store.open(artifact_of(DATA))
    check(content)
    spoil(cache.file(artifact_of(DATA)))
    assert content.read(2_900_000, 3_000_000) == DATA[2_900_000:3_000_000]  # makes it long again
    check(content)
    content.close()
    cache.close(store)
    read_all(cache.over(Source(DATA)), artifact_of(DATA))


def test_a_cache_removed_while_many_read(cache: Cache) -> None:
    store = cache.over(Source(DATA, 20_000))
    ended = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not ended.is_set():
                read_all(store, artifact_of(DATA))
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(20):
        shutil.rmtree(cache.directory / "v2", ignore_errors=True)
        before = store.statistics().fetched_bytes
        wait_until(lambda before=before: store.statistics().fetched_bytes > before or failures)  # type: ignore[misc]
    ended.set()
    for reader in readers:
        reader.join()
    assert failures == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of eight megabytes for the cache."""
    if os.getuid() != 0:
        pytest.skip("only root makes a small disk")
    (tmp_path / "cache").mkdir()
    options = ["-t", "tmpfs", "-o", "size=8m", "none"]
    if subprocess.run(["mount", *options, tmp_path / "cache"], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield tmp_path / "cache"
    subprocess.run(["umount", "-l", tmp_path / "cache"], check=True)


def test_a_disk_that_becomes_read_only_is_read_past(cache: Cache, disk: Path) -> None:
    store = cache.over(Two(Source(DATA), Source(OTHER)))
    read_all(store, artifact_of(DATA))
    wait_until(lambda: not lsof(disk))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    read_all(store, artifact_of(DATA))
    read_all(store, artifact_of(OTHER), OTHER)
    cache.close(store)
    read_all(cache.over(Source(DATA)), artifact_of(DATA))
    cache.close(cache.stores[-1])
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def lsof(directory: Path) -> list[str]:
    """What this process has open below a directory."""
    found = []
    for one in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{one}")
        except FileNotFoundError:
            continue
        if target.startswith(f"{directory}/"):
            found.append(target)
    return found


def test_a_disk_that_is_full_is_read_past(cache: Cache, disk: Path) -> None:
    store = cache.over(Source(DATA))
    with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb") as file:
        while True:
            file.write(bytes(65536))
            file.flush()
    read_all(store, artifact_of(DATA))
    assert store.statistics().uncached_grains > 0
    (disk / "filler").unlink()
    cache.close(store)
    again = Source(DATA)
    store = cache.over(again)
    read_all(store, artifact_of(DATA))
    cache.close(store)
    final = Source(DATA)
    store = cache.over(final)
    read_all(store, artifact_of(DATA))
    cache.close(store)
    assert final.requests == []


# Several at once


def test_what_one_mount_has_open_no_other_gives_back(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifactfs.cache.hole_punching.SPARED_S", -1)
    one = cache.over(Source(DATA))
    reader = one.open(artifact_of(DATA, sha256=None))
    check(reader)
    small = cache.over(Source(DATA), size_bytes=1 << 20)
    other = small.open(artifact_of(DATA, sha256=None))
    check(other)
    (shared,) = small.all_open()
    assert shared.punch(1 << 30) == 0
    check(reader)
    reader.close()
    assert shared.punch(1 << 30) > 0
    check(other)
    other.close()


def decoys(directory: Path, count: int = 16) -> Iterator[BinaryIO]:
    """Files that take the numbers of whatever was closed just now."""
    for number in range(count):
        file = (directory / f"decoy{number}").open("w+b", buffering=0)
        file.write(OTHER)
        yield file


def unharmed(files: list[BinaryIO]) -> bool:
    """Whether nobody has written to them. They are closed."""
    right = [os.pread(file.fileno(), len(OTHER) + 1, 0) == OTHER for file in files]
    for file in files:
        file.close()
    return all(right)


def test_what_the_keeper_writes_down_goes_to_no_other_file(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is closed, and others are opened, just before the keeper writes."""
    store = cache.over(Source(DATA))
    content = store.open(artifact_of(DATA))
    others: list[BinaryIO] = []
    describe = Sidecar.describe

    def closed_before(sidecar: Sidecar, cached_bytes: int, *, verified: bool) -> None:
        if threading.current_thread().name == "cache" and not others:
            content.close()
            others.extend(decoys(tmp_path))
        describe(sidecar, cached_bytes, verified=verified)

    monkeypatch.setattr(Sidecar, "describe", closed_before)
    assert content.read(1_000_000, 1_000_010) == DATA[1_000_000:1_000_010]
    wait_until(lambda: len(others) == 16 and store.statistics().open_contents == 0)
    cache.close(store)  # ends the keeper
    assert unharmed(others)
    assert store.usage(artifact_of(DATA)).cached_bytes == BLOCK_BYTES


def test_what_is_given_back_is_of_no_other_file(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is closed, and others are opened, just before holes are punched."""
    monkeypatch.setattr("artifactfs.cache.hole_punching.SPARED_S", -1)
    store = cache.over(Source(DATA))
    content = store.open(artifact_of(DATA, sha256=None))
    check(content)
    others: list[BinaryIO] = []

    def closed_before(*where: int) -> None:
        content.close()
        others.extend(decoys(tmp_path))
        fallocate(*where)

    monkeypatch.setattr("artifactfs.cache.hole_punching.fallocate", closed_before)
    (shared,) = store.all_open()
    assert shared.punch(1 << 30) == len(DATA)
    assert unharmed(others)


def test_what_is_asked_for_while_it_is_given_back_is_not_read_as_zeros(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifactfs.cache.hole_punching.SPARED_S", -1)
    store = cache.over(Source(DATA))
    content = store.open(artifact_of(DATA, sha256=None))
    check(content)
    arrived = threading.Event()

    def asked_before(*where: int) -> None:
        content.request(ByteRange(0, 10), lambda _: arrived.set())
        arrived.wait(0.3)  # whoever would fetch it now has the time to
        fallocate(*where)

    monkeypatch.setattr("artifactfs.cache.hole_punching.fallocate", asked_before)
    (shared,) = store.all_open()
    assert shared.punch(1 << 30) == len(DATA)
    assert arrived.wait(10)
    check(content)
    content.close()


def test_what_is_given_back_while_it_is_checked_is_not_taken_for_wrong(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifactfs.cache.hole_punching.SPARED_S", -1)
    artifact = artifact_of(DATA, sha256=None)
    before = cache.over(Source(DATA))
    read_all(before, artifact)
    cache.close(before)
    store = cache.over(Source(DATA))
    content = store.open(artifact)
    (shared,) = store.all_open()
    freed: list[int] = []
    sums = Sidecar.sums

    def given_back_before(sidecar: Sidecar, first: int, stop: int) -> array[int]:
        if not freed:
            freed.append(0)
            freed.append(shared.punch(1 << 30))
        return sums(sidecar, first, stop)

    monkeypatch.setattr(Sidecar, "sums", given_back_before)
    assert content.try_read(0, 10) is None
    assert freed == [0, len(DATA)]
    assert store.statistics().refetched_grains == 0
    check(content)
    content.close()


def test_what_is_given_back_while_the_whole_is_compared_is_not_verified(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look at the bytes and the verdict."""
    monkeypatch.setattr("artifactfs.cache.hole_punching.SPARED_S", -1)
    store = cache.over(Source(DATA))
    content = store.open(artifact_of(DATA))
    (shared,) = store.all_open()
    freed: list[int] = []

    class Digest:
        def __init__(self) -> None:
            self._real = hashlib.sha256()
            self.update = self._real.update

        def hexdigest(self) -> str:
            if not freed:
                freed.append(shared.punch(1 << 30))
            return self._real.hexdigest()

    monkeypatch.setattr("artifactfs.cache.verification.hashlib", SimpleNamespace(sha256=Digest))
    content.request(ByteRange(0, len(DATA)), lambda _: None)
    wait_until(lambda: freed)
    cache.close(store)  # ends the verifying thread
    assert freed == [len(DATA)]
    assert not content.verified
    content.close()


@pytest.mark.parametrize("asks", [False, True])
def test_what_cannot_be_given_back_can_be_read_all_the_same(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    monkeypatch.setattr("artifactfs.cache.hole_punching.SPARED_S", -1)
    store = cache.over(Source(DATA))
    content = store.open(artifact_of(DATA, sha256=None))
    check(content)

    def impossible(*_: int) -> None:
        if asks:
            content.request(ByteRange(0, len(DATA)), lambda _: None)
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("artifactfs.cache.hole_punching.fallocate", impossible)
    (shared,) = store.all_open()
    assert shared.punch(1 << 30) == 0
    check(content)
    content.close()


def test_verifying_what_another_mount_has_open_harms_nobody(cache: Cache) -> None:
    one, other = cache.over(Source(DATA)), cache.over(Source(DATA))
    content = one.open(artifact_of(DATA))
    content.read(0, 1_000_000)
    report = other.verify()
    assert (report.contents, report.dropped_grains) == (1, 0)
    assert report.grains > 0
    with cache.file(artifact_of(DATA)).open("r+b") as file:
        file.write(b"rotten")
    assert other.verify().dropped_grains == 1
    content.close()
    cache.close(one)
    read_all(cache.over(Source(DATA)), artifact_of(DATA))


def test_clearing_leaves_nothing_behind(cache: Cache) -> None:
    store = cache.over(Two(Source(DATA), Source(OTHER)))
    read_all(store, artifact_of(DATA))
    read_all(store, artifact_of(OTHER), OTHER)
    wait_until(lambda: not lsof(cache.directory))
    cache.file(artifact_of(DATA), ".grains").unlink()
    cache.file(artifact_of(OTHER)).unlink()
    (cache.file(artifact_of(DATA)).parent / "0123.new").write_bytes(bytes(100_000))
    store.clear()
    assert [path for path in cache.directory.rglob("*") if path.is_file()] == []


def killed_while_it_read(cache: Cache) -> None:
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(cache.directory)],
        stdout=subprocess.PIPE, cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"read\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_what_a_killed_mount_has_left_is_counted_checked_and_read(cache: Cache) -> None:
    killed_while_it_read(cache)
    source = Source(DATA)
    store = cache.over(source)
    usage = store.usage(artifact_of(DATA))
    assert usage.size_bytes == len(DATA)
    assert not usage.verified
    with cache.file(artifact_of(DATA)).open("r+b") as file:
        for grain in range(30):
            file.seek(grain * BLOCK_BYTES)
            file.write(b"rotten")
    assert store.verify().dropped_grains == 30
    assert 0 <= store.usage(artifact_of(DATA)).cached_bytes <= len(DATA)
    read_all(store, artifact_of(DATA))


def test_what_was_half_fetched_when_the_mount_ended_is_not_taken_for_whole(cache: Cache) -> None:
    unsized = artifact_of(DATA, size_bytes=None, sha256=None)
    source = Endless(DATA)
    store = cache.over(source)
    failures: list[BaseException] = []

    def opens(artifact: Artifact) -> None:
        try:
            store.open(artifact).close()
        except Cancelled as error:
            failures.append(error)

    thread = threading.Thread(target=opens, args=(unsized,))
    thread.start()
    assert source.begun.wait(10)
    cache.close(store)
    source.go_on.set()
    thread.join()
    assert failures
    assert [path for path in cache.directory.rglob("*") if path.is_file()] == []


class Endless(Source):
    """One that does not know the size, and waits in the middle."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def probe(self, artifact: Artifact) -> object:  # type: ignore[override]
        return type("Unknown", (), {"size_bytes": None})()

    def stream(self, artifact: Artifact, span: ByteRange, sink: object, **more: object) -> None:  # type: ignore[override]
        room = sink.room(0)  # type: ignore[attr-defined]
        room[:1000] = self.data[:1000]
        self.begun.set()
        assert self.go_on.wait(10)
        sink.take(1000, more=False)  # type: ignore[attr-defined]


def test_pinning_takes_as_long_as_it_takes(cache: Cache) -> None:
    source = Source(DATA)
    source.gate.clear()
    store = cache.over(source, read_timeout_s=0.1)
    store.pin(artifact_of(DATA))
    wait_until(lambda: source.requests)
    reader = store.open(artifact_of(DATA))
    with pytest.raises(Exception, match="in time"):
        reader.read(0, 10)
    reader.close()
    source.gate.set()
    wait_until(lambda: store.usage(artifact_of(DATA)).cached_bytes == len(DATA))


def test_a_full_disk_is_an_error_of_pinning_and_nothing_stays_open(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cache.over(Source(DATA))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(OSError, match="No space"):
        store.pin(artifact_of(DATA))
    assert store.statistics().open_contents == 0


def test_one_who_hangs_does_not_hold_up_what_another_mount_is_fetching(cache: Cache) -> None:
    """A flight that is put off is looked after even if all that fly are stuck."""
    other = cache.over(Source(DATA))
    theirs = other.open(artifact_of(DATA))
    (shared,) = other.all_open()
    assert shared.intake.reserve(ByteRange(0, len(DATA)), insist=False)
    stuck = Source(OTHER)
    one = cache.over(Two(Source(DATA), stuck))
    mine = one.open(artifact_of(DATA))
    arrived = threading.Event()
    mine.request(ByteRange(1_500_000, 1_500_010), lambda _: arrived.set())
    stuck.gate.clear()
    hanging = one.open(artifact_of(OTHER))
    hanging.request(ByteRange(1_500_000, 1_500_010), lambda _: None)  # one flight, nothing ahead
    wait_until(lambda: stuck.requests)
    shared.intake.free(ByteRange(0, len(DATA)))
    assert arrived.wait(5)
    stuck.gate.set()
    for content in (mine, hanging, theirs):
        content.close()


# The start


LOOKS = """
import sys
from pathlib import Path
looked = []
def note(event, arguments):
    if event in ("open", "os.scandir", "os.listdir") and sys.argv[1] in str(arguments[0]):
        looked.append(event)
from tests.cache.test_cache import Cache, DATA
from tests.cache.source import Source
sys.addaudithook(note)
store = Cache(Path(sys.argv[1])).over(Source(DATA))
print(len(looked))
store.close()
"""


def test_a_full_cache_is_not_looked_at_when_it_is_mounted(cache: Cache) -> None:
    def looks() -> int:
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", LOOKS, str(cache.directory)],
            capture_output=True, check=True, cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
        )  # fmt: skip
        return int(done.stdout)

    empty_looks = looks()
    assert empty_looks > 0
    folder = cache.directory / "v2" / "sha256" / "00"
    folder.mkdir(parents=True)
    for number in range(1000):
        (folder / f"{number:064}").touch()
        (folder / f"{number:064}.grains").write_bytes(bytes(HEADER_BYTES + 100 * SUM_BYTES))
    assert looks() == empty_looks
