"""What the service knows, in SQLite.

One connection, used from the event loop's thread only; WAL, so that a crash leaves what was
committed. Statements are small, so that nobody notices that they block.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SCHEMA = """
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
  content_type TEXT NOT NULL,
  created REAL NOT NULL,            -- seconds since the epoch
  expires REAL NOT NULL,
  external_url TEXT,
  job_id TEXT
);
CREATE INDEX IF NOT EXISTS by_content ON artifacts (account, sha256);
CREATE INDEX IF NOT EXISTS by_expiry ON artifacts (expires);
CREATE TABLE IF NOT EXISTS uploads (
  id TEXT PRIMARY KEY,              -- mpu_… of a multipart upload, art_… of a direct one
  artifact_id TEXT NOT NULL,
  account TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  size INTEGER NOT NULL,
  filename BLOB NOT NULL,
  part_size INTEGER NOT NULL,       -- 0: a direct upload
  expires REAL NOT NULL,
  completing INTEGER NOT NULL DEFAULT 0,
  completed TEXT                    -- the artifact's id once it is complete
);
CREATE TABLE IF NOT EXISTS parts (
  upload_id TEXT NOT NULL,
  number INTEGER NOT NULL,
  size INTEGER NOT NULL,
  etag TEXT NOT NULL,
  PRIMARY KEY (upload_id, number)
);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


class Index:
    """The database. For one thread."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(SCHEMA)
        self._database.execute("UPDATE uploads SET completing = 0")

    def one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The first row, or None."""
        return self._database.execute(statement, values).fetchone()

    def all(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Every row."""
        return self._database.execute(statement, values).fetchall()

    def write(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Change something; how many rows were."""
        return self._database.execute(statement, values).rowcount

    def write_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Change many rows in one transaction."""
        self._database.execute("BEGIN")
        try:
            self._database.executemany(statement, rows)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self._database.close()
