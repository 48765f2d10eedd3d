"""A content's two files, open: its bytes, and the sidecar that tells about them.

**Use.** A shared ``flock`` on the file of the bytes lasts as long as it is open, however its owner
ends; who removes a file from the cache needs the exclusive one (``eviction_order``). So nobody's
open file is removed but by hand, and none between its opening and the moment when it counts as
open.

**Pairs.** All who have a file of bytes open must have the same sidecar, or one of them gives back
what another has seen to be right, or believes sums of bytes that are in another file. If it were
not for hands that remove one of the two, that would go without saying. So a sidecar carries the
number of the file that it is for, and what is not a pair is not mended: both names are removed and
two new files made. Who has the old ones open goes on with them, under no name. Who opens a content
holds a lock on the file's first byte meanwhile, so that two who make a pair at the same time make
the same one.

**Names.** An adopted file (``adoption``) is the outbox's as well, and others may link files of the
cache too. So nothing writes to a file that has a name besides its own here (`may_write`): neither
downloads nor hole punching. What is missing in such a file stays in memory as long as the content
is open, and the next opening finds a pair that cannot be completed, removes its names here and
makes new files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from artifactfs.cache.blocks import ABSENT
from artifactfs.cache.cache_layout import CachePaths
from artifactfs.cache.disk_format import Sidecar
from artifactfs.file_lock import lock
from artifactfs.system import make_private

OPENING_S = 2.0
LOCKED_S = 0.005


def open_pair(place: CachePaths, size_bytes: int) -> tuple[int, Sidecar]:
    """The file, sparse and at its full size, held, and its sidecar. Raises `OSError`."""
    directory = os.path.dirname(place.path)  # noqa: PTH120 - paths are text here
    make_private(directory)
    end_s = time.monotonic() + OPENING_S
    while True:
        descriptor = os.open(place.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with opening(descriptor) as is_mine:
                sidecar = _paired(descriptor, place, size_bytes) if is_mine else None
            if sidecar is not None:
                return descriptor, sidecar
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        wait_until(end_s, "it is being opened or removed by others")


@contextlib.contextmanager
def opening(descriptor: int) -> Iterator[bool]:
    """Whether nobody else opens this file's pair now, nor will as long as the block runs."""
    is_mine = lock(descriptor, fcntl.F_WRLCK, 0, 1)
    try:
        yield is_mine
    finally:
        if is_mine:
            lock(descriptor, fcntl.F_UNLCK, 0, 1)


def _paired(descriptor: int, place: CachePaths, size_bytes: int) -> Sidecar | None:
    """The sidecar of the file, which is held then; None if both have to be opened once more."""
    found = os.fstat(descriptor)
    try:
        if not os.path.samestat(found, os.stat(place.path)):  # noqa: PTH116
            return None
    except FileNotFoundError:
        return None
    sidecar: Sidecar | None = None
    if found.st_size == size_bytes:
        sidecar = Sidecar.existing(place.sidecar, size_bytes, found.st_ino)
    is_writable = may_write(descriptor, place.path)
    if sidecar is not None and not is_writable and ABSENT in sidecar.flags():
        sidecar.close()
        sidecar = None
    if sidecar is None and found.st_size == 0 and is_writable and _is_unused(descriptor):
        sidecar = Sidecar.new(place.sidecar, size_bytes, found.st_ino)
        try:
            os.ftruncate(descriptor, size_bytes)
        except BaseException:
            sidecar.close()
            raise
    if sidecar is None:
        for path in (place.sidecar, place.path):
            Path(path).unlink(missing_ok=True)
        return None
    if not is_held(descriptor):
        sidecar.close()
        return None
    return sidecar


def may_write(descriptor: int, path: str) -> bool:
    """Whether a file has no other name than `path`.

    The number of names alone does not tell: the one that is left may be another owner's. Nor may
    the name be looked up first, for it may go before the names are counted.
    """
    try:
        found = os.fstat(descriptor)
        if found.st_nlink != 1:
            return found.st_nlink == 0
        return os.path.samestat(found, os.stat(path))  # noqa: PTH116
    except OSError:
        return False


def _is_unused(descriptor: int) -> bool:
    """Whether nobody has the file open. Nobody begins to while its pair is being opened."""
    return _flock(descriptor, fcntl.LOCK_EX)


def is_held(descriptor: int) -> bool:
    """Say that a file of the cache is in use; False if it is just being removed
    (``eviction_order``).
    """
    return _flock(descriptor, fcntl.LOCK_SH)


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: nobody else should use this directory
    return True


def wait_until(end_s: float, why: str) -> None:
    """Wait a moment. Raises `OSError` if that was all the time there was."""
    if time.monotonic() >= end_s:
        raise BlockingIOError(errno.EAGAIN, why)
    time.sleep(LOCKED_S)
