"""Takes up what an earlier process left: its states, its stray files, and other slots' entries.

Nothing is dropped in silence. A row that was being written counts as closed if a close has
returned, else it is `interrupted`; what was hashing or uploading is queued again. A file without a
row becomes an interrupted entry called ``recovered-<number>``; a row without a file fails, and says
so. Rows that were unlinked while open go with their files.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import time
from pathlib import Path

from artifactfs.drop.journal import Journal
from artifactfs.drop.spool import Slot, remove_slot
from artifactfs.drop.states import Entry, Folder, State

_log = logging.getLogger(__name__)

NEVER_CLOSED = "its writer had not closed it when the mount ended"


def recover(slot: Slot, journal: Journal, others: list[Slot]) -> None:
    """Put a slot in order, then move in what lies in the others."""
    _settle(slot, journal)
    for other in others:
        left = Journal(other.journal_path)
        try:
            _settle(other, left)
            _move_in(slot, journal, other, left)
        finally:
            left.close()
        remove_slot(other)


def _settle(slot: Slot, journal: Journal) -> None:
    named = {entry.id for entry in journal.entries()}
    for entry_id in journal.ids() - named:
        slot.path(entry_id).unlink(missing_ok=True)
        journal.remove(entry_id)
    for entry in journal.entries():
        journal.save(_settled(slot, entry))
    for path in slot.stray_files(named):
        if not path.name.isdigit():
            path.unlink(missing_ok=True)
            continue
        _log.warning("%s was in the spool without a row in the journal", path)
        size_bytes = path.stat().st_size
        now_ns = time.time_ns()
        found = Entry(
            0, f"recovered-{path.name}", State.INTERRUPTED, size_bytes, 0o644, now_ns, now_ns,
            error="it was found in the spool without its row in the journal",
        )  # fmt: skip
        found = dataclasses.replace(found, path=_free_name(journal, found.path))
        entry_id = journal.add(found)
        journal.save(dataclasses.replace(found, id=entry_id))
        path.rename(slot.path(entry_id))


def _settled(slot: Slot, entry: Entry) -> Entry:
    try:
        size_bytes = slot.path(entry.id).stat().st_size
    except FileNotFoundError:
        if entry.state is State.UPLOADED:
            return entry
        return dataclasses.replace(
            entry, state=State.FAILED, error="its file has vanished from the spool"
        )
    if entry.state is State.WRITING:
        if not entry.closed:
            return dataclasses.replace(
                entry, state=State.INTERRUPTED, size_bytes=size_bytes, sha256=None,
                error=NEVER_CLOSED,
            )  # fmt: skip
        return dataclasses.replace(entry, state=State.QUEUED)
    if entry.state in (State.HASHING, State.UPLOADING):
        return dataclasses.replace(entry, state=State.QUEUED)
    return entry


def _move_in(slot: Slot, journal: Journal, other: Slot, left: Journal) -> None:
    taken = {folder.path for folder in journal.folders()}
    for folder in left.folders():
        if folder.path not in taken:
            journal.add_folder(_as_used(folder))
    for entry in left.entries():
        source = other.path(entry.id)
        if entry.state is State.UPLOADED or not source.exists():
            continue
        moved = dataclasses.replace(entry, path=_free_name(journal, entry.path))
        # Linked first: a crash in between leaves it twice, and never not at all.
        number = journal.add(dataclasses.replace(moved, state=State.WRITING, closed=True))
        _link(source, slot.path(number))
        journal.save(dataclasses.replace(moved, id=number))
        left.remove(entry.id)
        source.unlink(missing_ok=True)
        _log.info("%s was taken over from another mount's spool", moved.path)
    slot.sync_files()


def _as_used(folder: Folder) -> Folder:
    return dataclasses.replace(folder, fresh=False)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _free_name(journal: Journal, path: str) -> str:
    taken = {entry.path for entry in journal.entries()} | {one.path for one in journal.folders()}
    if path not in taken:
        return path
    stem, dot, suffix = path.rpartition(".")
    if not dot or "/" in suffix or not stem or stem.endswith("/"):
        stem, suffix = path, ""
    number = 2
    while (candidate := f"{stem}~{number}{dot if suffix else ''}{suffix}") in taken:
        number += 1
    return candidate
