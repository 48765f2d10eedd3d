"""Locks on ranges of a file that belong to an open file description (``fcntl(2)``).

They last as long as that is open, however its owner ends, and exclude other openings of the same
process too. Where there are none (other systems, some network file systems) each mount does as if
it were the only one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

_FLOCK: Final = struct.Struct("hhqqi0q")  # struct flock, fcntl(2)
_OFD_SETLK: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)


def lock(
    descriptor: int, kind: int, start: int, length: int, *, without_locks: bool = True
) -> bool:
    """Set or drop a lock, without waiting. False: another opening has one in the way.

    `without_locks` is the answer where there are none.
    """
    if _OFD_SETLK is None or length <= 0:
        return without_locks
    wanted = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    try:
        fcntl.fcntl(descriptor, _OFD_SETLK, wanted)
    except OSError as error:
        return without_locks and error.errno not in (errno.EAGAIN, errno.EACCES)
    return True
