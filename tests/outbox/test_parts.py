"""Small parts of the outbox by themselves: hashes, copies, syncs, the record of uploads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactfs.config import TEMPORARY_NAMES
from artifactfs.outbox import (
    EntryState,
    OutboxEntry,
    UploadLog,
)
from artifactfs.outbox.durability import GroupSync
from artifactfs.outbox.file_copy import copy_file
from artifactfs.outbox.filenames import TemporaryNames
from artifactfs.outbox.hashing import PIECE_BYTES, IncrementalHash
from artifactfs.outbox.state import MOVES

from .conftest import Bench, write

WRITES = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 1, 70_000]), st.sampled_from([1, 1000, 200_000, 5_000_000]))
)


@settings(deadline=None, max_examples=40)
@given(WRITES, st.booleans())
def test_a_hash_is_right_or_not_known(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int]], in_order: bool
) -> None:
    path = tmp_path_factory.mktemp("hash") / "file"
    content = bytearray()
    with ThreadPoolExecutor(1) as followers, path.open("wb", buffering=0) as file:
        rolling = IncrementalHash(path, followers)
        for back, size in writes:
            offset = len(content) if in_order else max(0, len(content) - back)
            piece = os.urandom(min(size, 1000)) * (size // min(size, 1000))
            os.pwrite(file.fileno(), piece, offset)
            rolling.wrote(offset, piece)
            content[offset : offset + len(piece)] = piece
        found = rolling.finish(len(content), threading.Event())
    expected = hashlib.sha256(content).hexdigest()
    assert found == expected if in_order else found in (None, expected)


def test_a_small_file_is_hashed_when_it_is_closed_and_a_large_one_later(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * PIECE_BYTES))
    with ThreadPoolExecutor(1) as followers:
        small, large = IncrementalHash(path, followers), IncrementalHash(path, followers)
        small.wrote(0, b"abc")
        assert small.known(3) == hashlib.sha256(b"abc").hexdigest()
        large.wrote(0, bytes(2 * PIECE_BYTES))
        expected = hashlib.sha256(bytes(2 * PIECE_BYTES)).hexdigest()
        assert large.finish(2 * PIECE_BYTES, threading.Event()) == expected


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_copy_is_like_its_source(tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    with source.open("rb") as bytes_in, target.open("wb") as bytes_out:
        copy_file(bytes_in.fileno(), bytes_out.fileno())
    assert target.read_bytes() == source.read_bytes()


def test_many_who_wait_for_the_disk_share_a_sync_that_began_after_they_came() -> None:
    written = 0
    synced = 0
    syncs = 0
    entered, go_on = threading.Event(), threading.Event()

    def sync() -> None:
        nonlocal synced, syncs
        seen = written
        entered.set()
        assert go_on.wait(10)
        synced, syncs = seen, syncs + 1

    group = GroupSync(sync)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(group.reach)
        assert entered.wait(10)
        written = 1

        def late() -> int:
            group.reach()
            return synced

        others = [pool.submit(late) for _ in range(8)]
        go_on.set()
        first.result()
        assert [one.result() for one in others] == [1] * 8
    assert 2 <= syncs < 9


def test_a_sync_that_fails_fails_for_all_who_waited_for_it() -> None:
    entered, go_on = threading.Event(), threading.Event()
    outcomes = iter([None, OSError(5, "I/O error"), None])

    def sync() -> None:
        entered.set()
        assert go_on.wait(10)
        error = next(outcomes)
        if error is not None:
            raise error

    group = GroupSync(sync)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(group.reach)
        assert entered.wait(10)
        started = threading.Barrier(5)

        def late() -> BaseException | None:
            started.wait()
            try:
                group.reach()
            except OSError as error:
                return error
            return None

        others = [pool.submit(late) for _ in range(4)]
        started.wait()
        while group.waiting < 4:
            pass
        go_on.set()
        first.result()
        assert all(isinstance(one.result(), OSError) for one in others)
    group.reach()


def test_the_record_says_what_was_uploaded_and_how(bench: Bench, tmp_path: Path) -> None:
    bench.audit = tmp_path / "state" / "uploads.log"
    outbox = bench.outbox()
    for name, data in (("one", b"one"), ("two", b"two"), ("big", bytes(3 << 20))):
        write(outbox, name, data)
    assert outbox.wait(timeout_s=30) == []
    lines = [json.loads(line) for line in bench.audit.read_text().splitlines()]
    found = {line["name"]: line for line in lines}
    assert set(found) == {"one", "two", "big"}
    for artifact in bench.service.artifacts.list():
        line = found[artifact.filename]
        assert (line["artifact_id"], line["sha256"]) == (artifact.id, artifact.sha256)
        assert line["size"] == artifact.size_bytes
        assert line["took_s"] >= 0
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert {found["one"]["how"], found["big"]["how"]} == {"controller", "direct"}


def test_the_record_is_turned_over_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "uploads.log"
    logs = [UploadLog(path, most_bytes=20_000) for _ in range(2)]
    one = OutboxEntry(1, "name", EntryState.UPLOADED, 3, 0o644, 0, 0, sha256="a" * 64)

    def note(number: int) -> None:
        entry = dataclasses.replace(one, path=f"file-{number}")
        logs[number % 2].note(entry, f"art_{number}", "direct", datetime.now(UTC), 0.5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(note, range(300)))
    for log in logs:
        log.close()
    files = [path, *tmp_path.glob("uploads.log.*")]
    assert 2 <= len(files) <= 6
    names = [json.loads(line)["name"] for file in files for line in file.read_text().splitlines()]
    assert sorted(names) == sorted(f"file-{number}" for number in range(300))


@pytest.mark.parametrize(
    ("path", "waits"),
    [
        ("model.bin", False), ("a/.model.bin.Ab3dEf", True), ("x.tmp", True), ("x.part", True),
        ("x~", True), (".#x", True), (".x.swp", True), ("x.crdownload", True), ("tmp", False),
        ("dir.tmp/x", False), (".hidden", False),
    ],
)  # fmt: skip
def test_which_names_wait(path: str, waits: bool) -> None:
    assert TemporaryNames(TEMPORARY_NAMES).match(path) is waits


def test_a_pattern_with_a_slash_is_for_the_whole_path() -> None:
    names = TemporaryNames(["*.git/*.lock"])
    assert names.match("repository/.git/config.lock")
    assert not names.match("uv.lock")
    assert not TemporaryNames([]).match("anything")


def test_an_uploaded_file_fails_no_more_and_nothing_goes_there_but_by_an_upload() -> None:
    assert {before for before, after in MOVES if after is EntryState.UPLOADED} == {
        EntryState.UPLOADING
    }
    assert (EntryState.UPLOADED, EntryState.FAILED) not in MOVES
    assert (EntryState.WRITING, EntryState.UPLOADING) not in MOVES
