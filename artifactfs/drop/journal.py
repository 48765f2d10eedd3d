"""The journal: what is in the outbox, in SQLite, safe against crashes.

WAL with ``synchronous = FULL``: a statement that returned is on disk. One connection, whose use is
guarded by `_lock`; statements are short, and none runs on the kernel's reader thread.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifactfs.drop.states import Entry, Folder, State
from artifactfs.errors import DropError

VERSION = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- also the name of its file in files/
  path BLOB,                      -- relative to drop/, as bytes; NULL: unlinked while open
  state TEXT NOT NULL,
  generation INTEGER NOT NULL,    -- raised by each writing: older work on it does not count
  closed INTEGER NOT NULL,        -- 1: some close(2) of a writer has returned
  size INTEGER NOT NULL,
  mode INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  ctime_ns INTEGER NOT NULL,
  sha256 TEXT,                    -- of the bytes as they are; NULL: not known
  error TEXT,
  artifact_id TEXT,
  uploaded_at REAL                -- seconds since the epoch
);
CREATE UNIQUE INDEX IF NOT EXISTS entry_paths ON entries (path) WHERE path IS NOT NULL;
CREATE TABLE IF NOT EXISTS folders (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  path BLOB NOT NULL UNIQUE,
  mode INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  ctime_ns INTEGER NOT NULL,
  fresh INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS multiparts (
  entry_id INTEGER PRIMARY KEY,   -- a multipart upload that was begun
  generation INTEGER NOT NULL,
  upload_id TEXT NOT NULL,
  part_size INTEGER NOT NULL,
  part_count INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS parts (
  entry_id INTEGER NOT NULL,
  number INTEGER NOT NULL,
  etag TEXT NOT NULL,             -- written before the next step: this part need not be sent again
  PRIMARY KEY (entry_id, number)
);
"""

_ENTRY = (
    "id, path, state, size, mode, mtime_ns, ctime_ns, sha256, error, artifact_id,"
    " generation, closed"
)


class Journal:
    """The database of one slot. Guarded by `_lock`."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA wal_autocheckpoint = 64")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise DropError(
                    f"{path} is of version {version}, this artifactfs knows {VERSION}",
                    remedy="use the artifactfs that wrote it, or set spool.dir",
                )
            self._database.executescript(SCHEMA)
            self._database.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.Error as error:
            raise DropError(f"the journal {path} cannot be used: {error}") from error

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def _do(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with self._lock:
            try:
                return self._database.execute(statement, values)
            except sqlite3.OperationalError as error:
                if "full" in str(error):
                    raise OSError(28, os.strerror(28)) from error
                raise DropError(f"the journal: {error}") from error

    # Reading

    def entries(self) -> list[Entry]:
        """Every entry that has a name."""
        rows = self._do(f"SELECT {_ENTRY} FROM entries WHERE path IS NOT NULL").fetchall()
        return [_entry(row) for row in rows]

    def entry(self, entry_id: int) -> Entry | None:
        """One entry that has a name."""
        row = self._do(
            f"SELECT {_ENTRY} FROM entries WHERE id = ? AND path IS NOT NULL", (entry_id,)
        ).fetchone()
        return _entry(row) if row else None

    def folders(self) -> list[Folder]:
        """Every folder."""
        rows = self._do("SELECT id, path, mode, mtime_ns, ctime_ns, fresh FROM folders").fetchall()
        return [
            Folder(number, os.fsdecode(path), mode, mtime_ns, ctime_ns, bool(fresh))
            for number, path, mode, mtime_ns, ctime_ns, fresh in rows
        ]

    def ids(self) -> set[int]:
        """The ids of all entries, unlinked ones included."""
        return {row[0] for row in self._do("SELECT id FROM entries").fetchall()}

    def multipart(self, entry_id: int, generation: int) -> tuple[str, int, int] | None:
        """Id, part size and part count of the upload that was begun for these bytes."""
        row = self._do(
            "SELECT upload_id, part_size, part_count FROM multiparts"
            " WHERE entry_id = ? AND generation = ?",
            (entry_id, generation),
        ).fetchone()
        return (str(row[0]), int(row[1]), int(row[2])) if row else None

    def parts(self, entry_id: int) -> dict[int, str]:
        """The ETags of the parts that have arrived."""
        rows = self._do("SELECT number, etag FROM parts WHERE entry_id = ?", (entry_id,)).fetchall()
        return dict(rows)

    def uploaded_before(self, epoch_s: float) -> list[int]:
        """The ids of entries that have lingered since before then."""
        rows = self._do(
            "SELECT id FROM entries WHERE state = 'uploaded' AND uploaded_at <= ?", (epoch_s,)
        ).fetchall()
        return [row[0] for row in rows]

    # Entries

    def add(self, entry: Entry) -> int:
        """A new entry; its id."""
        cursor = self._do(
            "INSERT INTO entries (path, state, generation, closed, size, mode, mtime_ns, ctime_ns,"
            " sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                os.fsencode(entry.path), entry.state, entry.generation, int(entry.closed),
                entry.size_bytes, entry.mode, entry.mtime_ns, entry.ctime_ns, entry.sha256,
            ),
        )  # fmt: skip
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def save(self, entry: Entry) -> None:
        """Write all of an entry's fields but its path."""
        self._do(
            "UPDATE entries SET state = ?, generation = ?, closed = ?, size = ?, mode = ?,"
            " mtime_ns = ?, ctime_ns = ?, sha256 = ?, error = ?, artifact_id = ? WHERE id = ?",
            (
                entry.state, entry.generation, int(entry.closed), entry.size_bytes, entry.mode,
                entry.mtime_ns, entry.ctime_ns, entry.sha256, entry.error, entry.artifact_id,
                entry.id,
            ),
        )  # fmt: skip

    def set_times(self, entry: Entry) -> None:
        """Write an entry's mode and times only."""
        self._do(
            "UPDATE entries SET mode = ?, mtime_ns = ?, ctime_ns = ? WHERE id = ?",
            (entry.mode, entry.mtime_ns, entry.ctime_ns, entry.id),
        )

    def move(
        self,
        entry: Entry,
        state: State,
        *,
        sha256: str | None = None,
        error: str | None = None,
        artifact_id: str | None = None,
        uploaded_at: float | None = None,
    ) -> bool:
        """Compare-and-set: move the row from `entry`'s state and generation; whether it was."""
        cursor = self._do(
            "UPDATE entries SET state = ?, sha256 = coalesce(?, sha256), error = ?,"
            " artifact_id = coalesce(?, artifact_id), uploaded_at = ?"
            " WHERE id = ? AND state = ? AND generation = ?",
            (
                state, sha256, error, artifact_id, uploaded_at, entry.id, entry.state,
                entry.generation,
            ),
        )  # fmt: skip
        return cursor.rowcount == 1

    def remove(self, entry_id: int) -> None:
        """Forget an entry and its upload."""
        with self._lock:
            self._do("BEGIN")
            for table, column in (
                ("entries", "id"),
                ("multiparts", "entry_id"),
                ("parts", "entry_id"),
            ):
                self._do(f"DELETE FROM {table} WHERE {column} = ?", (entry_id,))
            self._do("COMMIT")

    def rename(
        self,
        pairs: Sequence[tuple[int, str]],
        folders: Sequence[tuple[int, str]],
        replaced: int | None,
    ) -> None:
        """Give entries and folders new paths, and forget the entry that one of them replaces."""
        with self._lock:
            self._do("BEGIN")
            try:
                if replaced is not None:
                    self._do("UPDATE entries SET path = NULL WHERE id = ?", (replaced,))
                for entry_id, path in pairs:
                    self._do(
                        "UPDATE entries SET path = ? WHERE id = ?", (os.fsencode(path), entry_id)
                    )
                for folder_id, path in folders:
                    self._do(
                        "UPDATE folders SET path = ? WHERE id = ?", (os.fsencode(path), folder_id)
                    )
            except BaseException:
                self._do("ROLLBACK")
                raise
            self._do("COMMIT")

    def unlink(self, entry_id: int) -> None:
        """Take an entry's name; it goes when nobody has it open any more."""
        self._do("UPDATE entries SET path = NULL WHERE id = ?", (entry_id,))

    # Folders

    def add_folder(self, folder: Folder) -> int:
        """A new folder; its id."""
        cursor = self._do(
            "INSERT INTO folders (path, mode, mtime_ns, ctime_ns, fresh) VALUES (?, ?, ?, ?, ?)",
            (os.fsencode(folder.path), folder.mode, folder.mtime_ns, folder.ctime_ns, folder.fresh),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def save_folder(self, folder: Folder) -> None:
        """Write a folder's fields but its path."""
        self._do(
            "UPDATE folders SET mode = ?, mtime_ns = ?, ctime_ns = ?, fresh = ? WHERE id = ?",
            (folder.mode, folder.mtime_ns, folder.ctime_ns, folder.fresh, folder.id),
        )

    def remove_folder(self, folder_id: int) -> None:
        """Forget a folder."""
        self._do("DELETE FROM folders WHERE id = ?", (folder_id,))

    # Uploads

    def begin_multipart(
        self, entry: Entry, upload_id: str, part_size_bytes: int, part_count: int
    ) -> None:
        """Remember a multipart upload, without parts."""
        with self._lock:
            self._do("BEGIN")
            self._do("DELETE FROM parts WHERE entry_id = ?", (entry.id,))
            self._do(
                "INSERT OR REPLACE INTO multiparts VALUES (?, ?, ?, ?, ?)",
                (entry.id, entry.generation, upload_id, part_size_bytes, part_count),
            )
            self._do("COMMIT")

    def add_part(self, entry_id: int, number: int, etag: str) -> None:
        """A part has arrived."""
        self._do("INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", (entry_id, number, etag))

    def end_multipart(self, entry_id: int) -> None:
        """Forget an upload: it is complete, or unknown to the service."""
        with self._lock:
            self._do("BEGIN")
            self._do("DELETE FROM multiparts WHERE entry_id = ?", (entry_id,))
            self._do("DELETE FROM parts WHERE entry_id = ?", (entry_id,))
            self._do("COMMIT")


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(
        id=row[0],
        path=os.fsdecode(row[1]),
        state=State(row[2]),
        size_bytes=row[3],
        mode=row[4],
        mtime_ns=row[5],
        ctime_ns=row[6],
        sha256=row[7],
        error=row[8],
        artifact_id=row[9],
        generation=row[10],
        closed=bool(row[11]),
    )
