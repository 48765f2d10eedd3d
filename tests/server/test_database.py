"""The index by itself: many changes in one transaction, and none spoils another."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from artifactfs.server.database import SqliteDatabase, next_created_us

ADD = "INSERT INTO secrets VALUES (?, ?)"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SqliteDatabase]:
    with sqlite3.connect(tmp_path / "i.sqlite") as database:
        database.execute("CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB)")
    database.close()
    made = SqliteDatabase(tmp_path / "i.sqlite")
    made.start()
    with contextlib.closing(made):
        yield made


def run(act: Callable[[], Awaitable[object]]) -> object:
    async def wait() -> object:
        return await act()

    return asyncio.run(wait())


def count(index: SqliteDatabase) -> int:
    return int(index.one("SELECT count(*) FROM secrets")[0])


def test_what_was_written_is_read_at_once(index: SqliteDatabase) -> None:
    async def act() -> None:
        for number in range(50):
            assert await index.execute(ADD, str(number), b"") == 1
            assert index.one("SELECT name FROM secrets WHERE name = ?", str(number))
        assert len(await index.many("SELECT name FROM secrets")) == 50

    run(act)


def test_a_change_that_fails_is_undone_alone(index: SqliteDatabase) -> None:
    def fails(database: sqlite3.Connection) -> None:
        database.execute(ADD, ("half", b""))
        raise KeyError("on purpose")

    async def act() -> None:
        waiting = []
        for number in range(300):
            waiting.append(index.execute(ADD, str(number), b""))
            waiting.append(index.write(fails))
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(outcome == 1 for outcome in outcomes[::2])
        assert all(isinstance(outcome, KeyError) for outcome in outcomes[1::2])

    run(act)
    assert count(index) == 300


def test_a_full_disk_fails_who_wrote_then_and_nobody_after(index: SqliteDatabase) -> None:
    async def act() -> None:
        await index.execute(ADD, "before", b"")
        pages = index.one("PRAGMA page_count")[0]
        await index.write(lambda one: one.execute(f"PRAGMA max_page_count = {pages + 2}"))
        with pytest.raises(sqlite3.OperationalError, match="full"):
            await index.execute(ADD, "large", bytes(1 << 20))
        await index.execute(ADD, "after", b"")

    run(act)
    assert count(index) == 2


def test_a_caller_who_no_longer_waits_disturbs_nobody(index: SqliteDatabase) -> None:
    async def act() -> None:
        gone = asyncio.ensure_future(index.execute(ADD, "gone", b""))
        await asyncio.sleep(0)
        gone.cancel()
        await index.execute(ADD, "stays", b"")

    run(act)
    assert count(index) == 2


def test_each_time_of_creation_is_later_also_when_the_clock_goes_back(
    index: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_us = [1_000_000]
    monkeypatch.setattr("artifactfs.server.database.time.time_ns", lambda: clock_us[0] * 1000 + 999)

    async def take(count: int) -> int:
        return await index.write(lambda database: next_created_us(database, count))

    async def act() -> None:
        assert await take(1) == 1_000_000
        assert await take(1) == 1_000_001
        clock_us[0] = 5
        assert await take(10) == 1_000_002
        assert await take(1) == 1_000_012
        clock_us[0] = 2_000_000
        assert await take(3) == 2_000_000
        assert await take(1) == 2_000_003

    run(act)


def test_a_change_that_is_undone_takes_no_time(index: SqliteDatabase) -> None:
    def fails(database: sqlite3.Connection) -> None:
        next_created_us(database, 1_000_000_000)
        raise KeyError("on purpose")

    async def act() -> None:
        first = await index.write(lambda database: next_created_us(database, 1))
        with pytest.raises(KeyError):
            await index.write(fails)
        assert await index.write(lambda database: next_created_us(database, 1)) < first + 10**9

    run(act)
