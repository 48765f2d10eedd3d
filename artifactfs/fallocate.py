"""fallocate(2) in all its modes; Python has only the plain one (``os.posix_fallocate``).

Flags from ``include/uapi/linux/falloc.h``. Where the C library has no such call (macOS), or the
file system cannot do it, it is EOPNOTSUPP.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any, Final

KEEP_SIZE: Final = 0x01
PUNCH_HOLE: Final = 0x02
ZERO_RANGE: Final = 0x10


def fallocate(descriptor: int, mode: int, offset: int, size_bytes: int) -> None:
    """Allocate, or give back, [offset, offset + size_bytes) of a file. Raises `OSError`."""
    call = _call()
    if call is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if call(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(size_bytes)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def _call() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    return getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
