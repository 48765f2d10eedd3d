"""Who waits for which grains of one content.

Nobody waits with a thread. A `Waiter` is a callback and the grains that it is for; when the last of
them has come, whoever brought it takes the waiter from the list, under the lock, and calls it,
after the lock. So each is called once: with None, or with the error that keeps its grains from
coming (a flight failed, its time is over, the content has failed). One that was cancelled is not on
the list any more, and is not called.

A content *fails* for whoever has it open when its bytes cannot be had in any way: twice they did
not have their SHA-256 (``verdict``), or the service has changed them under their id
(``block_writer``). Nobody waits for it from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from artifactfs.cache.block_map import BlockMap
from artifactfs.errors import TimedOut
from artifactfs.model import Artifact

Done = Callable[[BaseException | None], None]


@dataclass(slots=True, eq=False)
class Waiter:
    """A reader who waits for the grains [first, stop).

    For one `in_background` nothing is claimed beforehand: it waits for what others leave free.
    """

    among: Waiters
    first: int
    stop: int
    done: Done
    deadline_s: float
    in_background: bool = False

    def touches(self, first: int, stop: int) -> bool:
        """Whether it waits for something with a grain in [first, stop)."""
        return self.first < stop and first < self.stop

    def cancel(self) -> None:
        """Stop waiting; the callback is not called afterwards, or has been already."""
        self.among.forget(self)


class Waiters:
    """Those who wait for one content, and why it has `failed`. Guarded by the table's lock."""

    def __init__(self, artifact: Artifact, table: BlockMap) -> None:
        self.failed: BaseException | None = None
        self._artifact = artifact
        self._table = table
        self._waiting: list[Waiter] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    # Called with the lock

    def add(self, waiter: Waiter) -> bool:
        """Let it wait, if it has anything to wait for."""
        if self.failed is not None or not self._table.missing(waiter.first, waiter.stop):
            return False
        self._waiting.append(waiter)
        return True

    def contented(self) -> list[Waiter]:
        """Who waits for nothing any more, taken from those who wait."""
        missing = self._table.missing
        ready = [waiter for waiter in self._waiting if not missing(waiter.first, waiter.stop)]
        if ready:
            self._waiting = [each for each in self._waiting if missing(each.first, each.stop)]
        return ready

    def touch(self, first: int, stop: int) -> bool:
        """Whether anybody waits for something with a grain in [first, stop)."""
        return any(waiter.touches(first, stop) for waiter in self._waiting)

    def background(self) -> list[Waiter]:
        """Those who wait in the background."""
        return [waiter for waiter in self._waiting if waiter.in_background]

    def wait_past(self, first: int, stop: int) -> bool:
        """Whether a reader waits for a grain in (first, stop), and for none before it."""
        return any(
            first < waiter.first < stop for waiter in self._waiting if not waiter.in_background
        )

    def left_by(self, first: int, stop: int) -> list[Waiter]:
        """Those to whom a flight for [first, stop) should have brought something, and has not."""
        return [
            waiter
            for waiter in self._waiting
            if waiter.touches(first, stop) and self._table.missing(waiter.first, waiter.stop)
        ]

    def take(self, waiters: list[Waiter]) -> None:
        """These do not wait any more; they are to be called."""
        self._waiting = [waiter for waiter in self._waiting if waiter not in waiters]

    def fail(self, error: BaseException) -> list[Waiter]:
        """The content has failed; who waited, to be called."""
        self.failed = error
        told, self._waiting = self._waiting, []
        return told

    # Called without it

    def forget(self, waiter: Waiter) -> None:
        """Do not call this one."""
        with self._table.lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def overdue(self, now_s: float) -> None:
        """End the waiting of those whose time is over."""
        with self._table.lock:
            late = [waiter for waiter in self._waiting if waiter.deadline_s <= now_s]
            self._waiting = [waiter for waiter in self._waiting if waiter.deadline_s > now_s]
        for waiter in late:
            waiter.done(TimedOut(f"{self._artifact.id}: its bytes did not come in time"))
