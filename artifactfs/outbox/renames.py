"""rename(2): of files, over files, and of whole directories.

A name is what an artifact is called, so a rename of what is under way, or on the service already,
queues it again under the new name: with the bytes there, that sends nothing. What waited because of
a temporary name goes now. Renames are on the disk when they are answered: whoever writes under a
temporary name counts on the rename as others do on the close.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import time
from collections.abc import Iterator, Sequence

from artifactfs.outbox.directories import OutboxDirectories
from artifactfs.outbox.entry_store import EntryStore, refuse
from artifactfs.outbox.filenames import (
    checked,
    lies_below,
    parent_of,
)
from artifactfs.outbox.namespace import Namespace
from artifactfs.outbox.state import (
    IN_FLIGHT,
    EntryState,
    OutboxDirectory,
    OutboxEntry,
)

RENAME_NOREPLACE = 1
_UNDER_ITS_NAME = frozenset({*IN_FLIGHT, EntryState.UPLOADED})


class Renames:
    """Stateless: all state is the book's and the desk's."""

    def __init__(self, book: EntryStore, folders: OutboxDirectories, desk: Namespace) -> None:
        self._book = book
        self._folders = folders
        self._desk = desk

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """renameat2(2). Raises `OSError` as a local file system does."""
        if flags & ~RENAME_NOREPLACE:
            refuse(errno.EINVAL)
        checked(new)
        book = self._book
        with book.changing:
            found, target = book.view.find(old), book.view.find(new)
            if found is None:
                refuse(errno.ENOENT)
            book.folder(parent_of(new))
            if old == new:
                return
            if target is not None and flags & RENAME_NOREPLACE:
                refuse(errno.EEXIST)
            if isinstance(found, OutboxDirectory):
                self._rename_folder(found, target, new)
            else:
                self._rename_entry(found, target, new)
        book.told(old)
        book.told(new)
        book.settle_rows()

    def _rename_entry(
        self, entry: OutboxEntry, target: OutboxEntry | OutboxDirectory | None, new: str
    ) -> None:
        if isinstance(target, OutboxDirectory):
            refuse(errno.EISDIR)
        if target is not None:
            self._desk.stop(target.id)
        with self._in_one([entry]):
            row = self._write_down(entry, new, target)
        self._show(entry, row, new)
        if target is not None:
            self._desk.discard_if_closed(target)
        self._folders.use(new)

    @contextlib.contextmanager
    def _in_one(self, entries: Sequence[OutboxEntry]) -> Iterator[None]:
        """All of it in the journal, or nothing; then what was withdrawn goes as it was."""
        try:
            with self._book.journal.together():
                yield
        except BaseException:
            for entry in entries:
                self._desk.renamed(entry)
            raise

    def _write_down(
        self, entry: OutboxEntry, new: str, target: OutboxEntry | None = None
    ) -> OutboxEntry:
        """An entry's new name in the journal; what was under its old one is queued again."""
        book = self._book
        self._desk.withdraw(entry.id)
        row = book.view.stored(entry.id)
        assert row is not None
        if row.state in _UNDER_ITS_NAME:
            moved = book.journal.move(
                row,
                EntryState.QUEUED,
                generation=row.generation + 1,
                artifact_id=None,
                tried=False,
                closed_at=time.time(),
                turn=book.next_turn(),
            )
            assert moved is not None
            row = moved
        book.journal.rename([(row.id, new)], (), None if target is None else target.id)
        return row

    def _show(self, entry: OutboxEntry, row: OutboxEntry, new: str) -> None:
        """The same for everyone who looks, and for the worker."""
        self._book.slot.remember_path(row.file, new)
        renamed = dataclasses.replace(row, path=new, progress=0.0)
        self._desk.renamed(self._book.view.rename(entry.path, renamed))

    def _rename_folder(
        self, folder: OutboxDirectory, target: OutboxEntry | OutboxDirectory | None, new: str
    ) -> None:
        book = self._book
        if not folder.path:
            refuse(errno.EBUSY)
        if lies_below(new, folder.path):
            refuse(errno.EINVAL)
        if isinstance(target, OutboxEntry):
            refuse(errno.ENOTDIR)
        if target is not None and not book.view.is_empty(new):
            refuse(errno.ENOTEMPTY)
        entries, folders = book.view.below(folder.path)
        renamed = sorted([folder, *folders], key=lambda each: len(each.path))

        def moved(path: str) -> str:
            return new + path[len(folder.path) :]

        with self._in_one(entries):
            if target is not None:
                book.journal.remove_folder(target.id)
            book.journal.rename([], [(one.id, moved(one.path)) for one in renamed])
            rows = [self._write_down(entry, moved(entry.path)) for entry in entries]
        if target is not None:
            book.view.drop(new)
        for one in renamed:
            book.view.put_folder(dataclasses.replace(one, path=moved(one.path)))
        for entry, row in zip(entries, rows, strict=True):
            self._show(entry, row, moved(entry.path))
        for one in reversed(renamed):
            book.view.drop(one.path)
        self._folders.use(new)
