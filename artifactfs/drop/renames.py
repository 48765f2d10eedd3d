"""rename(2): of files, over files, and of whole directories.

A name is what an artifact is called, so a rename of what is under way, or on the service already,
queues it again under the new name: with the bytes there, that sends nothing. What waited because of
a temporary name goes now. Renames are on the disk when they are answered: whoever writes under a
temporary name counts on the rename as others do on the close.
"""

from __future__ import annotations

import dataclasses
import errno

from artifactfs.drop.book import Book, refuse
from artifactfs.drop.desk import Desk
from artifactfs.drop.folders import Folders
from artifactfs.drop.names import checked, lies_below, parent_of
from artifactfs.drop.states import IN_FLIGHT, Entry, Folder, State

RENAME_NOREPLACE = 1
_UNDER_ITS_NAME = frozenset({*IN_FLIGHT, State.UPLOADED})


class Renames:
    """Stateless: all state is the book's and the desk's."""

    def __init__(self, book: Book, folders: Folders, desk: Desk) -> None:
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
            if isinstance(found, Folder):
                self._rename_folder(found, target, new)
            else:
                self._rename_entry(found, target, new)
        book.told(old)
        book.told(new)
        book.settle_rows()

    def _rename_entry(self, entry: Entry, target: Entry | Folder | None, new: str) -> None:
        if isinstance(target, Folder):
            refuse(errno.EISDIR)
        if target is not None:
            self._desk.stop(target.id)
        self._move(entry, new, target)
        if target is not None:
            self._desk.discard_if_closed(target)
        self._folders.use(new)

    def _move(self, entry: Entry, new: str, target: Entry | None = None) -> None:
        """Give an entry its new name, in the journal and for everyone who looks."""
        book = self._book
        self._desk.withdraw(entry.id)
        row = book.view.stored(entry.id)
        assert row is not None
        with book.journal.together():
            if row.state in _UNDER_ITS_NAME:
                moved = book.journal.move(
                    row,
                    State.QUEUED,
                    generation=row.generation + 1,
                    artifact_id=None,
                    turn=book.next_turn(),
                )
                assert moved is not None
                row = moved
            book.journal.rename([(row.id, new)], (), None if target is None else target.id)
        book.slot.remember_path(row.file, new)
        renamed = book.view.rename(entry.path, dataclasses.replace(row, path=new, progress=0.0))
        self._desk.renamed(renamed)

    def _rename_folder(self, folder: Folder, target: Entry | Folder | None, new: str) -> None:
        book = self._book
        if not folder.path:
            refuse(errno.EBUSY)
        if lies_below(new, folder.path):
            refuse(errno.EINVAL)
        if isinstance(target, Entry):
            refuse(errno.ENOTDIR)
        if target is not None and not book.view.is_empty(new):
            refuse(errno.ENOTEMPTY)
        entries, folders = book.view.below(folder.path)
        cut = len(folder.path)
        with book.journal.together():
            if target is not None:
                book.journal.remove_folder(target.id)
                book.view.drop(new)
            renamed = sorted([folder, *folders], key=lambda each: len(each.path))
            book.journal.rename([], [(one.id, new + one.path[cut:]) for one in renamed])
            for one in renamed:
                book.view.put_folder(dataclasses.replace(one, path=new + one.path[cut:]))
            for entry in entries:
                self._move(entry, new + entry.path[cut:])
        for one in reversed(renamed):
            book.view.drop(one.path)
        self._folders.use(new)
