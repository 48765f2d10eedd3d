"""Journals of earlier versions are taken up by this one."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from artifactfs.outbox.journal_schema import VERSION
from artifactfs.server.testing import LocalController

from .conftest import Bench, digest, write

NEW_COLUMNS = {3: ["missing"], 2: ["missing", "closed_at"]}


@pytest.mark.parametrize("version", NEW_COLUMNS)
def test_a_journal_of_an_older_version_is_taken_up(
    bench: Bench, controller: LocalController, version: int
) -> None:
    controller.stop()
    outbox = bench.outbox()
    write(outbox, "one.bin", b"one")
    directory = outbox.directory
    bench.close(outbox)
    with contextlib.closing(sqlite3.connect(directory / "journal.sqlite")) as database:
        for column in NEW_COLUMNS[version]:
            database.execute(f"ALTER TABLE entries DROP COLUMN {column}")
        database.execute(f"PRAGMA user_version = {version}")
    controller.start()
    outbox = bench.outbox()
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"one.bin": digest(b"one")}
    bench.close(outbox)
    with contextlib.closing(sqlite3.connect(directory / "journal.sqlite")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
