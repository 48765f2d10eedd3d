"""The threads that may block, and how the event loop waits for them.

The event loop never waits for a disk longer than a look-up takes; what may take long runs here. A
coroutine that is cancelled (the service ends) still waits until its thread has let go: the files it
closes then are never ones that a thread goes on writing to. So that this does not take long,
whatever loops in a thread looks at `stopping`.

Several pools, so that one kind of work cannot starve another: short work with files; hashing of
whole files; whole request bodies, each of which keeps its thread until the client has sent it; and
`pieces` of those bodies, hashed while the next is read.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MOST_BODIES = 128


class StoppingServer(ConnectionAbortedError):
    """The service ends; what was under way is given up."""


class ThreadPools:
    """The pools. `stopping` is set once and never cleared."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.pieces = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "pieces")
        self._hashing = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "hashing")
        self._files = ThreadPoolExecutor(8, "files")
        self._bodies = ThreadPoolExecutor(MOST_BODIES, "bodies")
        self._bodies_taken = 0

    async def do(self, act: Callable[P, T], *words: P.args, **more: P.kwargs) -> T:
        """Work with files."""
        return await self._wait(self._files, lambda: act(*words, **more))

    async def hash(self, act: Callable[P, T], *words: P.args, **more: P.kwargs) -> T:
        """Read and hash what may be large."""
        return await self._wait(self._hashing, lambda: act(*words, **more))

    @property
    def body_fits(self) -> bool:
        """Whether there is a thread for one more request body."""
        return self._bodies_taken < MOST_BODIES

    async def body(self, act: Callable[P, T], *words: P.args, **more: P.kwargs) -> T:
        """Receive a whole request body."""
        self._bodies_taken += 1
        try:
            return await self._wait(self._bodies, lambda: act(*words, **more))
        finally:
            self._bodies_taken -= 1

    def check(self) -> None:
        """Raise `StoppingServer` if the service ends. For loops in threads."""
        if self.stopping.is_set():
            raise StoppingServer("the service ends")

    def close(self) -> None:
        """Wait until every thread has ended."""
        self.stopping.set()
        for pool in (self._bodies, self._files, self._hashing, self.pieces):
            pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    async def _wait(pool: Executor, act: Callable[[], T]) -> T:
        running: Future[T] = pool.submit(act)
        waited = asyncio.wrap_future(running)
        try:
            return await asyncio.shield(waited)
        except asyncio.CancelledError:
            if not running.cancel():
                await asyncio.wait([waited])
                if not waited.cancelled():
                    waited.exception()
            raise
