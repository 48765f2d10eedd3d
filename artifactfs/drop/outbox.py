"""The outbox: what is closed here is on the service, or on its way, or says why not.

It keeps four things in step: the journal (the truth), the spool's files (the bytes), the view (what
everyone sees) and the workers (who upload). A change of names is made in the journal, then shown.
`_changing` makes changes happen one at a time; it is held over the journal's and the directory's
I/O, never over the network, and nobody who only looks takes it.

Workers take what is queued, one entry each, and move it through `states`. What passes (the service
is away, a token has expired, the storage is full) is tried again after a while that grows to a
minute, for ever; what the service refuses for good stays as `failed` with its words. A *sweeper*
removes what has lingered long enough, and directories that became empty.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from artifactfs.artifact import Artifact
from artifactfs.clock import SYSTEM_CLOCK, Clock
from artifactfs.config import DropConfig, SpoolConfig, UploadConfig
from artifactfs.drop import callers
from artifactfs.drop.files import OpenFile, Spooled
from artifactfs.drop.journal import Journal
from artifactfs.drop.names import above, checked, lies_below, parent_of
from artifactfs.drop.recovery import recover
from artifactfs.drop.spool import Slot, claim
from artifactfs.drop.states import PENDING, Entry, Folder, State
from artifactfs.drop.uploader import Uploader, Uploads
from artifactfs.drop.view import View
from artifactfs.drop.worker import Work, Worker
from artifactfs.errors import DropError, NotUploaded, SpoolFull, TimedOut

RENAME_NOREPLACE = 1
EMPTY_FOLDER_S = 3.0
SWEEP_S = 0.5
SYNC_S = 3600.0
_JOIN_S = 5.0

_log = logging.getLogger(__name__)


def _ignore(path: str) -> None:
    _ = path


class Outbox:
    """One mount's outbox.

    `_changing` guards the order of changes and `_open`, `_room` what the spool holds, `_settled`
    the waiting. Whoever holds a file's own lock may take `_changing`, never the other way round.
    """

    def __init__(
        self,
        directory: Path,
        uploads: Uploads,
        *,
        origin: str,
        upload: UploadConfig,
        drop: DropConfig,
        spool: SpoolConfig,
        known: Callable[[str], Artifact | None],
        on_uploaded: Callable[[Artifact, Path], None],
        on_change: Callable[[str], None] = _ignore,
        clock: Clock = SYSTEM_CLOCK,
        was_killed: Callable[[int], bool] = callers.was_killed,
    ) -> None:
        self._directory = directory
        self._origin = origin
        self._drop = drop
        self._max_size_bytes = spool.max_size_bytes
        self._on_change = on_change
        self._clock = clock
        self._was_killed = was_killed
        self._changing = threading.RLock()
        self._settled = threading.Condition()
        self._view = View(drop.temporary_names)
        self._open: dict[int, Spooled] = {}
        self._room = threading.Lock()
        self._used_bytes = 0
        self._uploader = Uploader(uploads, upload, clock=clock)
        self._worker = Worker(self, self._uploader, known, on_uploaded, clock, upload.connections)
        self._ended = threading.Event()
        self._closed = False
        self._sweeper = threading.Thread(target=self._sweep, name="drop", daemon=True)
        self._slot: Slot | None = None
        self._journal_or_none: Journal | None = None

    def start(self) -> None:
        """Claim a slot, take up what was left, and start the threads. Raises `DropError`."""
        slot, others = claim(self._directory, self._origin)
        self._slot = slot
        journal = self._journal_or_none = Journal(slot.journal_path)
        recover(slot, journal, others)
        for folder in journal.folders():
            self._view.put_folder(folder)
        for entry in journal.entries():
            for path in reversed(list(above(entry.path))):
                if self._view.find(path) is None:
                    self._add_folder(path, 0o755, fresh=False)
            self._view.put(entry)
            self._used_bytes += entry.size_bytes
        self._worker.start()
        self._sweeper.start()

    def close(self, timeout_s: float = _JOIN_S) -> None:
        """Stop uploading and end the threads; what is left resumes at the next start."""
        self._ended.set()
        self._worker.close(timeout_s)
        self._uploader.close()
        if self._sweeper.ident is not None:
            self._sweeper.join(timeout_s)
        with self._settled:
            self._settled.notify_all()
        with self._changing:
            self._closed = True
            if self._journal_or_none is not None:
                self._journal_or_none.close()
            if self._slot is not None:
                self._slot.close()

    @property
    def _journal(self) -> Journal:
        assert self._journal_or_none is not None, "the outbox was not started"
        return self._journal_or_none

    @property
    def _files(self) -> Slot:
        assert self._slot is not None, "the outbox was not started"
        return self._slot

    # Looking

    @property
    def version(self) -> int:
        """Changes whenever a name comes or goes."""
        return self._view.version

    def find(self, path: str) -> Entry | Folder | None:
        """What is at `path`, relative to ``drop/``; "" is ``drop/`` itself. At once."""
        return self._view.find(path)

    def children(self, path: str) -> list[Entry | Folder]:
        """What lies directly in a folder. At once."""
        return self._view.children(path)

    def entries(self) -> list[Entry]:
        """Every file. At once."""
        return self._view.entries()

    def pending(self) -> tuple[int, int]:
        """How many files, and bytes, are safe here and on their way. At once."""
        left = [entry for entry in self._view.entries() if _is_pending(entry)]
        return len(left), sum(entry.size_bytes for entry in left)

    # Files

    def create(self, path: str, mode: int, *, exclusive: bool = False) -> OpenFile:
        """Make and open a file. Raises `OSError` as a local file system does."""
        checked(path)
        with self._changing:
            self._need_folder(parent_of(path))
            found = self._view.find(path)
            if isinstance(found, Folder):
                _refuse(errno.EISDIR)
            if found is not None:
                if exclusive:
                    _refuse(errno.EEXIST)
                return self.open(path, os.O_RDWR | os.O_TRUNC)
            self.reserve(0)
            now_ns = time.time_ns()
            entry = Entry(0, path, State.WRITING, 0, mode & 0o7777, now_ns, now_ns)
            entry = dataclasses.replace(entry, id=self._journal.add(entry))
            try:
                spooled = Spooled(self, entry, self._files.path(entry.id), fresh=True)
            except OSError:
                self._journal.remove(entry.id)
                raise
            self._open[entry.id] = spooled
            self._view.set_live(entry.id, spooled)
            self._use_folders(path)
            self._view.put(entry)
            file = OpenFile(self, spooled, os.O_RDWR).opened()
        self._told(path)
        return file

    def open(self, path: str, flags: int) -> OpenFile:
        """Open a file that is there. `flags` are those of open(2)."""
        with self._changing:
            entry = self._entry(path)
            spooled = self._open.get(entry.id)
            if spooled is None:
                spooled = Spooled(self, entry, self._files.path(entry.id), fresh=False)
                self._open[entry.id] = spooled
                self._view.set_live(entry.id, spooled)
            file = OpenFile(self, spooled, flags).opened()
        if flags & os.O_TRUNC and flags & (os.O_WRONLY | os.O_RDWR):
            try:
                file.truncate(0)
            except BaseException:
                file.release()
                raise
        return file

    def _entry(self, path: str) -> Entry:
        found = self._view.find(path)
        if found is None:
            _refuse(errno.ENOENT)
        if isinstance(found, Folder):
            _refuse(errno.EISDIR)
        return found

    def change(
        self,
        path: str,
        *,
        mode: int | None = None,
        mtime_ns: int | None = None,
        size_bytes: int | None = None,
    ) -> None:
        """chmod(2), utimens(2), truncate(2) by path."""
        if size_bytes is not None:
            file = self.open(path, os.O_WRONLY)
            try:
                file.truncate(size_bytes)
                file.flush(0)
            finally:
                file.release()
        if mode is None and mtime_ns is None:
            return
        with self._changing:
            found = self._view.find(path)
            if found is None:
                _refuse(errno.ENOENT)
            changed = dataclasses.replace(
                found,
                mode=found.mode if mode is None else mode & 0o7777,
                mtime_ns=found.mtime_ns if mtime_ns is None else mtime_ns,
                ctime_ns=time.time_ns(),
            )
            if isinstance(changed, Folder):
                if changed.path:
                    self._journal.save_folder(changed)
                    self._view.put_folder(changed)
                return
            spooled = self._open.get(changed.id)
            if spooled is not None and mtime_ns is not None:
                spooled.set_mtime(mtime_ns)
            self._journal.set_times(changed)
            self._refresh(changed.id)

    def unlink(self, path: str) -> None:
        """Remove a file; what is not uploaded yet is withdrawn."""
        with self._changing:
            self._take_name(self._entry(path))
        self._told(path)

    def _take_name(self, entry: Entry) -> None:
        """Under `_changing`: an entry loses its name, and goes unless somebody has it open."""
        self._worker.cancel(entry.id)
        if entry.id in self._open:
            self._journal.unlink(entry.id)
            self._view.drop(entry.path)
            return
        self._journal.remove(entry.id)
        self._view.drop(entry.path)
        self._discard(entry)

    def _discard(self, entry: Entry) -> None:
        self._files.path(entry.id).unlink(missing_ok=True)
        self.reserve(-entry.size_bytes)

    # Folders

    def make_folder(self, path: str, mode: int) -> Folder:
        """mkdir(2)."""
        checked(path)
        with self._changing:
            self._need_folder(parent_of(path))
            if self._view.find(path) is not None:
                _refuse(errno.EEXIST)
            self._use_folders(path)
            folder = self._add_folder(path, mode & 0o7777, fresh=True)
        self._told(path)
        return folder

    def _add_folder(self, path: str, mode: int, *, fresh: bool) -> Folder:
        now_ns = time.time_ns()
        folder = Folder(0, path, mode, now_ns, now_ns, fresh)
        folder = dataclasses.replace(folder, id=self._journal.add_folder(folder))
        self._view.put_folder(folder)
        return folder

    def remove_folder(self, path: str) -> None:
        """rmdir(2)."""
        with self._changing:
            found = self._view.find(path)
            if found is None:
                _refuse(errno.ENOENT)
            if not isinstance(found, Folder):
                _refuse(errno.ENOTDIR)
            if not path:
                _refuse(errno.EBUSY)
            if not self._view.is_empty(path):
                _refuse(errno.ENOTEMPTY)
            self._journal.remove_folder(found.id)
            self._view.drop(path)
        self._told(path)

    def _need_folder(self, path: str) -> None:
        found = self._view.find(path)
        if found is None:
            _refuse(errno.ENOENT)
        if not isinstance(found, Folder):
            _refuse(errno.ENOTDIR)

    def _use_folders(self, path: str) -> None:
        """The folders above have had something in them: they leave when that has left."""
        for folder in self._view.folders_above(path):
            if folder.fresh:
                used = dataclasses.replace(folder, fresh=False)
                self._journal.save_folder(used)
                self._view.put_folder(used)

    # Renaming

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """renameat2(2); what is already uploaded under its old name is uploaded under the new."""
        if flags & ~RENAME_NOREPLACE:
            _refuse(errno.EINVAL)
        checked(new)
        with self._changing:
            found, target = self._view.find(old), self._view.find(new)
            if found is None:
                _refuse(errno.ENOENT)
            self._need_folder(parent_of(new))
            if old == new:
                return
            if target is not None and flags & RENAME_NOREPLACE:
                _refuse(errno.EEXIST)
            if isinstance(found, Folder):
                self._rename_folder(found, target, new)
            else:
                self._rename_entry(found, target, new)
        self._told(old)
        self._told(new)
        self._worker.wake()

    def _rename_entry(self, entry: Entry, target: Entry | Folder | None, new: str) -> None:
        if isinstance(target, Folder):
            _refuse(errno.EISDIR)
        if target is not None:
            self._worker.cancel(target.id)
        self._worker.cancel(entry.id)
        self._journal.rename([(entry.id, new)], [], target.id if target else None)
        if target is not None:
            self._view.drop(new)
            if target.id not in self._open:
                self._journal.remove(target.id)
                self._discard(target)
        self._renamed(entry, new)
        self._use_folders(new)

    def _renamed(self, entry: Entry, new: str) -> None:
        """Show an entry under its new name; what was on its way, or there, goes under that."""
        moved = dataclasses.replace(entry, path=new, progress=0.0)
        if entry.state in (State.HASHING, State.UPLOADING, State.UPLOADED):
            moved = dataclasses.replace(
                moved, state=State.QUEUED, generation=entry.generation + 1, artifact_id=None
            )
            self._journal.save(moved)
        self._view.drop(entry.path)
        self._view.put(moved)
        self._view.set_progress(entry.id, None)
        spooled = self._open.get(entry.id)
        if spooled is not None:
            spooled.entry = dataclasses.replace(
                spooled.entry, path=new, state=moved.state, generation=moved.generation
            )

    def _rename_folder(self, folder: Folder, target: Entry | Folder | None, new: str) -> None:
        if not folder.path:
            _refuse(errno.EBUSY)
        if lies_below(new, folder.path):
            _refuse(errno.EINVAL)
        if isinstance(target, Entry):
            _refuse(errno.ENOTDIR)
        if target is not None:
            if not self._view.is_empty(new):
                _refuse(errno.ENOTEMPTY)
            self._journal.remove_folder(target.id)
            self._view.drop(new)
        entries, folders = self._view.below(folder.path)
        cut = len(folder.path)
        self._journal.rename(
            [(one.id, new + one.path[cut:]) for one in entries],
            [(one.id, new + one.path[cut:]) for one in [folder, *folders]],
            None,
        )
        for one in sorted([folder, *folders], key=lambda each: len(each.path)):
            self._view.put_folder(dataclasses.replace(one, path=new + one.path[cut:]))
        for entry in entries:
            self._worker.cancel(entry.id)
            self._renamed(entry, new + entry.path[cut:])
        for one in sorted([folder, *folders], key=lambda each: -len(each.path)):
            self._view.drop(one.path)
        self._use_folders(new)

    # Waiting

    def wait(self, path: str | None = None, timeout_s: float | None = None) -> list[Entry]:
        """Wait until nothing at or below `path` is on its way.

        Returns what is not uploaded then: failed, interrupted, waiting for its name, still open,
        or, after the time-out, still on its way.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._settled:
            while True:
                chosen = self._chosen(path)
                if self._ended.is_set() or not any(_is_pending(entry) for entry in chosen):
                    break
                left_s = None if deadline_s is None else deadline_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    break
                self._settled.wait(min(1.0, left_s) if left_s is not None else 1.0)
        return [entry for entry in chosen if entry.state is not State.UPLOADED]

    def _chosen(self, path: str | None) -> list[Entry]:
        entries = self._view.entries()
        if not path:
            return entries
        return [one for one in entries if one.path == path or lies_below(one.path, path)]

    def retry(self, path: str | None = None) -> int:
        """Queue what has failed or was interrupted, at or below `path`; how many that were."""
        count = 0
        with self._changing:
            for entry in self._chosen(path):
                if entry.state in (State.FAILED, State.INTERRUPTED):
                    count += self._journal.move(entry, State.QUEUED)
                    self._refresh(entry.id)
        self._worker.forgive()
        return count

    # What open files and workers need

    @property
    def waits_at_close(self) -> bool:
        """Whether close(2) waits for the service (`drop.sync`)."""
        return self._drop.sync

    def was_killed(self, pid: int) -> bool:
        """Whether a signal is ending the process."""
        return self._was_killed(pid)

    def reserve(self, size_bytes: int) -> None:
        """Room for that many more bytes, or fewer. Raises `SpoolFull`.

        Some of the disk is spared for the journal, so that what was closed can still be written
        down, uploaded and removed when programs have filled the rest.
        """
        if size_bytes > 0 and self._files.left_bytes() < size_bytes:
            raise SpoolFull(f"the spool's disk is full: {self._files.directory}")
        with self._room:
            after_bytes = self._used_bytes + size_bytes
            if 0 < self._max_size_bytes < after_bytes and size_bytes >= 0:
                raise SpoolFull(f"the spool holds its {self._max_size_bytes} bytes")
            self._used_bytes = max(0, after_bytes)

    def sync_names(self) -> None:
        """Bring the names of the spool's files to the disk."""
        self._files.sync_files()

    def current(self, entry_id: int) -> Entry | None:
        """The entry as it is now, if it has a name."""
        return self._view.by_id(entry_id)

    def begin_writing(self, entry_id: int) -> Entry:
        """An entry is changed: older work on it does not count any more."""
        with self._changing:
            entry = self._view.by_id(entry_id)
            self._worker.cancel(entry_id)
            if entry is None:
                return self._open[entry_id].entry
            changed = dataclasses.replace(
                entry,
                state=State.WRITING,
                generation=entry.generation + 1,
                closed=False,
                sha256=None,
                error=None,
                artifact_id=None,
                progress=0.0,
            )
            self._journal.save(changed)
            self._view.put(changed)
            self._view.set_progress(entry_id, None)
        self._told(changed.path)
        return changed

    def closed(self, entry_id: int, shown: Entry, *, killed: bool) -> None:
        """The bytes are on the disk: the row says so, too."""
        with self._changing:
            entry = self._view.by_id(entry_id)
            if entry is None or entry.state not in (State.WRITING, State.INTERRUPTED):
                return
            if self._closed:
                raise DropError("the mount has ended", remedy="mount again")
            changed = dataclasses.replace(
                entry,
                state=State.INTERRUPTED if killed else State.WRITING,
                closed=not killed,
                size_bytes=shown.size_bytes,
                mtime_ns=shown.mtime_ns,
                sha256=shown.sha256,
                error="its writer was killed before it closed the file" if killed else None,
            )
            self._journal.save(changed)
            self._view.put(changed)
        if killed:
            _log.warning("%s: its writer was killed; it is not uploaded", shown.path)
            self._told(shown.path)

    def written(self, entry_id: int) -> None:
        """The last writer is gone: what was closed is queued."""
        with self._changing:
            entry = self._view.by_id(entry_id)
            spooled = self._open.get(entry_id)
            busy = spooled is not None and spooled.writers and not self._drop.sync
            if entry is None or entry.state is not State.WRITING or not entry.closed or busy:
                return
            if self._closed:
                return
            self._journal.move(entry, State.QUEUED)
            self._refresh(entry_id)
        self._told(entry.path)
        self._worker.wake()

    def let_go(self, spooled: Spooled) -> None:
        """An opening is over; after the last one the file is closed, and goes if it has no name."""
        with self._changing:
            if spooled.opens:
                return
            entry_id = spooled.entry.id
            self._open.pop(entry_id, None)
            self._view.set_live(entry_id, None)
            spooled.close()
            if self._closed:
                return
            if self._view.by_id(entry_id) is None:
                self._journal.remove(entry_id)
                self._discard(dataclasses.replace(spooled.entry, size_bytes=spooled.size_bytes))

    def settle(self, entry_id: int) -> None:
        """Wait until one entry is uploaded. Raises `NotUploaded`, `TimedOut`."""
        deadline_s = time.monotonic() + SYNC_S
        with self._settled:
            while not self._ended.is_set():
                entry = self._view.by_id(entry_id)
                if entry is None or entry.state is State.UPLOADED:
                    return
                if entry.state in (State.FAILED, State.INTERRUPTED):
                    raise self._worker.last_error(entry_id) or NotUploaded(
                        f"{entry.path} is {entry.state}: {entry.error}"
                    )
                if entry.waits_for_name or not _is_pending(entry):
                    return
                if time.monotonic() > deadline_s:
                    break
                self._settled.wait(1.0)
        raise TimedOut("the upload is still on its way", remedy="see `artifactfs status`")

    def candidates(self) -> list[Entry]:
        """What is queued and may go, the oldest first."""
        ready = [
            entry
            for entry in self._view.entries()
            if entry.state is State.QUEUED and not entry.waits_for_name
        ]
        return sorted(ready, key=lambda entry: entry.id)

    def move(self, entry: Entry, state: State, **more: object) -> Entry | None:
        """Move an entry if it is still as `entry` says; how it is now, or None if it was not."""
        with self._changing:
            if self._ended.is_set() or not self._journal.move(entry, state, **more):  # type: ignore[arg-type]
                return None
            self._refresh(entry.id)
            moved = self._view.by_id(entry.id)
        self._view.set_progress(entry.id, 1.0 if state is State.UPLOADED else None)
        self._told(entry.path)
        return moved

    def work(self, entry: Entry) -> Work:
        """What a worker needs of an entry: its file and its rows."""
        return Work(entry, self._files.path(entry.id), self._journal)

    def progress(self, entry_id: int, part: float) -> None:
        """How much of an entry has been sent, from 0 to 1."""
        self._view.set_progress(entry_id, part)

    def _refresh(self, entry_id: int) -> None:
        """Show what the journal says of an entry."""
        entry = self._journal.entry(entry_id)
        if entry is not None:
            self._view.put(entry)

    def _told(self, path: str) -> None:
        with self._settled:
            self._settled.notify_all()
        try:
            self._on_change(path)
        except Exception:  # noqa: BLE001 - whoever listens must not break the outbox
            _log.exception("a change of %s could not be told", path)

    # Leaving

    def _sweep(self) -> None:
        while not self._ended.wait(SWEEP_S):
            try:
                self._remove_lingering()
                self._remove_empty_folders()
            except Exception:  # noqa: BLE001 - without its sweeper drop/ would fill up
                _log.exception("drop/ could not be swept")

    def _remove_lingering(self) -> None:
        for entry_id in self._journal.uploaded_before(time.time() - self._drop.linger_s):
            with self._changing:
                entry = self._view.by_id(entry_id)
                if entry is None or entry.state is not State.UPLOADED or entry_id in self._open:
                    continue
                self._take_name(entry)
            self._told(entry.path)

    def _remove_empty_folders(self) -> None:
        quiet_s = max(self._drop.linger_s, EMPTY_FOLDER_S)
        before_ns = time.time_ns() - int(quiet_s * 1e9)
        for folder in self._view.empty_folders(before_ns):
            with contextlib.suppress(OSError):
                self.remove_folder(folder.path)


def _is_pending(entry: Entry) -> bool:
    """Whether it is safe here and will be uploaded without anybody doing anything."""
    if entry.state is State.WRITING:
        return entry.closed and not entry.waits_for_name
    return entry.state in PENDING and not entry.waits_for_name


def _refuse(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))
