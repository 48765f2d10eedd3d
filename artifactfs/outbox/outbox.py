"""The outbox: what is closed here is on the service, or on its way, or says why not.

This is where its rooms are put together, and what the tree sees of them.

    Book      journal, view and files in step: every change goes through it
    Desk      opening, closing, removing        Renames, Folders   names
    Worker    the threads that upload           Dispatch           what they know of the book
    Waiting   flush, fsync, unmount             Sweeper            what has lingered

Locks, outermost first: a file's own (``open_file``), the book's `changing`, then the worker's, the
view's and the hashes' own, of which nobody holds two.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from artifactfs import caller
from artifactfs.clock import SYSTEM_CLOCK, Clock
from artifactfs.config import (
    DropConfig,
    SpoolConfig,
    UploadConfig,
)
from artifactfs.errors import NotUploaded, TimedOut
from artifactfs.model import Artifact
from artifactfs.outbox.directories import OutboxDirectories
from artifactfs.outbox.entry_store import EntryStore
from artifactfs.outbox.entry_view import EntryView, OutboxTally
from artifactfs.outbox.hashing import KeptHashes
from artifactfs.outbox.journal import Journal
from artifactfs.outbox.linger import LingerSweeper
from artifactfs.outbox.namespace import UPLOAD_DELAY_S, Namespace
from artifactfs.outbox.open_file import OutboxHandle
from artifactfs.outbox.preview import preview
from artifactfs.outbox.recovery import recover
from artifactfs.outbox.renames import Renames
from artifactfs.outbox.spool import (
    DISK_ERRORS,
    SpoolSlot,
    claim,
)
from artifactfs.outbox.spool_quota import SpoolQuota
from artifactfs.outbox.state import (
    EntryState,
    OutboxDirectory,
    OutboxEntry,
)
from artifactfs.outbox.upload_dispatch import Dispatch
from artifactfs.outbox.upload_log import UploadLog
from artifactfs.outbox.upload_waits import UploadWaits
from artifactfs.outbox.upload_worker import UploadWorker
from artifactfs.outbox.uploader import Uploader
from artifactfs.outbox.uploads_interface import UploadCalls

SYNC_S = 3600.0
_JOIN_S = 5.0
_FOLLOWERS = 2
OPEN_AGAIN_S = 1.0
_MAKE_ROOM = "make room there, or set state.dir or spool.dir to another disk; it is tried again"
_CHECK_THE_DISK = "check the disk, or set state.dir or spool.dir to another; it is tried again"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EROFS: "remount it for writing, or set state.dir or spool.dir to another disk",
}

_log = logging.getLogger(__name__)


def _recovered(slot: SpoolSlot, others: list[SpoolSlot]) -> Journal:
    journal = Journal(slot.journal_path)
    try:
        recover(slot, journal, others)
    except BaseException:
        journal.abandon()
        raise
    return journal


def _open_spool(directory: Path, origin: str) -> tuple[SpoolSlot, Journal]:
    """Claim a slot and take up what was left. Raises `OSError`, `DropError`; then none is held."""
    slot, others = claim(directory, origin)
    try:
        try:
            return slot, _recovered(slot, others)
        except OSError as error:
            if error.errno != errno.ENOSPC or not slot.drop_ballast():
                raise
            _log.warning("the disk of %s is full: what was kept back is used", slot.directory)
            return slot, _recovered(slot, others)
    except BaseException:
        for one in (slot, *others):
            one.close()
        raise


class Outbox:
    """One mount's outbox."""

    def __init__(
        self,
        directory: Path,
        uploads: UploadCalls,
        *,
        origin: str,
        upload: UploadConfig,
        drop: DropConfig,
        spool: SpoolConfig,
        known: Callable[[str], Artifact | None],
        on_uploaded: Callable[[Artifact, Path | None], None],
        audit: UploadLog | None = None,
        clock: Clock = SYSTEM_CLOCK,
        was_killed: Callable[[int], bool] = caller.was_killed,
        quiet_s: float = UPLOAD_DELAY_S,
    ) -> None:
        self._directory = directory
        self._origin = origin
        self._audit = audit
        self._view = EntryView(drop.temporary_names)
        self._waiting = UploadWaits(self._view)
        self._book = EntryStore(self._view, SpoolQuota(spool.max_size_bytes), self._told)
        self._followers = ThreadPoolExecutor(_FOLLOWERS, thread_name_prefix="hash")
        self._uploader = Uploader(uploads, upload, clock=clock)
        hashes = KeptHashes()
        dispatch = Dispatch(self._book, hashes, on_uploaded, audit, clock)
        self._worker = UploadWorker(dispatch, self._uploader, known, clock, upload.connections)
        self._folders = OutboxDirectories(self._book)
        self._desk = Namespace(
            self._book,
            self._folders,
            self._worker,
            hashes,
            followers=self._followers,
            settle=self._settle,
            was_killed=was_killed,
            quiet_s=0.0 if drop.sync else quiet_s,
            sync=drop.sync,
        )
        self._renames = Renames(self._book, self._folders, self._desk)
        self._sweeper = LingerSweeper(
            self._book, self._desk, self._folders, self._uploader.multipart, drop.linger_s
        )
        self._ended = threading.Event()
        self._trouble: OSError | None = None
        self._opener = threading.Thread(target=self._try_to_open, name="spool", daemon=True)

    def start(self) -> None:
        """Open the spool and start the threads. Raises `DropError`, `OSError`.

        A disk that is full, write-protected or failing keeps nothing from starting: `trouble` says
        so, what the journal holds is shown, changes are refused, and a thread tries again.
        """
        try:
            self._open()
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            self._trouble = error
            folders, entries = preview(self._directory, self._origin)
            self._view.clear()
            for folder in folders:
                self._view.put_folder(folder)
            self._view.load(entries)
            _log.warning("%s", self.trouble)
            self._opener.start()

    def _open(self) -> None:
        """Open the spool, show what its journal holds, and upload from it."""
        slot, journal = _open_spool(self._directory, self._origin)
        with self._book.changing:
            if self._ended.is_set():
                journal.abandon()
                slot.close()
                return
            slot.take_ballast()
            entries = self._book.start(slot, journal, self._folders.add)
            for entry in entries:
                if entry.state is EntryState.QUEUED and not entry.waits_for_name:
                    self._worker.offer(entry)
            self._worker.start()
            self._sweeper.start()
            self._trouble = None

    def _try_to_open(self) -> None:
        """Open the spool as soon as its disk takes something."""
        while self._trouble is not None and not self._ended.wait(OPEN_AGAIN_S):
            try:
                self._open()
            except OSError as error:
                self._trouble = error
            except Exception:  # noqa: BLE001 - another attempt may succeed
                _log.exception("the spool in %s cannot be opened", self._directory)
        if self._trouble is None:
            _log.info("the spool in %s can be written again", self._directory)
            self._told("")

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written or uploaded now, with the remedy; None if it can be.

        Does not block.
        """
        error = self._trouble
        if error is None:
            return None
        reason = os.strerror(error.errno) if error.errno else str(error)
        remedy = _REMEDIES.get(error.errno or 0, _CHECK_THE_DISK)
        return f"the spool in {self._directory} cannot be opened: {reason}; {remedy}"

    def _require_spool(self) -> None:
        """Raise what keeps the spool from being opened: `OSError` ENOSPC, EDQUOT, EROFS, EIO."""
        error = self._trouble
        if error is not None:
            raise OSError(error.errno, os.strerror(error.errno or errno.EIO), str(self._directory))

    def close(self, timeout_s: float = _JOIN_S) -> None:
        """Stop uploading and end the threads; what is left resumes at the next start."""
        self._ended.set()
        self._waiting.end()
        if self._opener.ident is not None:
            self._opener.join(timeout_s)
        self._worker.close(timeout_s)
        self._uploader.close()
        self._sweeper.close(timeout_s)
        self._followers.shutdown(wait=True, cancel_futures=True)
        self._book.end()
        if self._audit is not None:
            self._audit.close()

    # Looking

    @property
    def version(self) -> int:
        """Changes whenever a name comes or goes."""
        return self._view.version

    @property
    def revision(self) -> Hashable:
        """Changes whenever `entries` would tell anything else."""
        return self._view.revision

    @property
    def directory(self) -> Path:
        """Where the bytes are that are not uploaded yet."""
        return self._directory if self._trouble is not None else self._book.slot.directory

    def find(self, path: str) -> OutboxEntry | OutboxDirectory | None:
        """What is at `path`, relative to ``drop/``; "" is ``drop/`` itself. At once."""
        return self._view.find(path)

    def children(self, path: str) -> list[OutboxEntry | OutboxDirectory]:
        """What lies directly in a folder. At once."""
        return self._view.children(path)

    def entries(self) -> list[OutboxEntry]:
        """Every file. At once."""
        return self._view.entries()

    def tally(self) -> OutboxTally:
        """How many files are in which state. At once, however many there are."""
        return self._view.tally()

    def pending(self) -> tuple[int, int]:
        """How many files, and bytes, are safe here and on their way. At once."""
        tally = self._view.tally()
        return tally.pending_files, tally.pending_bytes

    # Files

    def create(self, path: str, mode: int, *, exclusive: bool = False) -> OutboxHandle:
        """Make and open a file. Raises `OSError` as a local file system does."""
        self._require_spool()
        return self._desk.create(path, mode, exclusive=exclusive)

    def open(self, path: str, flags: int) -> OutboxHandle:
        """Open a file that is there. `flags` are those of open(2)."""
        self._require_spool()
        return self._desk.open(path, flags)

    def change(
        self,
        path: str,
        *,
        mode: int | None = None,
        mtime_ns: int | None = None,
        size_bytes: int | None = None,
    ) -> None:
        """chmod(2), utimens(2), truncate(2) by path."""
        self._require_spool()
        self._desk.change(path, mode=mode, mtime_ns=mtime_ns, size_bytes=size_bytes)

    def unlink(self, path: str) -> None:
        """Remove a file; what is not uploaded yet is withdrawn."""
        self._require_spool()
        self._desk.unlink(path)

    def make_folder(self, path: str, mode: int) -> OutboxDirectory:
        """mkdir(2)."""
        self._require_spool()
        return self._folders.make(path, mode)

    def remove_folder(self, path: str) -> None:
        """rmdir(2)."""
        self._require_spool()
        self._folders.remove(path)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """renameat2(2); what is already uploaded under its old name is uploaded under the new."""
        self._require_spool()
        self._renames.rename(old, new, flags)

    def sync(self) -> None:
        """Return when every change that was made before is on the disk. Raises `OSError`."""
        if self._trouble is None:  # without a spool nothing was changed
            self._desk.reach_disk(names=True)

    # Waiting, and trying again

    def wait(self, path: str | None = None, timeout_s: float | None = None) -> list[OutboxEntry]:
        """Wait until nothing at or below `path` is on its way; see `UploadWaits.until_settled`."""
        return self._waiting.until_settled(path, timeout_s)

    def retry(self, path: str | None = None) -> int:
        """Queue what has failed or was interrupted, at or below `path`; how many that were."""
        self._require_spool()
        count = 0
        for entry in self._waiting.chosen(path):
            if entry.state in (EntryState.FAILED, EntryState.INTERRUPTED):
                changes: dict[str, Any] = {}
                if not entry.closed:  # the user says now that it is whole
                    changes["closed_at"] = time.time()
                    changes["missing"] = ""
                    self._desk.count_as_whole(entry.id)
                queued = self._book.move(entry, EntryState.QUEUED, error=None, **changes)
                if queued is not None:
                    count += 1
                    self._told(queued.path)
                    if not queued.waits_for_name:
                        self._worker.offer(queued)
        self._worker.forgive()
        return count

    def _settle(self, entry_id: int) -> None:
        """Wait until one entry is uploaded. Raises `NotUploaded`, `TimedOut`."""
        entry = self._waiting.for_entry(entry_id, SYNC_S)
        if entry is None or self._waiting.is_over:
            return
        if entry.state in (EntryState.FAILED, EntryState.INTERRUPTED):
            raise self._worker.last_error(entry) or NotUploaded(
                f"{entry.path} is {entry.state}: {entry.error}"
            )
        if entry.is_pending:
            raise TimedOut("the upload is still on its way", remedy="see `artifactfs status`")

    def _told(self, path: str) -> None:
        _ = path
        self._waiting.tell()
