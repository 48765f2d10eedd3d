"""The journal, the view and the spool's files, in step.

Every change of an entry or a folder goes through here: first the row, then what everyone sees.
`changing` makes changes happen one at a time; it is held over a journal's statement and a file's
creation, never over a sync or the network, and nobody who only looks takes it.

What must be on the disk before it is answered (``state``) is waited for by `settle_rows`, after
`changing` was let go: so a hundred closes at once cost one sync.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from artifactfs.errors import DropError
from artifactfs.outbox.entry_view import EntryView
from artifactfs.outbox.filenames import above
from artifactfs.outbox.journal import Journal
from artifactfs.outbox.spool import SpoolSlot
from artifactfs.outbox.spool_quota import SpoolQuota
from artifactfs.outbox.state import (
    EntryState,
    OutboxDirectory,
    OutboxEntry,
)

_log = logging.getLogger(__name__)


class EntryStore:
    """One outbox's truth. `changing` guards the order of changes, and what `opened` says.

    `told` is called with a path after something about it has changed, holding nothing.
    """

    def __init__(self, view: EntryView, space: SpoolQuota, told: Callable[[str], None]) -> None:
        self.view = view
        self.space = space
        self.told = told
        self.changing = threading.RLock()
        self._ended = False
        self._turn = 0
        self._slot: SpoolSlot | None = None
        self._journal: Journal | None = None

    def start(
        self, slot: SpoolSlot, journal: Journal, add_folder: Callable[[str], object]
    ) -> list[OutboxEntry]:
        """Show what the journal says. `add_folder` is called for folders that it does not have.

        Returns the entries as they are shown, in the order of closing. If that fails, journal and
        slot are closed, and it can be called again.
        """
        self._slot, self._journal = slot, journal
        try:
            return self._load(slot, journal, add_folder)
        except BaseException:
            self._slot = self._journal = None
            journal.abandon()
            slot.close()
            raise

    def _load(
        self, slot: SpoolSlot, journal: Journal, add_folder: Callable[[str], object]
    ) -> list[OutboxEntry]:
        self.view.clear()
        for folder in journal.folders():
            self.view.put_folder(folder)
        entries = journal.entries()
        for path in sorted({path for entry in entries for path in above(entry.path)}, key=len):
            if self.view.find(path) is None:
                add_folder(path)
        shown = self.view.load(entries)
        self._turn = journal.last_turn()
        self.space.use(slot, sum(entry.size_bytes for entry in entries))
        return shown

    def end(self) -> None:
        """Nothing changes any more; the journal is closed, the slot free."""
        with self.changing:
            if self._ended:
                return
            self._ended = True
            if self._journal is not None:
                self._journal.close()
            if self._slot is not None:
                self._slot.close()

    @property
    def has_ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

    @property
    def journal(self) -> Journal:
        """The rows. Raises `DropError` once all has ended."""
        if self._ended:
            raise DropError("the mount has ended", remedy="mount again")
        assert self._journal is not None, "the outbox was not started"
        return self._journal

    @property
    def slot(self) -> SpoolSlot:
        """The files."""
        assert self._slot is not None, "the outbox was not started"
        return self._slot

    def settle_rows(self) -> None:
        """Return when all rows written before are on the disk. Raises `OSError`, `DropError`."""
        self.journal.reach_disk()

    # Looking, as a change begins

    def entry(self, path: str) -> OutboxEntry:
        """The file at `path`. Raises `OSError` ENOENT, EISDIR."""
        found = self.view.find(path)
        if found is None:
            refuse(errno.ENOENT)
        if isinstance(found, OutboxDirectory):
            refuse(errno.EISDIR)
        return found

    def folder(self, path: str) -> OutboxDirectory:
        """The directory at `path`. Raises `OSError` ENOENT, ENOTDIR."""
        found = self.view.find(path)
        if found is None:
            refuse(errno.ENOENT)
        if not isinstance(found, OutboxDirectory):
            refuse(errno.ENOTDIR)
        return found

    # Changes

    def next_turn(self) -> int:
        """The turn of whoever is closed now. `changing` is held."""
        self._turn += 1
        return self._turn

    def add(self, entry: OutboxEntry) -> OutboxEntry:
        """A new entry. `changing` is held."""
        return self.view.put(self.journal.add(entry))

    def move(self, entry: OutboxEntry, state: EntryState, **changes: Any) -> OutboxEntry | None:
        """Move an entry if it is still in the state and generation that `entry` says.

        Returns it as it is now, None if it was not. Raises `DropError`, `OSError`.
        """
        with self.changing:
            if self._ended:
                return None
            row = self.view.stored(entry.id)
            if row is None or not self.is_current(entry):
                return None
            moved = self.journal.move(row, state, **changes)
            return None if moved is None else self.view.put(moved)

    def is_current(self, entry: OutboxEntry) -> bool:
        """Whether the row is in the state and generation that `entry` says.

        The answer holds while the caller holds `changing`.
        """
        row = self.view.stored(entry.id)
        return row is not None and (row.state, row.generation) == (entry.state, entry.generation)

    def take_names(self, entries: Iterable[OutboxEntry]) -> None:
        """Entries lose their names. `changing` is held."""
        gone = list(entries)
        self.journal.take_names([entry.id for entry in gone])
        for entry in gone:
            self.view.drop(entry.path)

    def discard(self, entries: Iterable[OutboxEntry]) -> None:
        """Files of entries that have lost their names go, and their rows. `changing` is held."""
        gone = list(entries)
        for entry in gone:
            self.slot.path(entry.file).unlink(missing_ok=True)
            self.space.reserve(-entry.size_bytes)
        self.journal.remove([entry.id for entry in gone])

    def set_missing(self, entry_id: int, missing: str) -> None:
        """The ranges of an entry that failed changes have left. Raises `DropError`, `OSError`."""
        with self.changing:
            row = self.view.stored(entry_id)
            if row is not None and row.missing != missing:
                self.view.put(row := dataclasses.replace(row, missing=missing))
                self.journal.set_missing(row)

    def set_times(self, entry: OutboxEntry) -> None:
        """Mode and times of an entry. `changing` is held."""
        self.journal.set_times(entry)
        row = self.view.stored(entry.id)
        if row is not None:
            self.view.put(
                dataclasses.replace(
                    row, mode=entry.mode, mtime_ns=entry.mtime_ns, ctime_ns=entry.ctime_ns
                )
            )


def refuse(number: int) -> NoReturn:
    """Raise what a local file system would."""
    raise OSError(number, os.strerror(number))
