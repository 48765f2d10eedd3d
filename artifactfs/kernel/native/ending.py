"""What ends a mount: signals, `stop`, and the end of the connection, in one place to wait for.

A queue would not do. A signal that arrives just before a thread goes to sleep on a lock is noted,
but does not wake it, and the mount would go on until something else happens. So everything comes
through a pair of sockets: Python's own C signal handler writes the signal's number there
(`signal.set_wakeup_fd`), which no sleep can miss, and everybody else writes a byte of his own.
"""

from __future__ import annotations

import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

ENDED: Final = 0xE0
"""The connection with the kernel is gone."""
STOP: Final = 0xE1
"""Somebody called `stop`."""

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """Collects what ends a mount. One thread waits; any thread or signal handler tells.

    `_ours` are the signals that end it; only the waiting thread uses it.
    """

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._ours: set[int] = set()
        self._poll = select.poll()
        self._poll.register(self._inside, select.POLLIN)

    def tell(self, word: int) -> None:
        """Put `ENDED` or `STOP`. Never waits; after `close` it does nothing."""
        with suppress(OSError):  # full: then there is enough to wake up for
            self._outside.send(bytes([word]))

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The next word: `ENDED`, `STOP` or a signal's number; None if there is none in time."""
        limit_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if limit_s is None else max(0.0, limit_s - time.monotonic())
            if not self._poll.poll(None if left_s is None else left_s * 1000):
                return None
            word = self._inside.recv(1)[0]
            if word in (ENDED, STOP) or word in self._ours:
                return word  # others are signals that the program handles itself

    def close(self) -> None:
        """Give the sockets back."""
        self._inside.close()
        self._outside.close()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Have INT, TERM and HUP put their numbers, unless the program has its own idea of them.

        On the main thread; elsewhere signals stay as they are.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[signal.Signals, Any] = {}
        wakeup_before = signal.set_wakeup_fd(self._outside.fileno(), warn_on_full_buffer=False)
        try:
            for number in SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    before[number] = signal.signal(number, _on_signal)
                    self._ours.add(number)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup_before)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Nothing to do: its number has been written already."""
    del number, frame
