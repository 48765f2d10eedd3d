"""Operations on files: OPEN, CREATE, READ, WRITE, FLUSH and what belongs to them.

**A read** asks the handle for what it has at hand and answers on the reading thread, or on a pool's
while the disk is slow (`crew`). Where bytes are missing, it leaves a request with the handle
(`Handle.request`) and goes on; the thread that brings the bytes answers. So a thousand stuck
readers cost no thread. Handles that know no requests are read on a pool's thread.

Replies are written from memory, not spliced from the cache's file: splicing 512 KiB at a time gave
3.8 to 4.1 GB/s, pread and writev 4.2, the source being in the page cache (Linux 6.18, 2 cores). And
a pipe that takes a whole reply of 1 MiB needs CAP_SYS_RESOURCE, which those who have no passthrough
lack as well.

**A write** is carried out from the message's own memory, nothing is copied: a small one by the
reading thread (`crew`), a large one by the spool's pool while the reading thread goes on with
another buffer.

**FLUSH** is what ``close`` waits for. Files that were opened only for reading have nothing to make
durable, so it is answered at once, or not even asked for (NOFLUSH). Making a file durable is local
work and is always done; waiting for its upload (`Handle.settle`), where the settings say so, has
threads of its own, and a caller who is killed is freed from it, also while it has not begun.

**COPY_FILE_RANGE** is what ``cp`` makes of copying inside the mount. From a file that lies whole on
the local disk, a cached artifact or one in ``drop/`` that nobody writes, the kernel copies into the
spool by itself: 256 MiB in 0.2 s, which took 0.7 to 2.3 s as reads and writes.
In all other cases the answer is EOPNOTSUPP, and the kernel reads and writes as it did before.

A file whose contents never change (`Handle.keep_cache`) must not be read short: the kernel would
fill the rest of its pages with zeros and keep them. Such a read is an error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from artifactfs.byte_range import ByteRange
from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.context import SessionContext
from artifactfs.fuse.native.dispatch import Handler
from artifactfs.fuse.native.handles import FileHandle
from artifactfs.fuse.native.inode_ops import is_writable
from artifactfs.fuse.native.protocol import Opcode
from artifactfs.fuse.native.requests import (
    CHANGES,
    SETTLES,
    WAITS,
    Interruptible,
    Request,
)
from artifactfs.fuse.native.worker_pools import WorkerPool
from artifactfs.vfs.node import (
    File,
    Handle,
    PendingRead,
)

BRIEF_BYTES: Final = 128 * 1024
"""Up to here reading or writing a local file's pages takes less than handing it on."""

MOST_COPIED_BYTES: Final = 64 << 20
"""By one request, so that none takes long: the caller asks again for the rest."""

GiveBack = Callable[[memoryview], None]


class FileOperations:
    """See the module. Stateless but for `mount`'s parts.

    `give_back` takes the memory of a message that a handler kept (see `channel.Handler`).
    """

    def __init__(self, mount: SessionContext, give_back: GiveBack) -> None:
        self._mount = mount
        self._handles = mount.handles
        self._give_back = give_back

    def handlers(self) -> dict[int, Handler]:
        """Opcode → method."""
        return {
            Opcode.OPEN: self.open,
            Opcode.CREATE: self.create,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.FLUSH: self.flush,
            Opcode.FSYNC: self.fsync,
            Opcode.RELEASE: self.release,
            Opcode.LSEEK: self.seek,
            Opcode.FALLOCATE: self.allocate,
            Opcode.COPY_FILE_RANGE: self.copy,
        }

    # Opening

    def open(self, call: Request, body: memoryview) -> None:
        file = self._mount.inodes.file(call.nodeid)
        flags, _ = protocol.OPEN_IN.unpack_from(body)
        local = flags & os.O_ACCMODE != os.O_RDONLY or is_writable(file)
        pool = self._mount.pools.spool if local else self._mount.pools.fetch
        late: list[FileHandle] = []

        def act() -> bytes:
            handle = file.open(flags)
            if flags & os.O_TRUNC:
                handle.written_by(call.pid)
            else:
                handle.opened_by(call.pid)
            opened, reply = self._opened(file, handle, flags)
            late.append(opened)
            return reply

        def undo() -> None:
            self._close(late[0].fh)

        manners = CHANGES if local else WAITS
        brief = not flags & os.O_TRUNC  # which may have to wait for the disk
        self._mount.later(pool, call, act, undo=undo, manners=manners, brief=brief)

    def create(self, call: Request, body: memoryview) -> None:
        directory = self._mount.inodes.directory(call.nodeid)
        flags, mode, _, _ = protocol.CREATE_IN.unpack_from(body)
        raw, _ = protocol.split_name(body, protocol.CREATE_IN.size)
        name = call.subject = os.fsdecode(raw)
        late: list[FileHandle] = []
        is_new = directory.find(name) is None

        def act() -> bytes:
            file, handle = directory.create(name, flags, mode & 0o7777)
            handle.written_by(call.pid)
            opened, reply = self._opened(file, handle, flags)
            try:
                entry = self._mount.stat.entry(file)
            except BaseException:
                self._close(opened.fh)
                raise
            self._mount.inodes.remember(file)
            late.append(opened)
            return entry + reply

        def undo() -> None:
            self._mount.inodes.forget(late[0].node.ino, 1)
            self._close(late[0].fh)
            if is_new:
                directory.unlink(name)

        self._mount.later(
            self._mount.pools.spool, call, act, undo=undo, manners=CHANGES, brief=True
        )

    def _opened(self, file: File, handle: Handle, flags: int) -> tuple[FileHandle, bytes]:
        read_only = flags & os.O_ACCMODE == os.O_RDONLY
        passthrough = self._mount.passthrough
        mode: tuple[int, int] | None = None
        try:
            local = not read_only or is_writable(file)
            mode = passthrough.enter(file.ino, handle, flags)
            open_flags, backing_id = (protocol.FOPEN_DIRECT_IO, 0) if mode is None else mode
            if not backing_id and handle.keep_cache:  # the kernel refuses it with passthrough
                open_flags |= protocol.FOPEN_KEEP_CACHE
            if read_only:
                open_flags |= protocol.FOPEN_NOFLUSH
        except BaseException:
            if mode is not None:
                passthrough.leave(file.ino)
            handle.release()
            raise
        opened = self._handles.add_file(file, handle, writable=not read_only, local=local)
        opened.tracked = mode is not None
        return opened, protocol.OPEN_OUT.pack(opened.fh, open_flags, backing_id)

    def release(self, call: Request, body: memoryview) -> None:
        fh, *_ = protocol.RELEASE_IN.unpack_from(body)
        self._close(fh)
        call.answer()

    def _close(self, fh: int) -> None:
        opened = self._handles.close_file(fh)
        if opened is not None and opened.tracked:
            self._mount.passthrough.leave(opened.node.ino)

    # Reading

    def read(self, call: Request, body: memoryview) -> None:
        fh, start, size, *_ = protocol.READ_IN.unpack_from(body)
        reading = _Reading(self._mount, call, self._handles.file(fh), start, size)
        if not self._mount.crew.take(Opcode.READ, reading.do):
            reading.do_elsewhere()

    def seek(self, call: Request, body: memoryview) -> None:
        fh, offset, whence, _ = protocol.LSEEK_IN.unpack_from(body)
        opened = self._handles.file(fh)

        def act() -> bytes:
            try:
                found = opened.handle.seek(offset, whence)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                found = _seek_in_full(opened.node.attributes().size_bytes, offset, whence)
            return protocol.LSEEK_OUT.pack(found)

        hold_and_run_async(self._mount, self._mount.pools.spool, call, opened, act)

    # Writing

    def write(self, call: Request, body: memoryview) -> bool:
        fh, offset, size, write_flags, *_ = protocol.WRITE_IN.unpack_from(body)
        opened = self._handles.file(fh)
        data = body[protocol.WRITE_IN.size : protocol.WRITE_IN.size + size]
        if len(data) != size:
            raise ValueError("a write that is shorter than it says")

        def act() -> bytes:
            if write_flags & protocol.WRITE_CACHE:
                opened.handle.written_back()
            else:
                opened.handle.written_by(call.pid)
            return protocol.WRITE_OUT.pack(opened.handle.write(offset, data), 0)

        def after() -> None:
            self._handles.let_go(opened)
            data.release()
            self._give_back(body)

        self._handles.hold(opened)
        brief = size <= BRIEF_BYTES and opened.handle.write_is_quick
        self._mount.later(
            self._mount.pools.spool, call, act, after=after, manners=CHANGES, brief=brief
        )
        return True

    def flush(self, call: Request, body: memoryview) -> None:
        fh, *_ = protocol.FLUSH_IN.unpack_from(body)
        opened = self._handles.file(fh)
        if not opened.writable:
            call.answer()
            return

        mount = self._mount

        def settle() -> bytes:
            opened.handle.settle()
            return b""

        def flush() -> None:
            try:
                if not mount.calls.begin(call):
                    return
                opened.handle.flush(call.pid)
                if opened.handle.settles:
                    hold_and_run_async(mount, mount.pools.settle, call, opened, settle, again=True)
                elif mount.calls.claim(call):
                    call.answer()
            except BaseException as error:  # noqa: BLE001 - becomes an errno, whatever it is
                if mount.calls.claim(call):
                    call.fail(error)
            finally:
                self._handles.let_go(opened)

        self._handles.hold(opened)
        mount.calls.defer(call, SETTLES)
        if not mount.pools.flush.submit(flush):
            flush()

    def fsync(self, call: Request, body: memoryview) -> None:
        fh, *_ = protocol.FSYNC_IN.unpack_from(body)
        opened = self._handles.file(fh)

        def act() -> bytes:
            opened.handle.fsync()
            return b""

        hold_and_run_async(self._mount, self._mount.pools.spool, call, opened, act, CHANGES)

    def allocate(self, call: Request, body: memoryview) -> None:
        fh, offset, size, mode, _ = protocol.FALLOCATE_IN.unpack_from(body)
        opened = self._handles.file(fh)

        def act() -> bytes:
            opened.handle.written_by(call.pid)
            opened.handle.allocate(mode, offset, size)
            return b""

        hold_and_run_async(self._mount, self._mount.pools.spool, call, opened, act, CHANGES)

    def copy(self, call: Request, body: memoryview) -> None:
        fh_in, start, _, fh_out, offset, size, _ = protocol.COPY_FILE_RANGE_IN.unpack_from(body)
        source, target = self._handles.file(fh_in), self._handles.file(fh_out)

        def act() -> bytes:
            fd = source.handle.copy_fd()
            if fd is None:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            target.handle.written_by(call.pid)
            copied = target.handle.copy_in(fd, start, offset, min(size, MOST_COPIED_BYTES))
            return protocol.WRITE_OUT.pack(copied, 0)

        def after() -> None:
            self._handles.let_go(source)
            self._handles.let_go(target)

        self._handles.hold(source)
        self._handles.hold(target)
        self._mount.later(self._mount.pools.spool, call, act, after=after, manners=CHANGES)


class _Reading:
    """One read: what is at hand at once, else by a ticket's callback, and if that is not enough,
    on a pool.

    While it waits for the callback the file is held by this object, and let go by whoever takes the
    call out of the table: `_done`, or `_abandon` when the call is ended early.
    """

    __slots__ = ("_abandoned", "_call", "_mount", "_opened", "_size", "_start", "_ticket")

    def __init__(
        self, mount: SessionContext, call: Request, opened: FileHandle, start: int, size: int
    ) -> None:
        self._mount = mount
        self._call = call
        self._opened = opened
        self._start = start
        self._size = size
        self._ticket: PendingRead | None = None
        self._abandoned = False

    def do(self) -> None:
        """Answer with what is at hand, or leave a request with the handle. Raises nothing."""
        try:
            data = self._opened.handle.try_read(self._start, self._start + self._size)
            if data is not None:
                self._call.answer(_whole(self._opened, self._start, self._size, data))
                return
        except BaseException as error:  # noqa: BLE001 - becomes an errno, whatever it is
            self._call.fail(error)
            return
        self._request()

    def do_elsewhere(self) -> None:
        """`do` on a pool's thread: the disk is slow."""
        calls, call, opened = self._mount.calls, self._call, self._opened

        def work() -> None:
            try:
                if calls.claim(call):
                    self.do()
            finally:
                self._mount.handles.let_go(opened)

        self._mount.handles.hold(opened)
        calls.defer(call)
        if not self._mount.pools.fetch.submit(work):
            work()

    def _request(self) -> None:
        calls, call = self._mount.calls, self._call
        self._mount.handles.hold(self._opened)
        calls.defer(call, abandon=self._abandon)
        try:
            span = ByteRange(self._start, self._start + self._size)
            self._ticket = self._opened.handle.request(span, self._done)
        except BaseException as error:  # noqa: BLE001 - becomes an errno, whatever it is
            self._done(error)
            return
        if self._ticket is None:
            self._done(None)
        elif self._abandoned:
            self._ticket.cancel()  # given up before the ticket was there

    def _abandon(self) -> None:
        self._abandoned = True
        try:
            if self._ticket is not None:
                self._ticket.cancel()
        finally:
            self._mount.handles.let_go(self._opened)

    def _done(self, error: BaseException | None) -> None:
        call, opened = self._call, self._opened
        if not self._mount.calls.claim(call):
            return
        try:
            if error is not None:
                call.fail(error)
                return
            data = opened.handle.try_read(self._start, self._start + self._size)
            if data is None:
                self._read_on_pool()
            else:
                call.answer(_whole(opened, self._start, self._size, data))
        except BaseException as failure:  # noqa: BLE001 - becomes an errno, whatever it is
            call.fail(failure)
        finally:
            self._mount.handles.let_go(opened)

    def _read_on_pool(self) -> None:
        mount, opened = self._mount, self._opened
        start, size = self._start, self._size

        def act() -> bytes:
            return _whole(opened, start, size, opened.handle.read(start, start + size))

        pool = mount.pools.spool if opened.local else mount.pools.fetch
        brief = opened.local and size <= BRIEF_BYTES
        hold_and_run_async(mount, pool, self._call, opened, act, brief=brief)


def hold_and_run_async(
    mount: SessionContext,
    pool: WorkerPool,
    call: Request,
    opened: FileHandle,
    act: Callable[[], bytes],
    manners: Interruptible = WAITS,
    *,
    brief: bool = False,
    again: bool = False,
) -> None:
    """`SessionContext.later`, with the file kept open until it is done."""

    def after() -> None:
        mount.handles.let_go(opened)

    mount.handles.hold(opened)
    mount.later(pool, call, act, manners=manners, after=after, brief=brief, again=again)


def _whole(opened: FileHandle, start: int, size: int, data: bytes) -> bytes:
    """`data` if it may be shown for this read. Raises `OSError` EIO if it is short inside a file
    whose contents never change."""
    length = len(data)
    if length == size:
        return data
    if length > size:
        return data[:size]
    handle = opened.handle
    if handle.keep_cache and not handle.direct_io:
        expected = min(start + size, opened.node.attributes().size_bytes)
        if start + length < expected:
            raise OSError(
                errno.EIO, f"read {length} of {expected - start} bytes at {start}: too short"
            )
    return data


def _seek_in_full(size_bytes: int, offset: int, whence: int) -> int:
    """SEEK_DATA and SEEK_HOLE in a file without holes."""
    if offset >= size_bytes:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    return offset if whence == os.SEEK_DATA else size_bytes
