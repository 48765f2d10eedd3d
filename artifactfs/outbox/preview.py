"""What a spool holds, read without writing to its disk.

A disk that is full or write-protected does not let a journal be opened: SQLite wants to write its
log, and the start puts the rows in order. So the journals are copied to memory (``/dev/shm``) or
the directory for temporary files, and the copies are read. `Outbox` shows what they say until the
spool can be opened. Nothing here raises: what cannot be read is not shown.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from artifactfs.errors import DropError
from artifactfs.outbox.filenames import above
from artifactfs.outbox.journal import Journal
from artifactfs.outbox.spool import free_slots, service_directory
from artifactfs.outbox.state import OutboxDirectory, OutboxEntry

_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of its own is made in there

_log = logging.getLogger(__name__)


def preview(spool: Path, origin: str) -> tuple[list[OutboxDirectory], list[OutboxEntry]]:
    """The folders and entries of every slot of a service that no process works in."""
    folders: dict[str, OutboxDirectory] = {}
    entries: dict[str, OutboxEntry] = {}
    for slot in free_slots(service_directory(spool, origin)):
        found_folders, found_entries = _read(slot)
        for folder in found_folders:
            folders.setdefault(folder.path, folder)
        for entry in found_entries:
            entries.setdefault(entry.path, entry)
    number = min((folder.id for folder in folders.values()), default=0)
    for path in [path for entry in entries.values() for path in above(entry.path)]:
        if path not in folders:
            number = min(number, 0) - 1  # unlike any that a journal gives
            folders[path] = OutboxDirectory(number, path, 0o755, 0, 0)
    kept = [entry for path, entry in entries.items() if path not in folders]
    return sorted(folders.values(), key=lambda one: len(one.path)), kept


def _read(slot: Path) -> tuple[list[OutboxDirectory], list[OutboxEntry]]:
    for base in (_MEMORY, None):
        with contextlib.suppress(OSError):
            copies = Path(tempfile.mkdtemp(prefix="artifactfs-", dir=base))
            try:
                return _read_copy(slot, copies)
            finally:
                shutil.rmtree(copies, ignore_errors=True)
    return [], []


def _read_copy(slot: Path, copies: Path) -> tuple[list[OutboxDirectory], list[OutboxEntry]]:
    for name in ("journal.sqlite", "journal.sqlite-wal"):
        source = slot / name
        if source.exists():
            shutil.copyfile(source, copies / name)
    if not os.listdir(copies):  # noqa: PTH208
        return [], []
    try:
        journal = Journal(copies / "journal.sqlite")
        try:
            return journal.folders(), journal.entries()
        finally:
            journal.abandon()
    except DropError as error:
        _log.debug("the journal in %s cannot be read: %s", slot, error)
        return [], []
