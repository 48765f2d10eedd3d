"""Takes up what an earlier process left: its states, its stray files, and other slots' entries.

Nothing is dropped in silence. A row that was being written counts as closed if a close of these
bytes has returned, else it is `interrupted`; what was hashing or uploading is queued again. Rows
that had lost their names go with their files. A row without a file fails, and says so. A file
without a row (the machine has crashed before the row was on the disk, or the journal is lost)
becomes an interrupted entry under the path that the file remembers, or ``recovered-<its name>``:
whether it was closed nobody knows, so it is the user who says that it is wanted (`retry`).

All of it is one transaction, and looks at files only where it must: ten thousand pending entries
are taken up in a tenth of a second.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable

from artifactfs.outbox.filenames import PATH_MOST_BYTES, checked
from artifactfs.outbox.journal import Journal
from artifactfs.outbox.spool import SpoolSlot, remove_slot
from artifactfs.outbox.state import (
    IN_FLIGHT,
    EntryState,
    OutboxEntry,
)
from artifactfs.outbox.takeover import FreeNames, take_over

NEVER_CLOSED = "its writer had not closed it when the mount ended"
VANISHED = "its file has vanished from the spool"
WITHOUT_A_ROW = "it was found in the spool without its row in the journal"
CHANGED = "it was written again after it was closed, when the mount ended"

_UNSETTLED = frozenset({EntryState.WRITING, *IN_FLIGHT})

_log = logging.getLogger(__name__)


def recover(slot: SpoolSlot, journal: Journal, others: Iterable[SpoolSlot]) -> None:
    """Put a slot in order, then move in what lies in the others. Raises `OSError`, `DropError`."""
    _settle(slot, journal)
    for other in others:
        left = Journal(other.journal_path)
        try:
            _settle(other, left)
            take_over(slot, journal, other, left)
        finally:
            left.close()
        remove_slot(other)
    journal.reach_disk()


def _settle(slot: SpoolSlot, journal: Journal) -> None:
    was_clean = journal.begin()
    nameless = journal.nameless()
    for _, file in nameless:
        slot.path(file).unlink(missing_ok=True)
    there = set(os.listdir(slot.files))  # noqa: PTH208 - names, not ten thousand paths
    with journal.together():
        journal.remove([number for number, _ in nameless])
        if not was_clean:
            journal.count_as_tried()
        files = journal.files()
        unsettled = {
            number for number, file, state in files if file not in there or state in _UNSETTLED
        }
        for entry in journal.entries() if unsettled else ():
            if entry.id in unsettled:
                _settle_entry(slot, journal, entry, is_there=entry.file in there)
        strays = sorted(there.difference(file for _, file, _ in files))
        if strays:
            _recover_files(slot, journal, strays, is_new=journal.is_new)
    journal.reach_disk()


def _settle_entry(slot: SpoolSlot, journal: Journal, entry: OutboxEntry, *, is_there: bool) -> None:
    if not is_there:
        if entry.state not in (EntryState.UPLOADED, EntryState.FAILED):
            if entry.state is EntryState.WRITING:
                entry = journal.move(entry, EntryState.INTERRUPTED) or entry
            journal.move(entry, EntryState.FAILED, error=VANISHED)
    elif entry.state is EntryState.WRITING:
        _settle_written(slot, journal, entry)
    elif entry.state in IN_FLIGHT:
        journal.move(entry, EntryState.QUEUED)


def _settle_written(slot: SpoolSlot, journal: Journal, entry: OutboxEntry) -> None:
    size_bytes = slot.path(entry.file).stat().st_size
    if entry.closed and size_bytes == entry.size_bytes:
        journal.move(entry, EntryState.QUEUED)
    elif entry.closed:
        journal.move(
            entry, EntryState.INTERRUPTED, size_bytes=size_bytes, sha256=None, error=CHANGED
        )  # fmt: skip
    else:
        journal.move(
            entry, EntryState.INTERRUPTED, size_bytes=size_bytes, sha256=None, error=NEVER_CLOSED
        )


def _recover_files(slot: SpoolSlot, journal: Journal, strays: list[str], *, is_new: bool) -> None:
    free = FreeNames(journal)
    turn = journal.last_turn()
    for file in strays:
        path = slot.path(file)
        status = path.stat()
        remembered = slot.remembered_path(file)
        if "." in file or (status.st_size == 0 and not (is_new and remembered)):
            path.unlink()  # a copy that was not finished, or a file that nothing was written to
            continue
        turn += 1
        now_ns = time.time_ns()
        found = OutboxEntry(
            0, free.claim(_usable(remembered) or f"recovered-{file}"), EntryState.INTERRUPTED,
            status.st_size, 0o644, status.st_mtime_ns, now_ns, file=file, turn=turn, tried=True,
            error=WITHOUT_A_ROW,
        )  # fmt: skip
        journal.add(found)
        _log.warning("%s: %s (%s)", found.path, WITHOUT_A_ROW, path)


def _usable(remembered: str | None) -> str | None:
    if not remembered or len(os.fsencode(remembered)) > PATH_MOST_BYTES:
        return None
    try:
        return checked(remembered)
    except OSError:
        return None
