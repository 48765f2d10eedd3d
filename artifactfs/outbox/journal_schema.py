"""The journal's tables, and how a journal is opened.

WAL with ``synchronous = NORMAL``: a statement that returned has been written to the log, which is
brought to the disk when somebody asks for it (`Journal.reach_disk`) and before SQLite copies it
into the database. So a commit costs no sync, a crash of the driver loses nothing that was
committed, and a crash of the machine nothing that was asked for. The slot's lock keeps others out,
so SQLite needs none of its own (``locking_mode = EXCLUSIVE``), nor memory shared with others.

A journal that SQLite calls no database, or malformed, is set aside under another name, never
removed: its files are found by ``recovery`` without it.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from pathlib import Path

from artifactfs.errors import DropError

VERSION = 4

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  path BLOB,                      -- relative to drop/, as bytes; NULL: it is to go with its file
  file TEXT NOT NULL UNIQUE,      -- the name of its bytes in files/, unlike any other's anywhere
  state TEXT NOT NULL,
  generation INTEGER NOT NULL,    -- raised by each writing: older work on it does not count
  closed INTEGER NOT NULL,        -- 1: a close(2) of these bytes has returned
  turn INTEGER NOT NULL,          -- the order of closing
  tried INTEGER NOT NULL,         -- 1: the service may have these bytes under this name
  size INTEGER NOT NULL,
  mode INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  ctime_ns INTEGER NOT NULL,
  sha256 TEXT,                    -- of the bytes as they are; NULL: not known
  error TEXT,
  artifact_id TEXT,
  uploaded_at REAL,               -- seconds since the epoch
  closed_at REAL NOT NULL DEFAULT 0, -- when these bytes got this name and were closed
  missing TEXT NOT NULL DEFAULT '' -- ranges that failed changes left, as `missing` writes them
);
CREATE UNIQUE INDEX IF NOT EXISTS entry_paths ON entries (path) WHERE path IS NOT NULL;
CREATE INDEX IF NOT EXISTS entry_ends ON entries (uploaded_at) WHERE state = 'uploaded';
CREATE TABLE IF NOT EXISTS folders (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  path BLOB NOT NULL UNIQUE,
  mode INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  ctime_ns INTEGER NOT NULL,
  fresh INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS multiparts (
  upload_id TEXT PRIMARY KEY,     -- a multipart upload that was begun for
  entry_id INTEGER NOT NULL,      -- this entry
  generation INTEGER NOT NULL,    -- as it was then: of any other it is to be given up
  part_size INTEGER NOT NULL,
  part_count INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS multipart_entries ON multiparts (entry_id);
CREATE TABLE IF NOT EXISTS parts (
  upload_id TEXT NOT NULL,
  number INTEGER NOT NULL,
  etag TEXT NOT NULL,             -- written before the next step: this part need not be sent again
  PRIMARY KEY (upload_id, number)
) WITHOUT ROWID;
"""

_FROM_1 = """
ALTER TABLE entries ADD COLUMN file TEXT NOT NULL DEFAULT '';
ALTER TABLE entries ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entries ADD COLUMN tried INTEGER NOT NULL DEFAULT 1;
UPDATE entries SET file = CAST(id AS TEXT), turn = id;
CREATE UNIQUE INDEX entry_files ON entries (file);
DROP TABLE parts;
DROP TABLE multiparts;
"""

_FROM_2 = """
ALTER TABLE entries ADD COLUMN closed_at REAL NOT NULL DEFAULT 0;
"""

_FROM_3 = """
ALTER TABLE entries ADD COLUMN missing TEXT NOT NULL DEFAULT '';
"""

_UPGRADES = (_FROM_1, _FROM_2, _FROM_3)

_DISK_ERRORS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_log = logging.getLogger(__name__)


def open_database(path: Path) -> tuple[sqlite3.Connection, bool]:
    """The database at `path` with its tables, and whether it was made just now.

    A broken one is set aside. Raises `DropError`; `OSError` where the disk is full or fails.
    """
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        number = disk_error(error)
        if code == sqlite3.SQLITE_CANTOPEN:
            _open_files(path)
        if number is not None:
            raise OSError(number, os.strerror(number), str(path)) from error
        if code not in _BROKEN:
            raise _unusable(path, error) from error
        aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
        _log.error("the journal %s is broken (%s): it is kept as %s", path, error, aside.name)
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    try:
        return _open(path)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error


def disk_error(error: sqlite3.Error) -> int | None:
    """The errno of a disk that is full, write-protected or failing, None if it is not the disk."""
    return _DISK_ERRORS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)


def _open_files(path: Path) -> None:
    """Open what SQLite could not: it does not say why. Raises `OSError`."""
    for name in (path.name, f"{path.name}-wal"):
        os.close(os.open(path.with_name(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _unusable(path: Path, error: Exception) -> DropError:
    return DropError(f"the journal {path} cannot be used: {error}")


def _open(path: Path) -> tuple[sqlite3.Connection, bool]:
    database = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        path.chmod(0o600)
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA wal_autocheckpoint = 512")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if not 0 <= version <= VERSION:
            raise DropError(
                f"{path} is of version {version}, this artifactfs knows {VERSION}",
                remedy="use the artifactfs that wrote it, or set spool.dir",
            )
        if 0 < version < VERSION:
            steps = " ".join(_UPGRADES[version - 1 :])
            database.executescript(f"BEGIN; {steps} PRAGMA user_version = {VERSION}; COMMIT;")
        database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        database.execute("SELECT count(*) FROM entries").fetchone()
    except BaseException:
        database.close()
        raise
    return database, version == 0
