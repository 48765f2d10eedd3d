"""What the service knows, in SQLite.

Three users of the file, each with a connection of its own:

* the event loop looks up single rows (`one`, `few`): microseconds, from memory;
* a thread reads what may be long (`many`): pages of the list;
* one thread writes. Whoever wants a change hands in a function and waits; the writer runs all that
  wait in one transaction, each in a savepoint, so that many small uploads share one fsync. A change
  that was answered is on the disk: WAL with ``synchronous = FULL``.

A function that raises undoes its own change only, and raises where it was handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class RowReader(Protocol):
    """What a statement has brought or changed."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> Any: ...


class DatabaseBackend(Protocol):
    """What a change is made in: SQLite, or what looks like it."""

    def execute(self, statement: str, values: Any = ..., /) -> RowReader: ...
    def executemany(self, statement: str, rows: Any, /) -> Any: ...


Change = Callable[[DatabaseBackend], T]


class AnyDatabase(Protocol):
    """This one, or the one that several controllers share (``postgres``)."""

    def start(self) -> None: ...
    def close(self) -> None: ...
    @property
    def id(self) -> str: ...
    def one(self, statement: str, *values: Any) -> Any: ...
    def few(self, statement: str, *values: Any) -> list[Any]: ...
    async def many(self, statement: str, *values: Any) -> list[Any]: ...
    async def write(self, change: Change[T]) -> T: ...
    async def execute(self, statement: str, *values: Any) -> int: ...


MOST_TOGETHER = 256

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (
  name TEXT PRIMARY KEY,            -- "id": which index this is; "last_created": see prepare
  value TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS tokens (
  digest TEXT PRIMARY KEY,          -- SHA-256 of the token
  account TEXT NOT NULL,
  role TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS artifacts (
  number INTEGER PRIMARY KEY AUTOINCREMENT,   -- the order of the list, and its cursor
  id TEXT NOT NULL UNIQUE,
  account TEXT NOT NULL,
  sha256 TEXT,                      -- NULL: a reference whose content nobody has seen
  size INTEGER,
  filename BLOB NOT NULL,           -- bytes: may hold what is no text
  expires REAL NOT NULL,            -- seconds since the epoch
  external_url TEXT,
  cleaned INTEGER NOT NULL DEFAULT 0,   -- 1: expired, and its content let go
  document BLOB NOT NULL            -- the JSON that the list shows
);
CREATE INDEX IF NOT EXISTS of_account ON artifacts (account, number);
CREATE INDEX IF NOT EXISTS of_content ON artifacts (sha256, account);
CREATE INDEX IF NOT EXISTS to_clean ON artifacts (expires) WHERE cleaned = 0;
CREATE INDEX IF NOT EXISTS to_forget ON artifacts (expires) WHERE cleaned = 1;
CREATE TABLE IF NOT EXISTS seeds (
  sha256 TEXT PRIMARY KEY,          -- a content made by _dev that nobody has read yet
  content BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS uploads (
  id TEXT PRIMARY KEY,              -- mpu_… of a multipart upload, art_… of a direct one
  artifact_id TEXT NOT NULL,
  account TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  size INTEGER NOT NULL,
  filename BLOB NOT NULL,
  part_size INTEGER NOT NULL,
  expires REAL NOT NULL,
  completed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_end ON uploads (expires);
CREATE TABLE IF NOT EXISTS parts (
  upload_id TEXT NOT NULL,
  number INTEGER NOT NULL,
  size INTEGER NOT NULL,
  etag TEXT NOT NULL,
  place TEXT NOT NULL,              -- the file in the upload's directory that holds it
  PRIMARY KEY (upload_id, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS remote_uploads (
  upload_id TEXT PRIMARY KEY,
  remote_id TEXT NOT NULL           -- of the same upload in the bucket
);
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY,       -- the order of the list, and its cursor
  id TEXT NOT NULL UNIQUE,
  account TEXT NOT NULL,
  state TEXT NOT NULL               -- JSON: fields, output, result
);
CREATE TABLE IF NOT EXISTS tasks (
  job_id TEXT NOT NULL,
  task INTEGER NOT NULL,
  state TEXT NOT NULL,              -- JSON: fields, what the attempt before printed
  PRIMARY KEY (job_id, task)
);
CREATE TABLE IF NOT EXISTS printed (
  number INTEGER PRIMARY KEY,
  job_id TEXT NOT NULL,
  task INTEGER NOT NULL,
  text TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS printed_by ON printed (job_id, task);
CREATE TABLE IF NOT EXISTS events (
  number INTEGER PRIMARY KEY,
  job_id TEXT NOT NULL,
  account TEXT NOT NULL,
  project TEXT,
  kind TEXT NOT NULL,
  data TEXT NOT NULL
);
PRAGMA user_version = 1;
"""


ASK_ID = "SELECT value FROM facts WHERE name = 'id'"


def prepare(database: DatabaseBackend) -> None:
    """Make the facts that are missing, in an index that is new or of an earlier version.

    These are its id and when its last artifact was created, in microseconds since the epoch.
    """
    for fact in (("id", secrets.token_hex(16)), ("last_created", "0")):
        database.execute("INSERT INTO facts VALUES (?, ?) ON CONFLICT DO NOTHING", fact)


def next_created_us(database: DatabaseBackend, count: int) -> int:
    """The first of `count` times of creation, a microsecond apart, that no artifact has yet.

    In microseconds since the epoch: now, or later where the clock was set back or does not move.
    The row stays locked until the change is complete, so that whichever controller is the next to
    list an artifact lists a later one.
    """
    now_us = time.time_ns() // 1000
    (row,) = database.execute(
        "UPDATE facts SET value = CAST(CAST(? AS BIGINT) + CASE"
        " WHEN CAST(value AS BIGINT) < CAST(? AS BIGINT) THEN CAST(? AS BIGINT)"
        " ELSE CAST(value AS BIGINT) + 1 END AS TEXT) WHERE name = 'last_created' RETURNING value",
        (count - 1, now_us, now_us),
    ).fetchall()
    return int(row[0]) - count + 1


@dataclass(frozen=True, slots=True)
class _Wanted:
    change: Change[Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class SqliteDatabase:
    """The database. `one`, `few` and `write` are for the event loop's thread."""

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        self._path = path
        self._sync = "FULL" if sync else "OFF"
        self._wanted: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        self._reading = ThreadPoolExecutor(2, "index-reading", self._begin_reading)
        self._own = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._writer = threading.Thread(target=self._write, name="index-writing")

    def start(self) -> None:
        """Open the file, make what is missing, start the writer. Raises `sqlite3.Error`."""
        self._database = self._connect()
        self._database.executescript(SCHEMA)
        prepare(self._database)
        self._writer.start()

    def close(self) -> None:
        """Write what waits and close the file."""
        self._wanted.put(None)
        self._writer.join()
        self._reading.shutdown()
        for reader in self._readers:
            reader.close()
        self._database.close()

    @property
    def id(self) -> str:
        """Which index this is."""
        return str(self.one(ASK_ID)[0])

    def one(self, statement: str, *values: Any) -> Any:
        """The first row, or None."""
        return self._database.execute(statement, values).fetchone()

    def few(self, statement: str, *values: Any) -> list[Any]:
        """All rows, of which there are not many."""
        return self._database.execute(statement, values).fetchall()

    async def many(self, statement: str, *values: Any) -> list[Any]:
        """All rows, however many, read in a thread."""

        def read() -> list[Any]:
            found: list[Any] = self._own.reader.execute(statement, values).fetchall()
            return found

        return await asyncio.get_running_loop().run_in_executor(self._reading, read)

    async def write(self, change: Change[T]) -> T:
        """Run `change` in the writer's thread; it is on the disk when this returns."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._wanted.put(_Wanted(change, answer, loop))
        return await answer

    async def execute(self, statement: str, *values: Any) -> int:
        """Change something by one statement; how many rows were."""
        return await self.write(lambda database: database.execute(statement, values).rowcount)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {self._sync}")
        database.execute("PRAGMA busy_timeout = 10000")
        return database

    def _begin_reading(self) -> None:
        self._own.reader = self._connect()
        self._readers.append(self._own.reader)

    def _write(self) -> None:
        with contextlib.closing(self._connect()) as database:
            ending = False
            while not ending:
                taken = [self._wanted.get()]
                with contextlib.suppress(queue.Empty):
                    while len(taken) < MOST_TOGETHER:
                        taken.append(self._wanted.get_nowait())
                ending = None in taken
                self._commit(database, [one for one in taken if one is not None])

    def _commit(self, database: sqlite3.Connection, batch: Sequence[_Wanted]) -> None:
        outcomes: list[tuple[Any, Exception | None]] = []
        try:
            database.execute("BEGIN IMMEDIATE")
            outcomes = [_apply(database, wanted.change) for wanted in batch]
            database.execute("COMMIT")
        except sqlite3.Error as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            outcomes = [(None, error)] * len(batch)
        for wanted, outcome in zip(batch, outcomes, strict=True):
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                wanted.loop.call_soon_threadsafe(_answer, wanted.answer, *outcome)


def _apply(database: sqlite3.Connection, change: Change[Any]) -> tuple[Any, Exception | None]:
    database.execute("SAVEPOINT one")
    outcome: tuple[Any, Exception | None]
    try:
        outcome = change(database), None
    except Exception as error:
        if not database.in_transaction:
            raise  # a full disk undoes the whole transaction, and so all that is in it
        database.execute("ROLLBACK TO one")
        outcome = None, error
    database.execute("RELEASE one")
    return outcome


def _answer(answer: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(value)
    else:
        answer.set_exception(error)
