"""Copies of files in the spool: shared where the file system can, else by the kernel.

FICLONE (``include/uapi/linux/fs.h``) shares the blocks until one side changes (btrfs, XFS);
``copy_file_range`` keeps the bytes out of this process; the rest reads and writes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from artifactfs import system

FICLONE = 0x40049409
_PIECE_BYTES = 64 << 20
_OTHERWISE = frozenset(
    {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY, errno.EPERM}
)


def copy_file(source: int, target: int) -> None:
    """Make the empty file `target` like `source`; both are descriptors. Raises `OSError`."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, FICLONE, source)
        return
    position, size_bytes = 0, os.fstat(source).st_size
    while position < size_bytes:
        count = _copy_piece(source, target, position, size_bytes - position)
        if not count:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        position += count


def copy_attributes(source: int, target: int) -> None:
    """Give `target` the extended attributes of `source`, where the file system keeps such."""
    with contextlib.suppress(OSError):
        system.copy_attributes(source, target)


def _copy_piece(source: int, target: int, position: int, most_bytes: int) -> int:
    try:
        return system.copy_range(source, target, min(most_bytes, _PIECE_BYTES), position, position)
    except OSError as error:
        if error.errno not in _OTHERWISE:
            raise
    piece = os.pread(source, min(most_bytes, 1 << 20), position)
    done = 0
    while done < len(piece):
        done += os.pwrite(target, piece[done:], position + done)
    return done


def link_or_copy(source: Path, target: Path) -> None:
    """The same bytes under another name; where links cannot be, a copy that is on the disk."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
        return
    except FileNotFoundError:
        raise
    except OSError:
        pass
    with source.open("rb", buffering=0) as bytes_in, target.open("xb", buffering=0) as bytes_out:
        target.chmod(0o600)
        copy_file(bytes_in.fileno(), bytes_out.fileno())
        os.fsync(bytes_out.fileno())
