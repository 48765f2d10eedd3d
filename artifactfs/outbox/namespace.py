"""Where files of the outbox are opened, closed and removed.

Each entry that somebody has open has one `StagedFile`, whoever opens it. The desk knows them, hands
entries to the worker when their last writer has gone, and takes them back when they are changed,
renamed or removed.

After the last close an entry is left in peace for a moment (`UPLOAD_DELAY_S`) before it is
uploaded: a program that writes under one name and renames at once, or makes a file only to see
whether it can, has done so by then, and its file is uploaded once, under its name, or never.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol

from artifactfs.errors import ArtifactfsError, DropError
from artifactfs.outbox.directories import OutboxDirectories
from artifactfs.outbox.entry_store import EntryStore, refuse
from artifactfs.outbox.filenames import checked, parent_of
from artifactfs.outbox.hashing import KeptHashes
from artifactfs.outbox.open_file import OutboxHandle, StagedFile
from artifactfs.outbox.spool import SpoolSlot
from artifactfs.outbox.state import (
    EntryState,
    OutboxDirectory,
    OutboxEntry,
)

UPLOAD_DELAY_S = 0.1

_log = logging.getLogger(__name__)


class UploadQueueControl(Protocol):
    """The worker, as the desk sees it."""

    def offer(self, entry: OutboxEntry, delay_s: float = 0.0) -> None: ...
    def withdraw(self, entry_id: int) -> None: ...


class Namespace:
    """Opens and closes. `_open` is guarded by the book's `changing`.

    Whoever holds a file's own lock may take `changing`, never the other way round.
    """

    def __init__(
        self,
        book: EntryStore,
        folders: OutboxDirectories,
        line: UploadQueueControl,
        hashes: KeptHashes,
        *,
        followers: Executor,
        settle: Callable[[int], None],
        was_killed: Callable[[int], bool],
        quiet_s: float,
        sync: bool,
    ) -> None:
        self._book = book
        self._folders = folders
        self._line = line
        self._hashes = hashes
        self.followers = followers
        self.settle = settle
        self.was_killed = was_killed
        self.waits_at_close = sync
        self._quiet_s = quiet_s
        self._open: dict[int, StagedFile] = {}

    # Opening

    def create(self, path: str, mode: int, *, exclusive: bool) -> OutboxHandle:
        """Make and open a file. Raises `OSError` as a local file system does."""
        checked(path)
        book = self._book
        with book.changing:
            book.folder(parent_of(path))
            found = book.view.find(path)
            if isinstance(found, OutboxDirectory):
                refuse(errno.EISDIR)
            if found is None:
                file = self._create(path, mode)
            elif exclusive:
                refuse(errno.EEXIST)
        if found is not None:
            return self.open(path, os.O_RDWR | os.O_TRUNC)
        book.told(path)
        return file

    def _create(self, path: str, mode: int) -> OutboxHandle:
        book = self._book
        if book.has_ended:
            raise DropError("the mount has ended", remedy="mount again")
        book.space.reserve(0)
        now_ns = time.time_ns()
        entry = OutboxEntry(
            0, path, EntryState.WRITING, 0, mode & 0o7777, now_ns, now_ns, file=SpoolSlot.new_file()
        )
        spooled = StagedFile(self, entry, book.slot.path(entry.file), fresh=True)
        try:
            book.slot.remember_path(entry.file, path)
            spooled.entry = entry = book.add(entry)
        except BaseException:
            spooled.close()
            book.slot.path(entry.file).unlink(missing_ok=True)
            raise
        self._open[entry.id] = spooled
        book.view.set_live(entry.id, spooled)
        self._folders.use(path)
        return OutboxHandle(self, spooled, os.O_RDWR).opened()

    def open(self, path: str, flags: int) -> OutboxHandle:
        """Open a file that is there. `flags` are those of open(2).

        O_TRUNC without writing empties the file, as on Linux: a change and a close of its own.
        """
        book = self._book
        if flags & os.O_TRUNC and not flags & (os.O_WRONLY | os.O_RDWR):
            self.change(path, mode=None, mtime_ns=None, size_bytes=0)
        with book.changing:
            entry = book.entry(path)
            spooled = self._open.get(entry.id)
            if spooled is None:
                spooled = StagedFile(self, entry, book.slot.path(entry.file), fresh=False)
                self._open[entry.id] = spooled
                book.view.set_live(entry.id, spooled)
            file = OutboxHandle(self, spooled, flags).opened()
        if flags & os.O_TRUNC and flags & (os.O_WRONLY | os.O_RDWR):
            try:
                file.truncate(0)
                file.forget_writer()
            except BaseException:
                file.release()
                raise
        return file

    # What open files ask for

    def reserve(self, size_bytes: int) -> None:
        """Room for that many more bytes, or fewer. Raises `SpoolFull`."""
        self._book.space.reserve(size_bytes)

    def current(self, entry_id: int) -> OutboxEntry | None:
        """The entry as it is now, if it has a name."""
        return self._book.view.by_id(entry_id)

    def begin_writing(self, entry_id: int) -> OutboxEntry:
        """An entry is about to be changed: older work on it does not count any more.

        Its bytes may change once the row is on the disk (`reach_disk`). Raises `OSError`,
        `DropError`.
        """
        book = self._book
        with book.changing:
            self._line.withdraw(entry_id)
            self._hashes.drop(entry_id)
            row = book.view.stored(entry_id)
            if row is None:
                return self._open[entry_id].entry
            changed = book.move(
                row,
                EntryState.WRITING,
                generation=row.generation + 1,
                closed=False,
                tried=False,
                sha256=None,
                error=None,
                artifact_id=None,
            )
            if changed is None:
                raise DropError("the mount has ended", remedy="mount again")
            book.view.set_progress(entry_id, None)
        book.told(changed.path)
        return changed

    def note_missing(self, entry_id: int, missing: str) -> None:
        """A change has failed and left these ranges. What cannot be written is at the close."""
        with contextlib.suppress(OSError, DropError):
            self._book.set_missing(entry_id, missing)

    def count_as_whole(self, entry_id: int) -> None:
        """The user says that an entry is as it should be, whatever is missing of it."""
        with self._book.changing:
            spooled = self._open.get(entry_id)
        if spooled is not None:
            spooled.forget_missing()

    def closed(self, shown: OutboxEntry, why_not: str | None, *, fresh: bool) -> None:
        """The bytes are on the disk: have the name and the row there, too."""
        book = self._book
        with book.changing:
            row = book.view.stored(shown.id)
            if row is None or row.state not in (EntryState.WRITING, EntryState.INTERRUPTED):
                return
            if book.has_ended:
                raise DropError("the mount has ended", remedy="mount again")
            book.move(
                row,
                EntryState.INTERRUPTED if why_not else EntryState.WRITING,
                closed=why_not is None,
                closed_at=time.time(),
                turn=book.next_turn(),
                size_bytes=shown.size_bytes,
                mtime_ns=shown.mtime_ns,
                sha256=shown.sha256,
                error=why_not,
                missing=shown.missing,
            )
        if fresh:
            book.slot.names_reach_disk()
        book.settle_rows()
        if why_not:
            _log.warning("%s is not uploaded: %s", row.path, why_not)
            book.told(row.path)

    def reach_disk(self, *, names: bool) -> None:
        """Return when all rows written before are on the disk, and `names` of files too.

        Waits for the disk only. Raises `OSError`, `DropError`.
        """
        if names:
            self._book.slot.names_reach_disk()
        self._book.settle_rows()

    def released(self, spooled: StagedFile, *, still_open: int = 0) -> None:
        """A writer is gone: after the last one, what was closed is queued. Never fails.

        `still_open` is 1 for a writer that is about to go and waits for the upload before that.
        """
        try:
            resting = spooled.rest()
        except (OSError, ArtifactfsError):
            _log.exception("%s could not be brought to the disk", spooled.entry.path)
            return
        book = self._book
        with book.changing:
            row = book.view.stored(spooled.entry.id)
            if row is None or row.state is not EntryState.WRITING or not row.closed:
                if resting is not None:
                    resting.close()
                return
            if spooled.writers > still_open:
                return
            if resting is not None and row.sha256 is None:
                self._hashes.keep(row.id, row.generation, resting)
            queued = book.move(row, EntryState.QUEUED)
            if queued is None:
                return
            self._offer(queued)
        book.told(queued.path)

    def _offer(self, entry: OutboxEntry) -> None:
        if entry.state is EntryState.QUEUED and not entry.waits_for_name:
            self._line.offer(entry, self._quiet_s)

    def let_go(self, spooled: StagedFile) -> None:
        """An opening is over; after the last one the file is closed, and goes if it has no name."""
        book = self._book
        with book.changing:
            if spooled.opens:
                return
            entry = spooled.entry
            self._open.pop(entry.id, None)
            book.view.set_live(entry.id, None)
            spooled.close()
            if not book.has_ended and book.view.stored(entry.id) is None:
                book.discard([dataclasses.replace(entry, size_bytes=spooled.size_bytes)])

    # Names and times

    def unlink(self, path: str) -> None:
        """Remove a file; what is not uploaded yet is withdrawn."""
        book = self._book
        with book.changing:
            entry = book.entry(path)
            self.stop(entry.id)
            book.take_names([entry])
            self.discard_if_closed(entry)
        book.told(path)
        book.settle_rows()

    def leave(self, lingered: Sequence[tuple[int, int]]) -> None:
        """Uploaded entries, by id and generation, have been here for long enough."""
        book = self._book
        with book.changing:
            found = [(book.view.stored(number), generation) for number, generation in lingered]
            gone = [
                entry
                for entry, generation in found
                if entry is not None
                and entry.state is EntryState.UPLOADED
                and entry.generation == generation
                and entry.id not in self._open
            ]
            with book.journal.together():
                book.take_names(gone)
                book.discard(gone)
        for entry in gone:
            book.told(entry.path)

    def withdraw(self, entry_id: int) -> None:
        """Nobody uploads an entry under its present name any more. `changing` is held."""
        self._line.withdraw(entry_id)

    def stop(self, entry_id: int) -> None:
        """Nobody uploads an entry any more. `changing` is held."""
        self._line.withdraw(entry_id)
        self._hashes.drop(entry_id)

    def discard_if_closed(self, entry: OutboxEntry) -> None:
        """The file of an entry that has lost its name goes, unless somebody has it open.

        `changing` is held.
        """
        if entry.id not in self._open:
            self._book.discard([entry])

    def renamed(self, entry: OutboxEntry) -> None:
        """An entry has another name now. `changing` is held."""
        spooled = self._open.get(entry.id)
        if spooled is not None:
            spooled.entry = dataclasses.replace(
                spooled.entry, path=entry.path, state=entry.state, generation=entry.generation
            )
        self._offer(entry)

    def change(
        self, path: str, *, mode: int | None, mtime_ns: int | None, size_bytes: int | None
    ) -> None:
        """chmod(2), utimens(2), truncate(2) by path."""
        if size_bytes is not None:
            file = self.open(path, os.O_WRONLY)
            try:
                file.truncate(size_bytes)
                file.forget_writer()
                file.close_alone()
            finally:
                file.release()
        if mode is None and mtime_ns is None:
            return
        book = self._book
        with book.changing:
            found = book.view.find(path)
            if found is None:
                refuse(errno.ENOENT)
            changed = dataclasses.replace(
                found,
                mode=found.mode if mode is None else mode & 0o7777,
                mtime_ns=found.mtime_ns if mtime_ns is None else mtime_ns,
                ctime_ns=time.time_ns(),
            )
            if isinstance(changed, OutboxDirectory):
                if changed.path:
                    book.journal.save_folder(changed)
                    book.view.put_folder(changed)
                return
            spooled = self._open.get(changed.id)
            if spooled is not None and mtime_ns is not None:
                spooled.set_mtime(mtime_ns)
            book.set_times(changed)
