"""The directory that a run mounts on: made where it is missing, and then removed again.

Runs of one user may use one directory at one time (the tasks of an array job), each with a mount
that the others do not see. Whoever removes a directory takes away what others have mounted on it,
in their namespaces too (rmdir(2) detaches it there). So each holds a shared lock on it, and it is
removed by the one who can have the lock alone. Which directories were made by a run, the directory
says itself, by an extended attribute; where attributes or locks do not work (NFS) it stays, empty.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from artifactfs.errors import MountError

_MADE: Final = "user.artifactfs.made"
_TRIES: Final = 100


@contextmanager
def borrowed(place: Path) -> Iterator[None]:
    """Have a directory at `place` for as long as the block runs. Raises `MountError`."""
    descriptor = _held(place)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.getxattr(descriptor, _MADE):
                place.rmdir()
        os.close(descriptor)


def _held(place: Path) -> int:
    for _ in range(_TRIES):
        made = _make(place)
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another run has removed it
        except OSError as error:
            raise MountError(f"{place} cannot be opened: {error.strerror}") from error
        with suppress(OSError):
            if made:
                os.setxattr(descriptor, _MADE, b"1")
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_there(place, descriptor):
            return descriptor
        os.close(descriptor)
    raise MountError(f"{place} is removed again and again")


def _make(place: Path) -> bool:
    try:
        place.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        what = "its parent is not there" if error.errno == errno.ENOENT else error.strerror
        raise MountError(
            f"{place} cannot be made: {what}", remedy="say where by --at PATH"
        ) from error
    return True


def _is_there(place: Path, descriptor: int) -> bool:
    with suppress(OSError):
        return os.path.samestat(place.stat(), os.fstat(descriptor))
    return False
