"""The journal: what is in the outbox, as rows, safe against crashes.

Each method is one transaction, written to the log when it returns; `reach_disk` brings the log to
the disk, for all who wait for it at once (`GroupSync`). See ``journal_schema`` for the tables and
for what that means, ``state`` for what has to be on the disk when.

One connection, whose use is guarded by `_lock`; statements are short, and the lock is not held
while syncing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from artifactfs import system
from artifactfs.errors import DropError
from artifactfs.outbox.durability import GroupSync, sync_directory
from artifactfs.outbox.journal_schema import disk_error, open_database
from artifactfs.outbox.state import (
    MOVES,
    EntryState,
    OutboxDirectory,
    OutboxEntry,
)

_COLUMNS = (
    "id, path, state, size, mode, mtime_ns, ctime_ns, file, sha256, error, artifact_id,"
    " generation, closed, turn, tried, closed_at, missing"
)
_COLUMN_OF = {
    "generation": "generation",
    "closed": "closed",
    "turn": "turn",
    "tried": "tried",
    "closed_at": "closed_at",
    "missing": "missing",
    "size_bytes": "size",
    "mtime_ns": "mtime_ns",
    "sha256": "sha256",
    "error": "error",
    "artifact_id": "artifact_id",
}
_CLEAN = "clean"

_log = logging.getLogger(__name__)


class Journal:
    """The database of one slot. Guarded by `_lock`."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._path = path
        self._database, self.is_new = open_database(path)
        self._log_descriptor = -1
        self._suspect = False
        self._group = GroupSync(self._sync_log)

    def close(self) -> None:
        """Note that nothing is under way any more, and close the database."""
        with self._lock:
            with contextlib.suppress(OSError, DropError):
                self._do("INSERT OR REPLACE INTO facts VALUES (?, '1')", (_CLEAN,))
            self.abandon()

    def abandon(self) -> None:
        """Close the database as a crash would."""
        with self._lock:
            self._database.close()
            if self._log_descriptor >= 0:
                os.close(self._log_descriptor)
                self._log_descriptor = -1

    def begin(self) -> bool:
        """Note that work begins; whether the last one's end was clean."""
        row = self._do("SELECT value FROM facts WHERE name = ?", (_CLEAN,)).fetchone()
        self._do("INSERT OR REPLACE INTO facts VALUES (?, '0')", (_CLEAN,))
        return row is not None and row[0] == "1"

    def reach_disk(self) -> None:
        """Return when all that was written before is on the disk. Raises `OSError`."""
        self._group.reach()

    def _sync_log(self) -> None:
        if self._suspect:
            # The last sync failed, and what it was about counts as clean now: have it all copied.
            with self._lock:
                self._do("PRAGMA wal_checkpoint(TRUNCATE)")
                self._suspect = False
            return
        if self._log_descriptor < 0:
            log = self._path.with_name(self._path.name + "-wal")
            with self._lock:
                self._log_descriptor = os.open(log, os.O_RDWR | os.O_CLOEXEC)
            sync_directory(self._path.parent)
        try:
            system.data_sync(self._log_descriptor)
        except OSError:
            self._suspect = True
            raise

    def _do(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with self._lock, _translated():
            return self._database.execute(statement, values)

    def _do_each(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._lock, _translated():
            self._database.executemany(statement, rows)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What happens in the block is one transaction: all of it or nothing."""
        with self._lock:
            outermost = not self._database.in_transaction
            if outermost:
                self._do("BEGIN IMMEDIATE")
            try:
                yield
                if outermost:
                    self._do("COMMIT")
            except BaseException:
                if outermost:
                    with contextlib.suppress(sqlite3.Error):  # it may be undone already
                        self._database.execute("ROLLBACK")
                raise

    # Reading

    def entries(self) -> list[OutboxEntry]:
        """Every entry that has a name, in the order of closing."""
        rows = self._do(
            f"SELECT {_COLUMNS} FROM entries WHERE path IS NOT NULL ORDER BY turn, id"
        ).fetchall()
        return [_entry(row) for row in rows]

    def files(self) -> list[tuple[int, str, str]]:
        """Id, file and state of every entry that has a name: quicker than the entries."""
        return self._do("SELECT id, file, state FROM entries WHERE path IS NOT NULL").fetchall()

    def nameless(self) -> list[tuple[int, str]]:
        """Id and file of the entries that are to go."""
        return self._do("SELECT id, file FROM entries WHERE path IS NULL").fetchall()

    def folders(self) -> list[OutboxDirectory]:
        """Every folder."""
        rows = self._do("SELECT id, path, mode, mtime_ns, ctime_ns, fresh FROM folders").fetchall()
        return [
            OutboxDirectory(number, os.fsdecode(path), mode, mtime_ns, ctime_ns, bool(fresh))
            for number, path, mode, mtime_ns, ctime_ns, fresh in rows
        ]

    def last_turn(self) -> int:
        """The highest turn that was given."""
        return int(self._do("SELECT coalesce(max(turn), 0) FROM entries").fetchone()[0])

    def uploaded_before(self, epoch_s: float) -> list[tuple[int, int]]:
        """Id and generation of the entries that have lingered since before then."""
        return self._do(
            "SELECT id, generation FROM entries WHERE state = 'uploaded' AND uploaded_at <= ?"
            " AND path IS NOT NULL",
            (epoch_s,),
        ).fetchall()

    # Entries

    def add(self, entry: OutboxEntry) -> OutboxEntry:
        """A new entry, with its id."""
        cursor = self._do(
            "INSERT INTO entries (path, file, state, generation, closed, turn, tried, size, mode,"
            " mtime_ns, ctime_ns, sha256, error, closed_at, missing)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                os.fsencode(entry.path), entry.file, entry.state, entry.generation, entry.closed,
                entry.turn, entry.tried, entry.size_bytes, entry.mode, entry.mtime_ns,
                entry.ctime_ns, entry.sha256, entry.error, entry.closed_at,
                entry.missing,
            ),
        )  # fmt: skip
        assert cursor.lastrowid is not None
        return dataclasses.replace(entry, id=cursor.lastrowid)

    def move(
        self,
        entry: OutboxEntry,
        state: EntryState,
        *,
        uploaded_at: float | None = None,
        **changes: Any,
    ) -> OutboxEntry | None:
        """Compare-and-set: move the row from `entry`'s state and generation.

        `changes` are fields of `OutboxEntry`. Returns the entry as it is now, None if the row was
        not as `entry` says. Raises `DropError` for a move that is not in the table of ``state``.
        """
        if (entry.state, state) not in MOVES:
            raise DropError(f"{entry.path} cannot go from {entry.state} to {state}")
        sets = ["state = ?", "uploaded_at = ?"]
        values: list[Any] = [state, uploaded_at]
        for name, value in changes.items():
            sets.append(f"{_COLUMN_OF[name]} = ?")
            values.append(value)
        cursor = self._do(
            f"UPDATE entries SET {', '.join(sets)} WHERE id = ? AND state = ? AND generation = ?"
            " AND path IS NOT NULL",
            (*values, entry.id, entry.state, entry.generation),
        )
        return dataclasses.replace(entry, state=state, **changes) if cursor.rowcount else None

    def set_times(self, entry: OutboxEntry) -> None:
        """Write an entry's mode and times only."""
        self._do(
            "UPDATE entries SET mode = ?, mtime_ns = ?, ctime_ns = ? WHERE id = ?",
            (entry.mode, entry.mtime_ns, entry.ctime_ns, entry.id),
        )

    def set_missing(self, entry: OutboxEntry) -> None:
        """Write an entry's missing ranges only."""
        self._do("UPDATE entries SET missing = ? WHERE id = ?", (entry.missing, entry.id))

    def count_as_tried(self) -> None:
        """The service may have anything that was closed."""
        self._do("UPDATE entries SET tried = 1 WHERE state != 'uploaded'")

    def take_names(self, ids: Sequence[int]) -> None:
        """Entries lose their names; each goes with its file (`remove`)."""
        self._do_each("UPDATE entries SET path = NULL WHERE id = ?", [(one,) for one in ids])

    def remove(self, ids: Sequence[int]) -> None:
        """Forget entries whose files are gone."""
        self._do_each("DELETE FROM entries WHERE id = ?", [(one,) for one in ids])

    def rename(
        self,
        pairs: Sequence[tuple[int, str]],
        folders: Sequence[tuple[int, str]] = (),
        replaced: int | None = None,
    ) -> None:
        """Give entries and folders new paths; the entry that one of them replaces loses its own."""
        with self.together():
            if replaced is not None:
                self.take_names([replaced])
            for table, renamed in (("entries", pairs), ("folders", folders)):
                self._do_each(
                    f"UPDATE {table} SET path = ? WHERE id = ?",
                    [(os.fsencode(path), number) for number, path in renamed],
                )

    # Folders

    def add_folder(self, folder: OutboxDirectory) -> OutboxDirectory:
        """A new folder, with its id."""
        cursor = self._do(
            "INSERT INTO folders (path, mode, mtime_ns, ctime_ns, fresh) VALUES (?, ?, ?, ?, ?)",
            (os.fsencode(folder.path), folder.mode, folder.mtime_ns, folder.ctime_ns, folder.fresh),
        )
        assert cursor.lastrowid is not None
        return dataclasses.replace(folder, id=cursor.lastrowid)

    def save_folder(self, folder: OutboxDirectory) -> None:
        """Write a folder's fields but its path."""
        self._do(
            "UPDATE folders SET mode = ?, mtime_ns = ?, ctime_ns = ?, fresh = ? WHERE id = ?",
            (folder.mode, folder.mtime_ns, folder.ctime_ns, folder.fresh, folder.id),
        )

    def remove_folder(self, folder_id: int) -> None:
        """Forget a folder."""
        self._do("DELETE FROM folders WHERE id = ?", (folder_id,))

    # Multipart uploads

    def multipart(self, entry: OutboxEntry) -> tuple[str, int, int] | None:
        """Id, part size and part count of the upload that was begun for these bytes."""
        row = self._do(
            "SELECT upload_id, part_size, part_count FROM multiparts"
            " WHERE entry_id = ? AND generation = ?",
            (entry.id, entry.generation),
        ).fetchone()
        return (str(row[0]), int(row[1]), int(row[2])) if row else None

    def parts(self, upload_id: str) -> dict[int, str]:
        """The ETags of the parts that have arrived."""
        rows = self._do("SELECT number, etag FROM parts WHERE upload_id = ?", (upload_id,))
        return dict(rows.fetchall())

    def begin_multipart(
        self, entry: OutboxEntry, upload_id: str, part_size_bytes: int, part_count: int
    ) -> None:
        """Remember a multipart upload, without parts."""
        self._do(
            "INSERT OR REPLACE INTO multiparts VALUES (?, ?, ?, ?, ?)",
            (upload_id, entry.id, entry.generation, part_size_bytes, part_count),
        )

    def add_part(self, upload_id: str, number: int, etag: str) -> None:
        """A part has arrived."""
        self._do("INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", (upload_id, number, etag))

    def end_multipart(self, upload_id: str) -> None:
        """Forget an upload: it is complete, given up, or unknown to the service."""
        with self.together():
            self._do("DELETE FROM multiparts WHERE upload_id = ?", (upload_id,))
            self._do("DELETE FROM parts WHERE upload_id = ?", (upload_id,))

    def abandoned(self) -> list[str]:
        """Uploads whose bytes or name are not wanted any more."""
        rows = self._do(
            "SELECT upload_id FROM multiparts m LEFT JOIN entries e ON e.id = m.entry_id"
            " AND e.generation = m.generation AND e.path IS NOT NULL WHERE e.id IS NULL"
        ).fetchall()
        return [str(row[0]) for row in rows]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise DropError("the mount has ended", remedy="mount again") from error
    except sqlite3.DatabaseError as error:
        number = disk_error(error)
        if number is not None:
            raise OSError(number, os.strerror(number)) from error
        raise DropError(f"the journal: {error}") from error


_STATES = {state.value: state for state in EntryState}


def _entry(row: tuple[Any, ...]) -> OutboxEntry:
    return OutboxEntry(
        id=row[0],
        path=row[1].decode("utf-8", "surrogateescape"),
        state=_STATES[row[2]],
        size_bytes=row[3],
        mode=row[4],
        mtime_ns=row[5],
        ctime_ns=row[6],
        file=row[7],
        sha256=row[8],
        error=row[9],
        artifact_id=row[10],
        generation=row[11],
        closed=bool(row[12]),
        turn=row[13],
        tried=bool(row[14]),
        closed_at=row[15],
        missing=row[16],
    )
