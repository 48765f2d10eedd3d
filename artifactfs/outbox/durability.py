"""Bringing things to the disk: many waiters, one sync.

``fsync`` costs the same whether one change waits for it or a hundred. Whoever needs one asks
`GroupSync.reach`: if none is under way he does it himself, and everyone who comes meanwhile waits
and is served together by the next one. A sync that fails fails for all who waited for it, because
Linux reports an error once and calls the pages clean afterwards: trying again would "succeed".
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path

SYNC_FILE_RANGE_WRITE = 2  # include/uapi/linux/fs.h
_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _SYNC_FILE_RANGE is not None:
    _SYNC_FILE_RANGE.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class GroupSync:
    """Shares `sync` among threads. `_turn` guards the counts; it is not held while syncing."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._turn = threading.Condition()
        self._begun = 0
        self._ended = 0
        self._busy = False
        self._waiting = 0
        self._failed: dict[int, BaseException] = {}

    @property
    def waiting(self) -> int:
        """How many wait for a sync that another does."""
        with self._turn:
            return self._waiting

    def reach(self) -> None:
        """Return when all that was written before the call is on the disk. Raises `OSError`."""
        with self._turn:
            wanted = self._begun + 1
            self._waiting += 1
            while self._ended < wanted and self._busy:
                self._turn.wait()
            self._waiting -= 1
            if self._ended >= wanted:
                failure = self._failed.get(wanted)
                if failure is not None:
                    raise failure
                return
            self._busy = True
            self._begun += 1
            number = self._begun
        error: BaseException | None = None
        try:
            self._sync()
        except BaseException as caught:
            error = caught
            raise
        finally:
            with self._turn:
                self._busy = False
                self._ended = number
                if error is not None:
                    self._failed[number] = error
                self._turn.notify_all()


def begin_write_back(descriptor: int, start: int, stop: int) -> None:
    """Have the kernel begin to write these bytes, and do not wait: a later sync has less to do.

    sync_file_range(2), of Linux; elsewhere nothing happens.
    """
    if _SYNC_FILE_RANGE is not None and stop > start:
        _SYNC_FILE_RANGE(descriptor, start, stop - start, SYNC_FILE_RANGE_WRITE)


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a private directory, and those above it, so that a crash leaves them there."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)
