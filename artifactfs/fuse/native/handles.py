"""What is open: files and directories by the number that the kernel was given for them.

A handle ends when the kernel releases it **and** nobody of ours works on it any more. The second
is not implied by the first: a read that was interrupted is answered, so the kernel may release the
file, while the thread that waited for the bytes is still on its way out. So whoever takes a file
to another thread holds it (`hold`) and lets it go (`let_go`); the last one out releases.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from itertools import count

from artifactfs.vfs.node import (
    Directory,
    DirectoryEntry,
    File,
    Handle,
)


class FileHandle:
    """An open file. `holders` and `closed` are guarded by the lock of `HandleTable`.

    `local`: its bytes lie on the local disk, reading them never waits for the network. `tracked`:
    the open counts in its inode's passthrough mode.
    """

    __slots__ = ("closed", "fh", "handle", "holders", "local", "node", "tracked", "writable")

    def __init__(self, fh: int, node: File, handle: Handle, *, writable: bool, local: bool) -> None:
        self.fh = fh
        self.node = node
        self.handle = handle
        self.writable = writable
        self.local = local
        self.tracked = False
        self.holders = 0
        self.closed = False


class DirectoryHandle:
    """An open directory and the listing it reads from. Only the reading thread uses it."""

    __slots__ = ("entries", "fh", "node", "tag")

    def __init__(self, fh: int, node: Directory) -> None:
        self.fh = fh
        self.node = node
        self.entries: Sequence[DirectoryEntry] | None = None
        self.tag = 0


class HandleTable:
    """Number → open file or directory.

    `_lock` guards the tables against their writers, the holders' counts and `_held`, their sum;
    single look-ups go without it. `release` runs outside, on whatever thread `when_released`
    chooses.
    """

    def __init__(self, when_released: Callable[[FileHandle], None]) -> None:
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._files: dict[int, FileHandle] = {}
        self._directories: dict[int, DirectoryHandle] = {}
        self._when_released = when_released
        self._held = 0

    def add_file(self, node: File, handle: Handle, *, writable: bool, local: bool) -> FileHandle:
        """Give an open file its number."""
        with self._lock:
            opened = FileHandle(next(self._numbers), node, handle, writable=writable, local=local)
            self._files[opened.fh] = opened
        return opened

    def add_directory(self, node: Directory) -> DirectoryHandle:
        """Give an open directory its number."""
        with self._lock:
            opened = DirectoryHandle(next(self._numbers), node)
            self._directories[opened.fh] = opened
        return opened

    def file(self, fh: int) -> FileHandle:
        """The open file of this number. Raises `OSError` EBADF."""
        opened = self._files.get(fh)
        if opened is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return opened

    def directory(self, fh: int) -> DirectoryHandle:
        """The open directory of this number. Raises `OSError` EBADF."""
        opened = self._directories.get(fh)
        if opened is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return opened

    def hold(self, opened: FileHandle) -> None:
        """Keep the file open until `let_go`, whatever the kernel does."""
        with self._lock:
            opened.holders += 1
            self._held += 1

    def let_go(self, opened: FileHandle) -> None:
        """The opposite of `hold`."""
        with self._lock:
            opened.holders -= 1
            self._held -= 1
            last = opened.closed and opened.holders == 0
        if last:
            self._when_released(opened)

    def close_file(self, fh: int) -> FileHandle | None:
        """The kernel is done with it; None if the number is unknown."""
        with self._lock:
            opened = self._files.pop(fh, None)
            if opened is None:
                return None
            opened.closed = True
            last = opened.holders == 0
        if last:
            self._when_released(opened)
        return opened

    def close_directory(self, fh: int) -> None:
        """The kernel is done with it."""
        with self._lock:
            self._directories.pop(fh, None)

    def held(self) -> int:
        """How many holds there are: work under way that will still answer."""
        with self._lock:
            return self._held

    def files(self) -> list[FileHandle]:
        """What is open now."""
        with self._lock:
            return list(self._files.values())
