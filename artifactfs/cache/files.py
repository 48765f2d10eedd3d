"""A content's file, open, with the lock that says that somebody uses it.

A shared ``flock`` lasts as long as a file is open, however its owner ends; who removes a file from
the cache needs the exclusive one (``evict``). So nobody's open file is removed but by hand, and
none between its opening and the moment when it counts as open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

OPENING_S = 2.0
LOCKED_S = 0.005


def open_held(path: str) -> int:
    """The file, made if it is not there, and held. Raises `OSError`."""
    directory = os.path.dirname(path)  # noqa: PTH120 - paths are text here
    os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103
    end_s = time.monotonic() + OPENING_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstat(descriptor)
            if is_held(descriptor) and os.path.samestat(found, os.stat(path)):  # noqa: PTH116
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # removed since it was opened, or just being removed
        wait_until(end_s, "it is being removed")


def is_held(descriptor: int) -> bool:
    """Say that a file of the cache is in use; False if it is just being removed (``evict``)."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
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
