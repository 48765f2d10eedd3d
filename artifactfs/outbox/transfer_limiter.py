"""Who may use a connection now: fair between small files and the parts of large ones.

All uploads of a mount share `upload.connections`. A large file could take them all for hours, and a
stream of small ones could keep a large one out for ever; so as long as both want to go, each has at
least one connection, and with a single connection they take turns. Within a kind, who came first
goes first. A part of a large file is one use: between two parts others get through.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from artifactfs.errors import Cancelled
from artifactfs.outbox.upload_queue import SizeClass

_LOOK_S = 0.5


class TransferLimiter:
    """`connections` uses at a time. `_changed`'s lock guards all of it."""

    def __init__(self, connections: int) -> None:
        self._free = connections
        self._most = connections
        self._changed = threading.Condition()
        self._inside = dict.fromkeys(SizeClass, 0)
        self._waiting: dict[SizeClass, deque[object]] = {lane: deque() for lane in SizeClass}
        self._last = SizeClass.LARGE

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        with self._changed:
            return sum(len(line) for line in self._waiting.values())

    @contextlib.contextmanager
    def use(self, lane: SizeClass, cancelled: threading.Event) -> Iterator[None]:
        """Wait for a connection and have it for the block. Raises `Cancelled`."""
        self._enter(lane, cancelled)
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._inside[lane] -= 1
                self._changed.notify_all()

    def _enter(self, lane: SizeClass, cancelled: threading.Event) -> None:
        me = object()
        line = self._waiting[lane]
        with self._changed:
            line.append(me)
            try:
                while line[0] is not me or not self._may(lane):
                    if cancelled.is_set():
                        raise Cancelled("the upload was stopped")
                    self._changed.wait(_LOOK_S)
            finally:
                line.remove(me)
                self._changed.notify_all()
            self._free -= 1
            self._inside[lane] += 1
            self._last = lane

    def _may(self, lane: SizeClass) -> bool:
        """Whether the first in this line may go now."""
        if not self._free:
            return False
        other = SizeClass.LARGE if lane is SizeClass.SMALL else SizeClass.SMALL
        if not self._waiting[other]:
            # With several, one stays free of large files for a small one that may come.
            kept = (
                1 if lane is SizeClass.LARGE and self._most > 1 and not self._inside[other] else 0
            )
            return self._free > kept
        if self._most == 1:
            return self._last is other
        return bool(self._inside[other]) or not self._inside[lane]
