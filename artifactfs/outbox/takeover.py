"""Moves the entries of a slot that nobody works in into one's own.

A file is linked into the own slot under the same name, which is unlike any other; then its row is
written there; only then the other slot forgets it. A crash in between leaves the file in both, and
the next start finds by its name that it is here already: it is never taken over twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os

from artifactfs.outbox.file_copy import link_or_copy
from artifactfs.outbox.journal import Journal
from artifactfs.outbox.spool import SpoolSlot
from artifactfs.outbox.state import EntryState, OutboxEntry

_log = logging.getLogger(__name__)


class FreeNames:
    """Paths that nothing in a journal has, whatever was asked for."""

    def __init__(self, journal: Journal) -> None:
        self._taken = {entry.path for entry in journal.entries()}
        self._taken |= {folder.path for folder in journal.folders()}

    def claim(self, path: str) -> str:
        """`path`, or ``stem~2.ext`` and so on if it is taken."""
        stem, dot, suffix = path.rpartition(".")
        if not dot or "/" in suffix or not stem or stem.endswith("/"):
            stem, suffix = path, ""
        candidate, number = path, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{stem}~{number}{dot if suffix else ''}{suffix}"
        self._taken.add(candidate)
        return candidate


def take_over(slot: SpoolSlot, journal: Journal, other: SpoolSlot, left: Journal) -> None:
    """Move all that `other` has, which is in order, into `slot`. Raises `OSError`, `DropError`."""
    entries = [one for one in left.entries() if one.state is not EntryState.UPLOADED]
    here = {entry.file for entry in journal.entries()}
    missing = [entry for entry in entries if _name_here(other, entry) not in here]
    for entry in missing:
        with contextlib.suppress(FileNotFoundError):
            link_or_copy(other.path(entry.file), slot.path(_name_here(other, entry)))
    if missing:
        slot.names_reach_disk()
    with journal.together():
        folders = {folder.path for folder in journal.folders()}
        for folder in left.folders():
            if folder.path not in folders:
                journal.add_folder(dataclasses.replace(folder, fresh=False))
        free, turn = FreeNames(journal), journal.last_turn()
        for entry in missing:
            turn += 1
            path, file = free.claim(entry.path), _name_here(other, entry)
            journal.add(dataclasses.replace(entry, path=path, file=file, turn=turn))
    journal.reach_disk()
    with left.together():
        left.remove([entry.id for entry in left.entries()])
        for folder in left.folders():
            left.remove_folder(folder.id)
    left.reach_disk()
    for emptied in other.files.iterdir():
        emptied.unlink()
    if missing:
        _log.info("%d files were taken over from %s", len(missing), other.directory)


def _name_here(other: SpoolSlot, entry: OutboxEntry) -> str:
    """The name of an entry's file in the own slot.

    Journals of version 1 numbered their files, each slot from 1 on; those get a name that is made
    of where they were, and so is the same whenever this is asked.
    """
    if not entry.file.isdigit():
        return entry.file
    return hashlib.sha256(os.fsencode(other.path(entry.file))).hexdigest()[:20]
