"""Tidies up from time to time: what has lingered, empty directories, uploads nobody wants."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from artifactfs.outbox.directories import OutboxDirectories
from artifactfs.outbox.entry_store import EntryStore
from artifactfs.outbox.multipart import Multipart
from artifactfs.outbox.namespace import Namespace

SWEEP_S = 0.5
EMPTY_FOLDER_S = 3.0
ABANDON_S = 30.0

_log = logging.getLogger(__name__)


class LingerSweeper:
    """One thread, from `start` to `close`."""

    def __init__(
        self,
        book: EntryStore,
        desk: Namespace,
        folders: OutboxDirectories,
        multipart: Multipart,
        linger_s: float,
    ) -> None:
        self._book = book
        self._desk = desk
        self._folders = folders
        self._multipart = multipart
        self._linger_s = linger_s
        self._ended = threading.Event()
        self._abandon_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="drop", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._ended.wait(SWEEP_S):
            try:
                self._desk.leave(self._book.journal.uploaded_before(time.time() - self._linger_s))
                self._remove_empty_folders()
                self._abandon_uploads()
            except Exception:  # noqa: BLE001 - without its sweeper drop/ would fill up
                if not self._ended.is_set():
                    _log.exception("drop/ could not be swept")

    def _remove_empty_folders(self) -> None:
        quiet_s = max(self._linger_s, EMPTY_FOLDER_S)
        before_ns = time.time_ns() - int(quiet_s * 1e9)
        for folder in self._book.view.empty_folders(before_ns):
            with contextlib.suppress(OSError):
                self._folders.remove(folder.path)

    def _abandon_uploads(self) -> None:
        """Give up the multipart uploads of what was overwritten, renamed or removed."""
        if time.monotonic() < self._abandon_at_s:
            return
        for upload_id in self._book.journal.abandoned():
            if self._ended.is_set() or not self._multipart.abandon(upload_id):
                self._abandon_at_s = time.monotonic() + ABANDON_S
                return
            self._book.journal.end_multipart(upload_id)
