"""Drivers that were killed and cannot end.

When a driver is killed, the kernel closes its device with its last thread, and with that every
request is answered by an error. One thread may be in the way: to drop a name (``native.notify``)
the kernel waits, uninterruptibly, for the lock of the name's directory; that is held by a program
which waits for an answer; and that would have come from the driver. Such a driver is a zombie in
whose process a thread lives on. It holds its locks (of a slot of the spool, for instance), its
mount answers nobody, and no signal changes that. Only aborting the connection does.

A driver in that state is recognised by its process, in which the first thread has died and another
one has the device of the connection open still. Linux only; nothing else hangs like that.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from artifactfs import system
from artifactfs.kernel.mount_table import Mounted
from artifactfs.kernel.unmounting import processes

_DEVICE = "/dev/fuse"
_CONNECTION = "fuse_connection:"


def is_undead(mounted: Mounted) -> bool:
    """Whether the driver of `mounted` was killed and hangs in the kernel, as far as is seen."""
    for process in processes():
        if not system.is_running(int(process.name)):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if any(_serves(task, mounted) for task in (process / "task").iterdir()):
                    return True
    return False


def _serves(task: Path, mounted: Mounted) -> bool:
    """Whether this thread has the device open; which connection's, newer kernels tell."""
    with contextlib.suppress(OSError):
        for descriptor in (task / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) == _DEVICE:
                    said = (task / "fdinfo" / descriptor.name).read_text()
                    if _CONNECTION not in said or mounted.connection in _connections(said):
                        return True
    return False


def _connections(said: str) -> list[int]:
    lines = (line for line in said.splitlines() if line.startswith(_CONNECTION))
    return [int(line.removeprefix(_CONNECTION)) for line in lines]
