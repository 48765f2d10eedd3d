"""Files whose text changes: documents that are told anew, and logs that grow.

Both have honest sizes and times, zero attribute time-outs and direct I/O: the kernel keeps nothing
of them, so that ``tail -f``, ``less +F`` and ``watch cat`` see what is there now.

An open document stays as it was when it was opened, so that nobody reads half of one and half of
another. But whoever reads from its beginning again, or waits at its end and the newer text only
goes on from there, gets the newer one: that is how ``tail -f`` reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from artifactfs.vfs.inode_numbers import SameByNumber
from artifactfs.vfs.node import (
    Attributes,
    File,
    Handle,
    Kind,
    read_only,
)

_BLOCK_BYTES = 512


class TextSource(Protocol):
    """A text as it was told, and when it changed."""

    @property
    def shown(self) -> bytes: ...
    @property
    def changed_ns(self) -> int: ...


def refuse_writing(flags: int) -> None:
    """Raise EROFS if a file is opened for anything but reading."""
    if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
        read_only()


def blocks(size_bytes: int) -> int:
    """``st_blocks`` of a file that lies here as a whole."""
    return -(-size_bytes // _BLOCK_BYTES)


class TextHandle(Handle):
    """An open document; `newest` says what it is by now."""

    __slots__ = ("_newest", "_released", "_text")

    def __init__(self, newest: Callable[[], bytes], released: Callable[[], None]) -> None:
        self._newest = newest
        self._released = released
        self._text = newest()

    @property
    def direct_io(self) -> bool:
        return True

    def try_read(self, start: int, stop: int) -> bytes:
        if start == 0:
            self._text = self._newest()
        elif start >= len(self._text):
            newer = self._newest()
            if len(newer) > len(self._text) and newer.startswith(self._text):
                self._text = newer
        return self._text[start:stop]

    def read(self, start: int, stop: int) -> bytes:
        return self.try_read(start, stop)

    def release(self) -> None:
        self._released()


class GrowingText(Protocol):
    """A log. `size`, `mtime_ns` and `read` are of one of its files; all answer at once."""

    def size(self, index: int | None, /) -> int: ...
    def mtime_ns(self, index: int | None, /) -> int | None: ...
    def read(self, index: int | None, start: int, stop: int, /) -> bytes: ...


class LogFile(SameByNumber, File):
    """A log that grows while it is open, and may for a while after that.

    `log` says which it is, if it is here already; `opened` has it followed and returns it, with
    what to call when it is closed.
    """

    __slots__ = ("_index", "_log", "_made_ns", "_opened", "ino")

    ino: int

    def __init__(
        self,
        ino: int,
        log: Callable[[], GrowingText | None],
        opened: Callable[[], tuple[GrowingText, Callable[[], None]]],
        *,
        index: int | None = None,
        made_ns: int = 0,
    ) -> None:
        self.ino = ino
        self._log = log
        self._opened = opened
        self._index = index
        self._made_ns = made_ns

    def attributes(self) -> Attributes:
        log = self._log()
        size_bytes = log.size(self._index) if log is not None else 0
        changed_ns = (log.mtime_ns(self._index) if log is not None else None) or self._made_ns
        return Attributes(
            self.ino, Kind.FILE, 0o444, size_bytes, 1, changed_ns, changed_ns, blocks(size_bytes)
        )

    def open(self, flags: int) -> Handle:
        refuse_writing(flags)
        log, close = self._opened()
        return LogHandle(log, self._index, close)

    def set_xattr(self, name: str, value: bytes) -> None:
        _ = name, value
        read_only()


class LogHandle(Handle):
    """An open log."""

    __slots__ = ("_close", "_index", "_log")

    def __init__(self, log: GrowingText, index: int | None, close: Callable[[], None]) -> None:
        self._log = log
        self._index = index
        self._close = close

    @property
    def direct_io(self) -> bool:
        return True

    def try_read(self, start: int, stop: int) -> bytes:
        return self._log.read(self._index, start, stop)

    def read(self, start: int, stop: int) -> bytes:
        return self._log.read(self._index, start, stop)

    def release(self) -> None:
        self._close()
