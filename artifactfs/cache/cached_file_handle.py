"""One opening of a content: what a reader holds.

However many have a content open, there is one ``shared.Shared`` behind them.
`CachedFileHandle.try_read` has the bytes that are here, `request` has somebody called when those
are here that are not, and `read` waits for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from artifactfs.byte_range import ByteRange
from artifactfs.cache.cached_file import CachedFile
from artifactfs.cache.stats import Counters
from artifactfs.cache.waiters import Done, Waiter
from artifactfs.errors import (
    Cancelled,
    ContentMismatch,
    TimedOut,
)

LOOK_S = 0.1


class CachedFileHandle:
    """One opening of a content; `close` it once.

    `is_as_before` is False for the first opening after the content was found to have changed: what
    the reader's side keeps of it is not to be used any more.
    """

    def __init__(
        self,
        shared: CachedFile,
        read_timeout_s: float,
        counters: Counters,
        closed: Callable[[], None],
        *,
        is_as_before: bool = True,
    ) -> None:
        self.is_as_before = is_as_before
        self._shared = shared
        self._table = shared.table
        self._waiters = shared.waiters
        self._reading = shared.reading
        self._read_timeout_s = read_timeout_s
        self._counters = counters
        self._closed = closed

    @property
    def size_bytes(self) -> int | None:
        """The content's size."""
        return self._shared.size_bytes

    @property
    def complete(self) -> bool:
        """Whether every byte is here."""
        return self._table.complete

    @property
    def verified(self) -> bool:
        """Whether the whole was seen to have its SHA-256."""
        return self._table.verified

    def try_read(self, start: int, stop: int) -> bytes | None:
        """The bytes [start, stop), short at the end of the content, or None if some are missing."""
        if self._waiters.failed is not None:
            return None
        data = self._reading.try_read(start, stop)
        if data is not None:
            self._counters.hits += 1
            if data and not self._table.checked_whole:
                self._shared.advance(ByteRange(start, start + len(data)))
        return data

    def request(self, span: ByteRange, done: Done) -> Waiter:
        """Call `done` once `try_read` has the bytes, or with the error if it cannot have them.

        It is called once, perhaps before this returns, or never after ``cancel()``.
        """
        self._counters.misses += 1
        return self._shared.request(span, done, time.monotonic() + self._read_timeout_s)

    def request_all(self, done: Done) -> Waiter:
        """The same for the whole content, in the background: readers and readahead go first."""
        return self._shared.request_all(done)

    def read(self, start: int, stop: int, *, cancelled: threading.Event | None = None) -> bytes:
        """The bytes, waiting up to the read time-out. Raises what kept them from coming."""
        for _ in range(8):
            data = self.try_read(start, stop)
            if data is not None:
                return data
            arrived = threading.Event()
            outcome: list[BaseException | None] = []

            def done(error: BaseException | None) -> None:
                outcome.append(error)  # noqa: B023 - bound anew each time
                arrived.set()  # noqa: B023

            wanted = ByteRange(start, max(start, min(stop, self._shared.size_bytes)))
            waiter = self.request(wanted, done)
            deadline_s = time.monotonic() + self._read_timeout_s + 1
            while not arrived.wait(LOOK_S if cancelled is not None else self._read_timeout_s + 1):
                if cancelled is not None and cancelled.is_set():
                    waiter.cancel()
                    raise Cancelled(f"{self._shared.artifact.id}: the read was given up")
                if time.monotonic() >= deadline_s:
                    waiter.cancel()
                    raise TimedOut(f"{self._shared.artifact.id}: its bytes did not come in time")
            if outcome[0] is not None:
                raise outcome[0].with_traceback(None)  # others may raise it too
        raise ContentMismatch(f"{self._shared.artifact.id}: its cached bytes do not stay right")

    def backing_fd(self) -> int | None:
        """The file's descriptor if it is whole and verified; valid until `close`."""
        return self._shared.holes.pass_through()

    def close(self) -> None:
        """This opening is over."""
        self._closed()
