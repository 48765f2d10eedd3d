"""Telling the kernel which names it must not believe any longer.

With day-long time-outs the kernel would go on showing an expired artifact, or an old one under a
name that now means another. So each `EntryChanged` of the tree becomes one FUSE_NOTIFY_INVAL_ENTRY,
after which the name is looked up again and the directory's cached listing is void.

There is one danger. To drop a name the kernel takes the directory's lock, and waits while something
in that directory (a look-up, a rename) waits for us. A driver that is killed just then cannot end:
its thread waits for the lock, the lock's holder for an answer, and the kernel lets go of neither
before somebody aborts the connection (``kernel.undead``). Therefore:

* notifications have a thread of their own, never one that answers requests;
* none is sent for a directory while a call that keeps it locked is not answered (the kernel would
  also hold up every later look-up there behind us): it is put off until that is over;
* none is sent for ``drop/``: its names have no lifetime, and a write, fsync or truncation there
  holds the file's lock, for which an unlink waits with the directory's (`ArtifactTree`);
* the thread stops before the unmount begins;
* **no inode is ever invalidated**: that waits for reads under way, and has left other file systems
  with processes that cannot be killed. Contents never change, so there is no need to.

An answer that was computed from the old state must not reach the kernel after the notification.
A look-up that creates the name holds the directory's lock until it is answered, but one that only
renews it does not. So before a notification goes out, the request that the reading thread is busy
with, if any, is waited for (`NotifyGate`): whatever begins later already sees the new state.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from typing import Final, Protocol

from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.device import Device
from artifactfs.fuse.native.inodes import InodeTable
from artifactfs.fuse.native.requests import InFlightRequests
from artifactfs.vfs.node import EntryChanged

_log = logging.getLogger(__name__)

_LONGEST_TURN_S: Final = 1.0
_PUT_OFF_S: Final = 0.05
_ENDED: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN, errno.EBADF})


class NotifyGate(Protocol):
    """The reading thread's progress: odd while it is busy with a request."""

    @property
    def turn(self) -> int: ...


class Notifier:
    """Sends what changed, in order, each name once. `_changed` guards `_queue` and `_closed`."""

    def __init__(
        self, device: Device, inodes: InodeTable, calls: InFlightRequests, turns: NotifyGate
    ) -> None:
        self._device = device
        self._inodes = inodes
        self._calls = calls
        self._turns = turns
        self._changed = threading.Condition()
        self._queue: dict[EntryChanged, None] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="fuse-notify", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def tell(self, change: EntryChanged) -> None:
        """Send this soon. At once, from any thread."""
        with self._changed:
            if not self._closed:
                self._queue[change] = None
                self._changed.notify()

    def close(self, timeout_s: float) -> bool:
        """Send nothing more and wait for what is being sent. False: it still is."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        put_off: dict[EntryChanged, None] = {}
        while (batch := self._next(put_off)) is not None:
            self._let_turn_pass()
            put_off = {}
            for change in batch:
                if self._closed:
                    return
                if self._calls.keeps_locked(change.parent_ino):
                    put_off[change] = None
                elif self._inodes.knows(change.parent_ino) and not self._send(change):
                    return

    def _next(self, put_off: dict[EntryChanged, None]) -> dict[EntryChanged, None] | None:
        """What is to be sent now, each change once; None: nothing more, ever."""
        with self._changed:
            self._changed.wait_for(
                lambda: bool(self._queue) or self._closed, _PUT_OFF_S if put_off else None
            )
            if self._closed:
                return None
            batch = put_off | self._queue
            self._queue.clear()
        return batch

    def _let_turn_pass(self) -> None:
        turn = self._turns.turn
        if turn & 1:
            limit_s = time.monotonic() + _LONGEST_TURN_S
            while self._turns.turn == turn and time.monotonic() < limit_s:
                time.sleep(0.0005)

    def _send(self, change: EntryChanged) -> bool:
        name = os.fsencode(change.name)
        body = protocol.NOTIFY_INVAL_ENTRY_OUT.pack(change.parent_ino, len(name), 0) + name + b"\0"
        number = self._device.notify(protocol.NOTIFY_INVAL_ENTRY, body)
        if number in _ENDED:
            return False
        if number not in (0, errno.ENOENT, errno.ENOTDIR):
            _log.debug("the kernel did not take the change of %r: %s", name, os.strerror(number))
        return True
