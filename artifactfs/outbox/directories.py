"""Directories of the outbox: made, removed, and gone by themselves when their entries have left."""

from __future__ import annotations

import dataclasses
import errno
import time

from artifactfs.outbox.entry_store import EntryStore, refuse
from artifactfs.outbox.filenames import checked, parent_of
from artifactfs.outbox.state import OutboxDirectory


class OutboxDirectories:
    """mkdir(2) and rmdir(2). Stateless: all state is the book's."""

    def __init__(self, book: EntryStore) -> None:
        self._book = book

    def make(self, path: str, mode: int) -> OutboxDirectory:
        """mkdir(2)."""
        checked(path)
        with self._book.changing:
            self._book.folder(parent_of(path))
            if self._book.view.find(path) is not None:
                refuse(errno.EEXIST)
            self.use(path)
            folder = self.add(path, mode & 0o7777, fresh=True)
        self._book.told(path)
        return folder

    def add(self, path: str, mode: int = 0o755, *, fresh: bool = False) -> OutboxDirectory:
        """One more directory, whatever is there. `changing` is held, but at the start."""
        now_ns = time.time_ns()
        folder = self._book.journal.add_folder(
            OutboxDirectory(0, path, mode, now_ns, now_ns, fresh)
        )
        self._book.view.put_folder(folder)
        return folder

    def remove(self, path: str) -> None:
        """rmdir(2)."""
        with self._book.changing:
            found = self._book.folder(path)
            if not path:
                refuse(errno.EBUSY)
            if not self._book.view.is_empty(path):
                refuse(errno.ENOTEMPTY)
            self._book.journal.remove_folder(found.id)
            self._book.view.drop(path)
        self._book.told(path)

    def use(self, path: str) -> None:
        """The folders above have had something in them: they leave when that has left.

        `changing` is held.
        """
        for folder in self._book.view.folders_above(path):
            if folder.fresh:
                used = dataclasses.replace(folder, fresh=False)
                self._book.journal.save_folder(used)
                self._book.view.put_folder(used)
