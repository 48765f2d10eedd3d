"""A spool without its journal, a journal without its spool, and a start that is interrupted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from artifactfs.outbox import EntryState
from artifactfs.outbox.journal import Journal
from artifactfs.outbox.spool import claim
from artifactfs.outbox.takeover import take_over
from artifactfs.server.testing import LocalController

from .conftest import Bench, digest, entry, write

ORIGIN = "http://the.same.whatever.port"


@pytest.fixture
def full(bench: Bench, controller: LocalController) -> Path:
    """A slot with two closed files and one that was never closed, its outbox gone."""
    controller.stop()
    outbox = bench.outbox()
    outbox.make_folder("dir", 0o755)
    write(outbox, "dir/one.bin", b"one")
    write(outbox, "two.bin", b"two")
    bench.close(outbox)
    controller.start()
    (slot,) = bench.directory.glob("*/0")
    return slot


@pytest.mark.parametrize("damage", ["removed", "overwritten", "emptied"])
def test_files_whose_journal_is_lost_keep_their_names_and_wait_to_be_wanted(
    bench: Bench, full: Path, damage: str
) -> None:
    journal = full / "journal.sqlite"
    if damage == "removed":
        journal.unlink()
    elif damage == "overwritten":
        journal.write_bytes(b"this is no database" * 1000)
    else:
        journal.write_bytes(b"")
    outbox = bench.outbox()
    found = {one.path: one for one in outbox.entries()}
    assert set(found) == {"dir/one.bin", "two.bin"}
    for one in found.values():
        assert one.state is EntryState.INTERRUPTED
        assert "without its row" in (one.error or "")
    assert bench.listed() == {}
    assert outbox.retry() == 2
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"dir/one.bin": digest(b"one"), "two.bin": digest(b"two")}
    if damage == "overwritten":
        (kept,) = full.glob("journal.sqlite.broken-*")
        assert kept.read_bytes().startswith(b"this is no database")


def test_rows_whose_files_are_lost_say_so_and_the_others_go(bench: Bench, full: Path) -> None:
    for path in (full / "files").iterdir():
        if path.read_bytes() == b"one":
            path.unlink()
    outbox = bench.outbox()
    left = outbox.wait(timeout_s=30)
    assert [one.path for one in left] == ["dir/one.bin"]
    assert left[0].state is EntryState.FAILED
    assert "vanished" in (left[0].error or "")
    assert bench.listed() == {"two.bin": digest(b"two")}


def test_an_empty_spool_beside_a_journal_of_an_older_version_is_taken_up(
    bench: Bench, full: Path
) -> None:
    """Version 1 numbered its files, knew no turns, and could not say what had been tried."""
    journal = Journal(full / "journal.sqlite")
    rows = journal.entries()
    journal.close()
    import sqlite3

    database = sqlite3.connect(full / "journal.sqlite")
    for row in rows:
        (full / "files" / row.file).rename(full / "files" / str(row.id))
    database.executescript(
        "DROP INDEX entry_paths; DROP INDEX entry_ends; DROP TABLE multiparts; DROP TABLE parts;"
        "CREATE TABLE old AS SELECT id, path, state, generation, closed, size, mode, mtime_ns,"
        " ctime_ns, sha256, error, artifact_id, uploaded_at FROM entries;"
        "DROP TABLE entries; CREATE TABLE entries (id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " path BLOB, state TEXT, generation INTEGER, closed INTEGER, size INTEGER, mode INTEGER,"
        " mtime_ns INTEGER, ctime_ns INTEGER, sha256 TEXT, error TEXT, artifact_id TEXT,"
        " uploaded_at REAL); INSERT INTO entries SELECT * FROM old; DROP TABLE old;"
        "CREATE TABLE multiparts (entry_id INTEGER); CREATE TABLE parts (entry_id INTEGER);"
        "PRAGMA user_version = 1;"
    )
    database.close()
    outbox = bench.outbox()
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"dir/one.bin": digest(b"one"), "two.bin": digest(b"two")}


def test_a_take_over_that_is_cut_short_takes_nothing_twice(
    bench: Bench, full: Path, controller: LocalController
) -> None:
    """Another mount's slot is linked and written down here, and then the machine crashes."""
    other = full.with_name("1")
    shutil.move(full, other)
    slot, others = claim(bench.directory, ORIGIN)
    (held,) = others
    mine, theirs = Journal(slot.journal_path), Journal(held.journal_path)
    copy = full.with_name("copy")
    shutil.copytree(other, copy)
    take_over(slot, mine, held, theirs)
    for one in (mine, theirs):
        one.close()
    for one in (slot, held):
        one.close()
    shutil.rmtree(other)
    copy.rename(other)  # as it was before it had forgotten what was taken
    outbox = bench.outbox()
    assert {one.path for one in outbox.entries()} == {"dir/one.bin", "two.bin"}
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"dir/one.bin": digest(b"one"), "two.bin": digest(b"two")}


def test_two_files_of_one_name_from_two_mounts_are_both_kept(
    bench: Bench, controller: LocalController
) -> None:
    controller.stop()
    first, second = bench.outbox(), bench.outbox()
    write(first, "same.bin", b"1")
    write(second, "same.bin", b"2")
    bench.close(first)
    bench.close(second)
    controller.start()
    outbox = bench.outbox()
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"same.bin": digest(b"1"), "same~2.bin": digest(b"2")}


def test_what_was_removed_does_not_come_back(bench: Bench, controller: LocalController) -> None:
    controller.stop()
    outbox = bench.outbox()
    write(outbox, "kept", b"kept")
    file = outbox.create("gone", 0o644)
    file.write(0, b"gone")
    outbox.unlink("gone")
    bench.close(outbox)  # with the file open, as a kill would leave it
    again = bench.outbox()
    assert [one.path for one in again.entries()] == ["kept"]
    assert len(list(bench.directory.rglob("files/*"))) == 1
    file.release()


def test_written_after_a_close_and_never_closed_again_is_not_what_was_closed(
    bench: Bench, controller: LocalController
) -> None:
    controller.stop()
    outbox = bench.outbox()
    file = outbox.create("file", 0o644)
    file.write(0, b"closed")
    file.flush(os.getpid())
    file.write(6, b" and more")
    bench.close(outbox)
    assert entry(bench.outbox(), "file").state is EntryState.INTERRUPTED
    file.release()
