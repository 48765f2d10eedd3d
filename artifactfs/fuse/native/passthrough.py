"""Passthrough: files whose bytes the kernel reads from the cache by itself.

Where a file is complete and verified on the local disk, its descriptor is registered with the
kernel (`Device.open_backing`), and OPEN answers with the id it got. Reads and page faults of that
open never reach the driver: sequential reads run at the disk's own speed, random ones twenty times
faster than through any daemon.

**One mode per inode.** The kernel refuses (EIO) to mix opens that use its page cache with
passthrough opens of one inode, and to have two backing files for one. So an inode's mode is chosen
by its first open and holds until its last release, on our side as on the kernel's: a file that was
opened while it was incomplete stays on cached reads, even when it becomes complete, until nobody
has it open; and one on passthrough stays there with one id, whatever is evicted meanwhile (the
kernel holds the file itself, so an unlinked one remains readable). The kernel leaves the mode
before it sends RELEASE, so what we count is never below what it counts.

**What is only written goes past the page cache** (`write_directly`): the kernel hands each
``write`` over as it is, up to 1 MiB at once, instead of copying it into pages that nobody reads.
Kernels that cannot map such files (`DIRECT_IO_ALLOW_MMAP`) do not drop what another open of the
inode has cached either, so there it stays off.

**What is not cached is not fetched whole at the open for this.** Measured over loopback, to open
and read an uncached file takes 2.2 ms for 64 KiB, 2.6 for 256 KiB, 3.9 for 1 MiB; the open is 0.8
of it and the download nearly all the rest. What passthrough could save is the driver's answer, a
quarter of a millisecond for 1 MiB (4 GB/s); and whoever opens files only for their first bytes
would pay for the whole of each.

It needs Linux 6.9, CAP_SYS_ADMIN in the first user namespace, and a cache directory on a file
system that is not itself stacked too deep. `reason` says in words why it is not in use.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from dataclasses import dataclass
from typing import Final

from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.device import Device
from artifactfs.vfs.node import Handle

_log = logging.getLogger(__name__)

OLDEST_LINUX: Final = (6, 9)
TOO_OLD: Final = "this kernel has none (Linux 6.9 or later is needed)"
UNPRIVILEGED: Final = "CAP_SYS_ADMIN is missing"

_CACHED = 0


@dataclass(slots=True)
class _Mode:
    """How an open inode is read: `backing_id` 0 is through the page cache. `opens` counts."""

    backing_id: int
    opens: int


class Passthrough:
    """The modes of all open inodes. `_lock` guards `_modes` and `reason`.

    The two ioctls are made while it is held: they do not wait, and two first opens of one inode
    must not register two files.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._modes: dict[int, _Mode] = {}
        self.reason: str | None = "not asked for yet"
        self.write_directly = False

    def forbid(self, reason: str) -> None:
        """Read everything through the driver from now on; what is open stays as it is."""
        with self._lock:
            self.reason = reason

    def allow(self, sample_fd: int) -> None:
        """Use it if the kernel takes `sample_fd`, a file on the cache's file system, for one."""
        with self._lock:
            try:
                self._device.close_backing(self._device.open_backing(sample_fd))
            except OSError as error:
                self.reason = _why(error)
            else:
                self.reason = None

    def enter(self, ino: int, handle: Handle, flags: int) -> tuple[int, int] | None:
        """Choose the mode for one more open of `ino`: the flags and the backing id for OPEN.

        `flags` are those of open(2). None: this open uses neither (direct I/O) and is not to be
        given back by `leave`.
        """
        access = flags & os.O_ACCMODE
        with self._lock:
            mode = self._modes.get(ino)
            if mode is not None and mode.backing_id != _CACHED:
                mode.opens += 1
                return protocol.FOPEN_PASSTHROUGH, mode.backing_id
            if handle.direct_io or (access == os.O_WRONLY and self.write_directly):
                return None
            if mode is not None:
                mode.opens += 1
                return 0, 0
            wanted = access == os.O_RDONLY and self.reason is None
            backing_id = self._register(handle) if wanted else _CACHED
            self._modes[ino] = _Mode(backing_id, 1)
            return (protocol.FOPEN_PASSTHROUGH if backing_id != _CACHED else 0), backing_id

    def leave(self, ino: int) -> None:
        """One open less; the last one ends the mode."""
        with self._lock:
            mode = self._modes.get(ino)
            if mode is None:
                return
            mode.opens -= 1
            if mode.opens > 0:
                return
            del self._modes[ino]
            if mode.backing_id != _CACHED:
                try:
                    self._device.close_backing(mode.backing_id)
                except OSError as error:
                    _log.debug("giving up backing id %d: %s", mode.backing_id, error)

    def in_use(self) -> int:
        """How many inodes are open for passthrough now."""
        with self._lock:
            return sum(mode.backing_id != _CACHED for mode in self._modes.values())

    def _register(self, handle: Handle) -> int:
        try:
            fd = handle.backing_fd()
            return _CACHED if fd is None else self._device.open_backing(fd)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ELOOP):
                self.reason = _why(error)
                _log.info("passthrough is off: %s", self.reason)
            else:
                _log.warning("passthrough of one file failed: %s", error)
            return _CACHED


def _why(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return UNPRIVILEGED
    if error.errno == errno.ELOOP:
        return "the cache directory is on a stacked file system (overlay)"
    return f"the kernel refuses the cache's file system: {os.strerror(error.errno or errno.EIO)}"
