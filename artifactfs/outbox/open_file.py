"""Open files of the outbox.

A `StagedFile` is one entry that somebody has open, an `OutboxHandle` one opening of it. The first
change after a close makes the entry `writing` again under a new generation, so that an upload under
way lets go. FLUSH, which ``close(2)`` waits for, brings the bytes to the disk, then the row: from
then on nothing can lose the file. It comes once per descriptor, so it may come again: if nothing
was written in between there is nothing to do, unless the one before came from a writer who was
killed, which a proper close makes good. A change after a FLUSH takes the row's word back, that a
close has returned, before the bytes change. RELEASE, of the last writer, queues the entry.

A change that has failed (the disk is full) leaves a partial file (``missing_ranges``), and so does
a sync that has failed, which the kernel reports only once: such a file is `interrupted` when it is
closed, however properly, unless what is missing was written after all or cut off. The row keeps
what is missing, so that a later opening, also of a later mount, knows it. After a failed sync that
is the whole file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

from artifactfs import system
from artifactfs.byte_range import ByteRange
from artifactfs.caller import LastWriter
from artifactfs.errors import SpoolFull
from artifactfs.outbox.durability import begin_write_back
from artifactfs.outbox.file_copy import copy_attributes, copy_file
from artifactfs.outbox.hashing import IncrementalHash
from artifactfs.outbox.missing_ranges import MissingRanges, is_loss
from artifactfs.outbox.state import OutboxEntry
from artifactfs.system import (
    KEEP_SIZE,
    PUNCH_HOLE,
    ZERO_RANGE,
    fallocate,
)

SEND_ON_BYTES = 16 << 20
_WRITERS = os.O_WRONLY | os.O_RDWR
_ALLOCATIONS = (
    0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE
)  # fmt: skip


class StagedFileOwner(Protocol):
    """What open files need of the outbox."""

    @property
    def waits_at_close(self) -> bool: ...
    @property
    def followers(self) -> Executor: ...
    def reserve(self, size_bytes: int) -> None: ...
    def begin_writing(self, entry_id: int) -> OutboxEntry: ...
    def note_missing(self, entry_id: int, missing: str) -> None: ...
    def closed(self, shown: OutboxEntry, why_not: str | None, *, fresh: bool) -> None: ...
    def released(self, spooled: StagedFile, *, still_open: int = 0) -> None: ...
    def let_go(self, spooled: StagedFile) -> None: ...
    def reach_disk(self, *, names: bool) -> None: ...
    def settle(self, entry_id: int) -> None: ...
    def current(self, entry_id: int) -> OutboxEntry | None: ...
    def was_killed(self, pid: int) -> bool: ...


class StagedFile:
    """One entry's file while somebody has it open.

    `lock` guards the descriptor, the hash and sizes, and is held over this file's own I/O;
    `counting` guards the counts and is held for nothing else.
    """

    def __init__(
        self, keeper: StagedFileOwner, entry: OutboxEntry, path: Path, *, fresh: bool
    ) -> None:
        self.entry = entry
        self.lock = threading.RLock()
        self.counting = threading.Lock()
        self.opens = 0
        self.writers = 0
        self._keeper = keeper
        self._path = path
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if fresh else 0)
        self._descriptor = os.open(path, flags, 0o600)
        self._size_bytes = entry.size_bytes
        self._mtime_ns = entry.mtime_ns
        self._hash = IncrementalHash(path, keeper.followers) if fresh else None
        self._fresh = fresh
        self._writing = fresh
        self._durable = False
        self._killed = False
        self._ready = fresh
        self._last_writer = LastWriter(keeper.was_killed)
        self._missing = MissingRanges(entry.missing)
        self._lost: OSError | None = None
        self._sent_on_bytes = 0

    def shown(self, entry: OutboxEntry) -> OutboxEntry:
        """The entry with the size and time of this moment."""
        if not self._writing:
            return entry
        return dataclasses.replace(
            entry, size_bytes=self._size_bytes, mtime_ns=self._mtime_ns, sha256=None
        )

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return self._size_bytes

    @property
    def is_ready(self) -> bool:
        """Whether the next change only writes: it waits for no sync and makes no copy first."""
        return self._ready and self._writing and not self._durable

    @property
    def descriptor(self) -> int:
        """The open file."""
        return self._descriptor

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), short at the end."""
        return os.pread(self._descriptor, max(0, stop - start), start)

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write all of it, or raise: `SpoolFull`, `OSError`."""
        span = ByteRange(offset, offset + len(data))
        with self._changing(span, span.stop):
            self._write_all(offset, data)
            self._missing.arrived(span)
            if self._hash is not None:
                self._hash.wrote(offset, data)
            self._send_on(span.stop)
            return len(data)

    def copy_in(self, source: int, start: int, offset: int, size_bytes: int) -> int:
        """Have the kernel copy from the descriptor `source`; how many bytes it did.

        They are not hashed on their way; the hash stands still before them. Raises `SpoolFull`,
        `OSError`.
        """
        size_bytes = max(0, min(size_bytes, os.fstat(source).st_size - start))
        copied = 0
        with self.lock:
            try:
                with self._changing(ByteRange(offset, offset + size_bytes), offset + size_bytes):
                    try:
                        while copied < size_bytes:
                            count = system.copy_range(
                                source, self._descriptor, size_bytes - copied, start + copied,
                                offset + copied,
                            )  # fmt: skip
                            if not count:
                                break
                            copied += count
                    finally:
                        self._changed(offset, offset + copied)
            finally:  # also where it failed: only the rest is missing then
                self._missing.arrived(ByteRange(offset, offset + copied))
        return copied

    def allocate(self, mode: int, offset: int, size_bytes: int) -> None:
        """What fallocate(2) asks. Raises `SpoolFull`, `OSError`.

        Space that is only kept for later (KEEP_SIZE) changes nothing that a reader sees: where that
        fails, the file is as whole as it was.
        """
        if mode not in _ALLOCATIONS:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        span = ByteRange(offset, offset + size_bytes)
        grows = not mode & KEEP_SIZE
        clears = bool(mode & (PUNCH_HOLE | ZERO_RANGE))
        asked = span if grows or clears else ByteRange(offset, offset)
        with self._changing(asked, span.stop if grows else 0, zeros=not clears):
            try:
                fallocate(self._descriptor, mode, offset, size_bytes)
            finally:
                self._changed(offset, os.fstat(self._descriptor).st_size)
            self._missing.arrived(asked, zeros=not clears)

    @contextlib.contextmanager
    def _changing(self, span: ByteRange, size_bytes: int, *, zeros: bool = False) -> Iterator[None]:
        """Change the bytes of `span`, after which the file is to have `size_bytes` at least.

        The block does it, with `lock` held, the row open and the room reserved. If it fails for
        lack of room or of a working disk, `span` is missing from now on (see ``missing_ranges``):
        there is no other way for a change to fail. Room that the file did not need is given back.
        """
        with self.lock:
            before_bytes, reserved_bytes = self._size_bytes, 0
            try:
                self._last_writer.changed()
                self._begin()
                self._keeper.reserve(max(0, size_bytes - before_bytes))
                reserved_bytes = max(0, size_bytes - before_bytes)
                yield
            except (OSError, SpoolFull) as error:
                if is_loss(error):
                    self._miss(span, zeros=zeros)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise SpoolFull(f"the spool's disk is full: {self._path.parent}") from error
                raise
            finally:
                unused_bytes = reserved_bytes - (self._size_bytes - before_bytes)
                if unused_bytes:
                    self._keeper.reserve(-unused_bytes)

    def _miss(self, span: ByteRange, *, zeros: bool = False) -> None:
        """Note that `span` did not get to the disk, in the row as well while that is open."""
        self._missing.add(span, zeros=zeros)
        if self._writing and not self._durable:
            self._keeper.note_missing(self.entry.id, str(self._missing))

    def forget_missing(self) -> None:
        """Count the file as whole as it is."""
        with self.lock:
            self._missing = MissingRanges()

    def _changed(self, start: int, stop: int) -> None:
        """Bytes from `start` on are others now, and the file reaches up to `stop` at least."""
        if self._hash is not None:
            self._hash.wrote(start, b"")
        self._grown_to(stop)

    def _write_all(self, offset: int, data: bytes | memoryview) -> None:
        position = offset + os.pwrite(self._descriptor, data, offset)
        if position < offset + len(data):
            view = memoryview(data)
            try:
                while position < offset + len(data):
                    position += os.pwrite(self._descriptor, view[position - offset :], position)
            finally:
                self._grown_to(position)
        self._grown_to(position)

    def _grown_to(self, position: int) -> None:
        self._size_bytes = max(self._size_bytes, position)
        self._mtime_ns = time.time_ns()

    def _send_on(self, stop: int) -> None:
        """Have the kernel write what has come so far, so that the close has little to wait for."""
        if stop - self._sent_on_bytes >= SEND_ON_BYTES:
            begin_write_back(self._descriptor, self._sent_on_bytes, stop)
            self._sent_on_bytes = stop

    def truncate(self, size_bytes: int) -> None:
        """Cut or extend. Raises `SpoolFull`, `OSError`."""
        with self.lock:
            before_bytes = self._size_bytes
            changed = ByteRange(min(before_bytes, size_bytes), max(before_bytes, size_bytes))
            grows = size_bytes > before_bytes
            with self._changing(changed, size_bytes, zeros=grows):
                os.ftruncate(self._descriptor, size_bytes)
                self._size_bytes = size_bytes
            if size_bytes == 0:
                self._forget_hash()
                self._hash = IncrementalHash(self._path, self._keeper.followers)
                self._lost = None
            elif self._hash is not None:
                self._hash.cut(size_bytes)
            self._missing.cut(size_bytes)
            if grows:
                self._missing.arrived(changed, zeros=True)
            self._sent_on_bytes = min(self._sent_on_bytes, size_bytes)
            self._mtime_ns = time.time_ns()

    def _begin(self) -> None:
        """Record on the disk, before the bytes change, that no earlier close counts any more."""
        if not self._writing or self._durable:
            self.entry = self._keeper.begin_writing(self.entry.id)
            if not self._writing:
                self._lost = None
            self._writing, self._durable, self._killed = True, False, False
            self._ready = False
        if not self._ready:
            self._keeper.reach_disk(names=False)
            self._own_bytes()
            self._ready = True

    def _own_bytes(self) -> None:
        """Copy the file if it has another name as well: those bytes must not change.

        The cache may share it by a link. Its generation was raised before: from then on the outbox
        makes no link (`Dispatch.arrived`), so that a count of 1 stays.
        """
        if os.fstat(self._descriptor).st_nlink < 2:
            return
        copy = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            copy_file(self._descriptor, descriptor)
            copy_attributes(self._descriptor, descriptor)
            os.fsync(descriptor)
            copy.replace(self._path)
            self._fresh = True  # another file has the name now, and that has to reach the disk
            os.dup2(descriptor, self._descriptor, inheritable=False)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def set_mtime(self, mtime_ns: int) -> None:
        """What utimens(2) asks. Takes no lock: its caller holds the outbox's."""
        self._mtime_ns = mtime_ns

    def seek(self, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE."""
        return os.lseek(self._descriptor, offset, whence)

    def data_sync(self) -> None:
        """Bring the bytes to the disk."""
        try:
            system.data_sync(self._descriptor)
        except OSError as error:
            self._lost = error
            with self.lock:  # which bytes it was about is not known
                self._miss(ByteRange(0, self._size_bytes))
            raise

    def fsync(self) -> None:
        """Bring bytes, name and row to the disk. Raises `OSError`, `DropError`."""
        self.data_sync()
        self._keeper.reach_disk(names=self._fresh)

    def flush(self, pid: int) -> None:
        """A writer's descriptor is closed: make it durable, or note that the writer was killed."""
        with self.lock:
            killed = self._last_writer.closes(pid)
            if self._writing:
                self._make_durable(killed=killed)

    def written_by(self, pid: int) -> None:
        """Note which thread's change comes next."""
        with self.lock:
            self._last_writer.wrote(pid)

    def opened_by(self, pid: int) -> None:
        """Note which thread has opened the file for writing."""
        with self.lock:
            self._last_writer.opened(pid)

    def written_back(self) -> None:
        """Note that pages of a mapping come next."""
        with self.lock:
            self._last_writer.wrote_back()

    def forget_writer(self) -> None:
        """Note that what was written before does not count, and who has written it."""
        with self.lock:
            self._last_writer.forget()

    def _make_durable(self, *, killed: bool) -> None:
        if self._durable and killed == self._killed:
            return
        with contextlib.suppress(OSError):
            self.data_sync()
        self._keeper.closed(self.snapshot(), self._why_not(killed), fresh=self._fresh)
        self._fresh = False
        self._durable, self._killed = True, killed
        if self._lost is not None:
            raise self._lost

    def _why_not(self, killed: bool) -> str | None:
        """What keeps these bytes from being what their writer meant, if anything does."""
        if self._lost is not None:
            return f"its bytes could not be brought to the disk: {self._lost.strerror}"
        if self._missing.first is not None:
            return f"the bytes from {self._missing.first} on could not be written"
        return "its writer was killed before it closed the file" if killed else None

    def snapshot(self) -> OutboxEntry:
        """The entry as its bytes are: with their hash, if it is known."""
        digest = self._hash.known(self._size_bytes) if self._hash is not None else None
        return dataclasses.replace(
            self.entry,
            size_bytes=self._size_bytes,
            mtime_ns=self._mtime_ns,
            sha256=digest,
            missing=str(self._missing),
        )

    def rest(self) -> IncrementalHash | None:
        """A writer is gone. If it was the last, the entry is as the journal says from now on.

        Returns the hash, where it can be carried on with.
        """
        with self.lock:
            with self.counting:
                if self.writers:
                    return None
            try:
                if self._writing and not self._durable:
                    # Pages of a mapping come late, with nobody's process number.
                    self._make_durable(killed=self._last_writer.was_killed)
            finally:
                self._writing = False
                self._last_writer = LastWriter(self._keeper.was_killed)
            resting, self._hash = self._hash, None
            return resting

    def _forget_hash(self) -> None:
        if self._hash is not None:
            self._hash.close()
            self._hash = None

    def close(self) -> None:
        """Close the descriptor."""
        self._forget_hash()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class OutboxHandle:
    """One opening of an entry; goes on when that is renamed or unlinked."""

    def __init__(self, keeper: StagedFileOwner, spooled: StagedFile, flags: int) -> None:
        self._keeper = keeper
        self._spooled = spooled
        self._writer = bool(flags & _WRITERS)
        self._released = False

    @property
    def entry_id(self) -> int:
        """The entry's number."""
        return self._spooled.entry.id

    @property
    def entry(self) -> OutboxEntry:
        """The entry as it is now."""
        current = self._keeper.current(self.entry_id)
        return current or self._spooled.shown(self._spooled.entry)

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return self._spooled.size_bytes

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), short at the end. Raises `OSError`."""
        return self._spooled.read(start, stop)

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write all of `data`. Raises `SpoolFull`, `OSError`."""
        self._may_write()
        return self._spooled.write(offset, data)

    @property
    def is_ready(self) -> bool:
        """Whether the next change only writes: it waits for no sync and makes no copy first."""
        return self._spooled.is_ready

    def truncate(self, size_bytes: int) -> None:
        """Cut or extend. Raises `SpoolFull`, `OSError`."""
        self._may_write()
        self._spooled.truncate(size_bytes)

    @property
    def resting_descriptor(self) -> int | None:
        """Where to copy from; None while somebody writes it: he may have pages in memory still."""
        spooled = self._spooled
        return None if spooled.writers else spooled.descriptor

    def copy_in(self, source: int, start: int, offset: int, size_bytes: int) -> int:
        """Copy from a descriptor; how many bytes were. Raises `SpoolFull`, `OSError`."""
        self._may_write()
        return self._spooled.copy_in(source, start, offset, size_bytes)

    def allocate(self, mode: int, offset: int, size_bytes: int) -> None:
        """What fallocate(2) asks. Raises `SpoolFull`, `OSError`."""
        self._may_write()
        self._spooled.allocate(mode, offset, size_bytes)

    def _may_write(self) -> None:
        if not self._writer:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def seek(self, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE. Raises `OSError` ENXIO past the end."""
        return self._spooled.seek(offset, whence)

    def flush(self, caller_pid: int) -> None:
        """What close(2) waits for. Raises what keeps the file from being safe."""
        if not self._writer:
            return
        self._spooled.flush(caller_pid)

    @property
    def settles(self) -> bool:
        """Whether close(2) waits for the upload, too (`drop.sync`). Does not block.

        Only the close of the last descriptor that is open for writing does.
        """
        return self._writer and self._keeper.waits_at_close and self._spooled.writers == 1

    def settle(self) -> None:
        """Wait for the upload, after `flush`. Raises `NotUploaded`, `TimedOut`."""
        self._keeper.released(self._spooled, still_open=1)
        self._keeper.settle(self.entry_id)

    def fsync(self) -> None:
        """What fsync(2) waits for: bytes and row survive a power cut. Raises `OSError`.

        A file that is never closed comes back `interrupted`. Never waits for the upload.
        """
        self._spooled.fsync()

    def written_by(self, caller_pid: int) -> None:
        """Note the thread that made or emptied the file, or asks for the change that comes next."""
        self._spooled.written_by(caller_pid)

    def opened_by(self, caller_pid: int) -> None:
        """Note the thread of this opening, which may write through a mapping alone."""
        if self._writer:
            self._spooled.opened_by(caller_pid)

    def written_back(self) -> None:
        """Note that the next write is of pages of a mapping, which have no caller."""
        self._spooled.written_back()

    def forget_writer(self) -> None:
        """Note that the file was cut by its path, or as it was opened."""
        self._spooled.forget_writer()

    def close_alone(self) -> None:
        """Make a change by path as safe as a close, unless a writer has the file open.

        That writer's own close counts then. Does not wait for the upload. Raises `OSError`.
        """
        with self._spooled.counting:
            alone = self._spooled.writers == 1
        if alone:
            self._spooled.flush(0)

    def release(self) -> None:
        """This opening is over. Never fails."""
        if self._released:
            return
        self._released = True
        spooled = self._spooled
        with spooled.counting:
            spooled.writers -= self._writer
            spooled.opens -= 1
        if self._writer:
            self._keeper.released(spooled)
        self._keeper.let_go(spooled)

    def opened(self) -> OutboxHandle:
        """Count this opening."""
        with self._spooled.counting:
            self._spooled.opens += 1
            self._spooled.writers += self._writer
        return self
