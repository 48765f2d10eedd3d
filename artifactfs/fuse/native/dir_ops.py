"""Reading directories: OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR.

An open directory reads from one listing, taken when its first entry is read (or read again after
``rewinddir``), so it neither skips nor repeats a name while others come and go.

**The kernel's cache of a listing.** A directory that has a `listing_version` is opened with
CACHE_DIR: the kernel keeps what it reads, and while the version stays the same further opens get
KEEP_CACHE too, and read nothing from us at all. Once it has changed, the next open lacks KEEP_CACHE
and the kernel drops what it has. What was read without attributes, because nobody asked for any, is
not kept beyond the next open either: else whoever asks for them then would have to look up each
name. Two readers of different versions must not fill one cache: the
kernel joins what they read by its position, so a position (`cookie`) carries the version in its
upper half and never fits another listing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Final

from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.context import SessionContext
from artifactfs.fuse.native.dispatch import Handler
from artifactfs.fuse.native.handles import DirectoryHandle
from artifactfs.fuse.native.protocol import (
    Opcode,
    bare_entry_plus,
    dirent,
)
from artifactfs.fuse.native.requests import CHANGES, Request
from artifactfs.vfs.node import (
    Directory,
    DirectoryEntry,
    Kind,
    Node,
    kind_of,
    numbered,
)

_log = logging.getLogger(__name__)

_INDEX_BITS: Final = 32
_INDEX_MASK: Final = (1 << _INDEX_BITS) - 1
_TAG_MASK: Final = (1 << 30) - 1
_DOTS: Final = (b".", b"..")


class DirectoryOperations:
    """See the module. Stateless: all state is in `mount`'s parts."""

    def __init__(self, mount: SessionContext) -> None:
        self._mount = mount

    def handlers(self) -> dict[int, Handler]:
        """Opcode → method."""
        return {
            Opcode.OPENDIR: self.open,
            Opcode.READDIR: self.read,
            Opcode.READDIRPLUS: self.read_plus,
            Opcode.RELEASEDIR: self.release,
            Opcode.FSYNCDIR: self.sync,
        }

    def open(self, call: Request, _body: memoryview) -> None:
        directory = self._mount.inodes.directory(call.nodeid)
        if directory.is_fresh():
            opened, body = self._opened(directory)
            if not call.answer(body):
                self._mount.handles.close_directory(opened.fh)
            return
        late: list[DirectoryHandle] = []

        def freshen() -> bytes:
            directory.freshen()
            opened, body = self._opened(directory)
            late.append(opened)
            return body

        def undo() -> None:
            self._mount.handles.close_directory(late[0].fh)

        self._mount.later(self._mount.pools.fetch, call, freshen, undo=undo)

    def read(self, call: Request, body: memoryview) -> None:
        fh, offset, size, *_ = protocol.READ_IN.unpack_from(body)
        opened = self._mount.handles.directory(fh)
        entries = _listing(opened, offset)
        index = offset & _INDEX_MASK
        tag = opened.tag
        records: list[bytes] = []
        room = size
        while index < 2:
            record = dirent(opened.node.ino, _DOTS[index], tag | (index + 1), Kind.DIRECTORY)
            room -= len(record)
            if room < 0:
                break
            records.append(record)
            index += 1
        cookie = tag | index
        most = size // protocol.DIRENT.size
        start = index - 2
        for shown, (ino, kind) in numbered(entries, start, start + most) if start >= 0 else ():
            cookie += 1
            name = _shown(shown)
            if name is None:
                continue
            record = dirent(ino, name, cookie, kind)
            room -= len(record)
            if room < 0:
                break
            records.append(record)
        if records and index >= 2:
            self._mount.inodes.forget_listing(opened.node.ino)
        call.answer(b"".join(records))

    def read_plus(self, call: Request, body: memoryview) -> None:
        fh, offset, size, *_ = protocol.READ_IN.unpack_from(body)
        opened = self._mount.handles.directory(fh)
        entries = _listing(opened, offset)
        index = offset & _INDEX_MASK
        tag = opened.tag
        records: list[bytes] = []
        room = size
        while index < 2:
            record = bare_entry_plus(
                opened.node.ino, _DOTS[index], tag | (index + 1), Kind.DIRECTORY
            )
            room -= len(record)
            if room < 0:
                break
            records.append(record)
            index += 1
        told: list[Node] = []
        entry_plus = self._mount.stat.entry_plus
        cookie = tag | index
        most = size // protocol.DIRENTPLUS.size
        for entry in entries[index - 2 : index - 2 + most] if index >= 2 else ():
            cookie += 1
            name = _shown(entry.name)
            if name is None:
                continue
            node: Node | None = entry.node
            try:
                record = entry_plus(entry.node, name, cookie)
            except Exception as error:  # noqa: BLE001 - one bad node must not hide the others
                _log.debug("attributes of %r: %s", name, error)
                record = bare_entry_plus(entry.node.ino, name, cookie, kind_of(entry.node))
                node = None
            room -= len(record)
            if room < 0:
                break
            records.append(record)
            if node is not None:
                told.append(node)
        self._mount.inodes.remember_all(told)
        if not call.answer(b"".join(records)):
            self._mount.inodes.forget_all([(node.ino, 1) for node in told])

    def release(self, call: Request, body: memoryview) -> None:
        fh, *_ = protocol.RELEASE_IN.unpack_from(body)
        self._mount.handles.close_directory(fh)
        call.answer()

    def sync(self, call: Request, _body: memoryview) -> None:
        directory = self._mount.inodes.directory(call.nodeid)

        def act() -> bytes:
            directory.sync()
            return b""

        self._mount.later(self._mount.pools.spool, call, act, manners=CHANGES)

    def _opened(self, directory: Directory) -> tuple[DirectoryHandle, bytes]:
        flags = 0
        version = directory.listing_version  # before the entries: these may only be newer
        if version is not None:
            flags = protocol.FOPEN_CACHE_DIR
            if self._mount.inodes.note_listing(directory.ino, version):
                flags |= protocol.FOPEN_KEEP_CACHE
        opened = self._mount.handles.add_directory(directory)
        opened.tag = ((version or 0) & _TAG_MASK) << _INDEX_BITS
        return opened, protocol.OPEN_OUT.pack(opened.fh, flags, 0)


def _listing(opened: DirectoryHandle, offset: int) -> Sequence[DirectoryEntry]:
    entries = opened.entries
    if entries is None or offset == 0:
        version = opened.node.listing_version
        entries = opened.entries = opened.node.entries()
        opened.tag = ((version or 0) & _TAG_MASK) << _INDEX_BITS
    return entries


def _shown(name: str) -> bytes | None:
    """The name's bytes, or None for one that the kernel would answer with EIO for all."""
    raw = os.fsencode(name)
    if 0 < len(raw) <= protocol.NAME_MAX and b"/" not in raw and b"\0" not in raw:
        return raw
    _log.debug("the name %r cannot be shown", name)
    return None
