"""Threads for what may wait.

Four pools keep what waits for different things apart, so that none can starve another:

* **fetch**: waits for the network (look-ups of unknown names, listings, opens of artifacts);
* **spool**: whatever the kernel holds a lock for until it is answered: changes, ``fsync`` and
  attributes that are set. Local work only, never the network; and releases;
* **flush**: ``close``, which waits for syncs of the local disk;
* **settle**: ``close`` waiting for the service, where the settings say so.

`concurrent.futures` is not used because its threads are joined at interpreter exit: one that hangs
in a dead network file system would keep the whole driver alive. These are daemon threads, made
when there is work for them and at most `size` of them; `close` waits for them a bounded time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

_log = logging.getLogger(__name__)

Job = Callable[[], None]
FETCH_THREADS: Final = 64
SPOOL_THREADS: Final = 16
FLUSH_THREADS: Final = 64
SETTLE_THREADS: Final = 64


class WorkerPool:
    """At most `size` threads that do jobs in the order in which they came.

    `_lock` guards `_threads`, `_unfinished` (jobs queued or under way) and `_closed`. A job raises
    nothing; should one do so, it is logged and the thread goes on.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._closed = False

    def submit(self, job: Job) -> bool:
        """Have `job` done. False: it will not be, the pool is closed or can start no thread."""
        with self._lock:
            if self._closed:
                return False
            if len(self._threads) < min(self._unfinished + 1, self._size):
                self._grow()
            if not self._threads:
                return False
            self._unfinished += 1
            self._jobs.put(job)
        return True

    def close(self, timeout_s: float) -> bool:
        """Take no more, finish what was taken, wait at most `timeout_s`.

        False: some thread hangs, and is left behind.
        """
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for _ in threads:
            self._jobs.put(None)
        deadline_s = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _grow(self) -> None:
        number = len(self._threads)
        thread = threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            _log.warning("%s: %d threads must do: %s", self._name, number, error)
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            try:
                job()
            except BaseException:  # noqa: BLE001 - the thread must outlive whatever a job does
                _log.exception("%s: a job failed", self._name)
            finally:
                del job  # or it would live until the next one comes
            with self._lock:
                self._unfinished -= 1


class WorkerPools:
    """The pools of one mount."""

    def __init__(self) -> None:
        self.fetch = WorkerPool("fuse-fetch", FETCH_THREADS)
        self.spool = WorkerPool("fuse-spool", SPOOL_THREADS)
        self.flush = WorkerPool("fuse-flush", FLUSH_THREADS)
        self.settle = WorkerPool("fuse-settle", SETTLE_THREADS)

    def close(self, timeout_s: float) -> bool:
        """Close all of them within `timeout_s`. False: some thread hangs."""
        deadline_s = time.monotonic() + timeout_s
        ended = True
        for pool in (self.fetch, self.spool, self.flush, self.settle):
            ended &= pool.close(max(0.0, deadline_s - time.monotonic()))
        return ended
