"""Who reads from the device: one thread at a time, and never one that is stuck.

One thread takes request after request and answers most of them itself. That is what makes the
driver fast in Python: no threads fight for the interpreter over small answers. What waits for the
network goes to a pool. In between lie operations that are brief nearly always, but now and then
wait for a disk: a read of cached bytes, a small write, an open, a rename. Handing one of those to
another thread costs four times the operation itself (70 against 16 µs for a write of 4 KiB: two
wake-ups and a fight for the interpreter), and doing it on the reading thread would hold up
everybody on the day the disk is slow.

So the reading thread does them, and **loses the right to read** if that takes longer than
`TAKEOVER_S`: the right passes to a thread that was parked for this, the stuck one finishes what it
does and parks itself. Whatever follows is held up for two milliseconds at most, once: an operation
that was slow goes to the pools for a while, the longer the slower it was.

    parked ──gets the right──▶ leads: receive, carry out, brief job ──▶ …
       ▲                                                   │ too long: the right is taken away
       └────────────── finishes the job ◀──────────────────┘

Somebody must look at the clock. The standby thread does, every millisecond, but only while brief
jobs come in; the first one of a burst wakes it up.

Only who has the right touches the device's input, `turn`, and what is documented as the reading
thread's own; passing the right on orders one's writes before the other's reads.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from artifactfs.fuse.native.device import Device
from artifactfs.fuse.native.dispatch import RequestBuffers, RequestDispatcher
from artifactfs.fuse.native.worker_pools import Job

_log = logging.getLogger(__name__)

TAKEOVER_S: Final = 0.001
BRIEF_S: Final = 0.0003
AVOIDED_TIMES: Final = 20
AVOIDED_AT_MOST_S: Final = 2.0
TICKS_WITHOUT_JOBS: Final = 50
MOST_STUCK: Final = 16


class ReaderThreads:
    """The reading threads of one mount; see the module. `when_ended` is called once, at the end.

    `_right` is held by whoever may read, and given by the standby on behalf of who is stuck.
    `_lock` guards `_leader`, `_job_since_s`, `_job_kind`, `_parked`, `_stuck`, `_threads`, `_over`
    and `_slow_until_s`; the leader reads some of them without, where an old value does no harm.
    """

    def __init__(
        self, device: Device, buffers: RequestBuffers, when_ended: Callable[[], None]
    ) -> None:
        self._device = device
        self._buffers = buffers
        self._when_ended = when_ended
        self._dispatcher: RequestDispatcher | None = None
        self._right = threading.Lock()
        self._lock = threading.Lock()
        self._leader: int | None = None
        self._job: tuple[int, Job] | None = None
        self._job_since_s: float | None = None
        self._job_kind = 0
        self._jobs_begun = 0
        self._parked = 0
        self._stuck = 0
        self._over = False
        self._slow_until_s: dict[int, float] = {}
        self._threads: list[threading.Thread] = []
        self._awake = threading.Event()
        self._ticking = False
        self._standby = threading.Thread(target=self._stand_by, name="fuse-standby", daemon=True)
        self.turn = 0

    def start(self, dispatcher: RequestDispatcher) -> None:
        """Begin to read."""
        self._dispatcher = dispatcher
        self._grow()
        self._grow()
        self._standby.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of all threads, at most `timeout_s`. False: some hang."""
        limit_s = time.monotonic() + timeout_s
        with self._lock:
            threads = [*self._threads, self._standby]
        threads = [thread for thread in threads if thread.ident is not None]
        for thread in threads:
            thread.join(max(0.0, limit_s - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def take(self, kind: int, job: Job) -> bool:
        """Have `job`, which is usually brief, done by the reading thread after this message.

        `kind` is what it is known by when it proves slow: the opcode. False: not this time, as it
        was slow lately (or not called by the reading thread); another thread must do it.
        """
        if self._leader != threading.get_ident():
            return False
        if self._job is not None or self._job_since_s is not None:
            return False
        if self._parked == 0 or self._stuck >= MOST_STUCK:
            return False
        if self._slow_until_s.get(kind, 0.0) > time.monotonic():
            return False
        if not self._ticking:
            self._awake.set()
        self._job = kind, job
        return True

    def _grow(self) -> None:
        thread = threading.Thread(
            target=self._serve, name=f"fuse-reader-{len(self._threads)}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            _log.warning("no further reading thread: %s", error)
        else:
            with self._lock:
                self._threads.append(thread)

    def _serve(self) -> None:
        me = threading.get_ident()
        while True:
            with self._lock:
                self._parked += 1
            self._right.acquire()
            with self._lock:
                self._parked -= 1
                self._leader = me
                over = self._over
            if over:
                self._right.release()  # for the next one, who ends as well
                return
            try:
                if self._lead(me):
                    continue
            except BaseException:  # noqa: BLE001 - the end must be told whatever ended it
                _log.exception("reading from the kernel ended")
            with self._lock:
                self._over = True
            self._awake.set()
            self._right.release()
            self._when_ended()
            return

    def _lead(self, me: int) -> bool:
        """Read until the right is lost (True) or the connection ends (False)."""
        assert self._dispatcher is not None
        receive, carry_out = self._device.receive, self._dispatcher.carry_out
        buffer = self._buffers.take()
        view = memoryview(buffer)
        while length := receive(buffer):
            self.turn += 1
            kept = carry_out(view[:length])
            self.turn += 1
            if kept:
                buffer = self._buffers.take()
                view = memoryview(buffer)
            if self._job is not None and not self._do_job(me):
                self._buffers.give_back(view)
                return True
        return False

    def _do_job(self, me: int) -> bool:
        """Do the job that was taken. False: it took so long that the right is lost."""
        assert self._job is not None
        kind, job = self._job
        self._job = None
        began_s = time.monotonic()
        with self._lock:
            self._job_kind = kind
            self._job_since_s = began_s
            self._jobs_begun += 1
        try:
            job()
        except BaseException:  # noqa: BLE001 - nothing may end the thread
            _log.exception("a job failed")
        now_s = time.monotonic()
        with self._lock:
            if now_s - began_s > BRIEF_S:
                avoided_s = min((now_s - began_s) * AVOIDED_TIMES, AVOIDED_AT_MOST_S)
                self._slow_until_s[kind] = now_s + avoided_s
            if self._leader == me:
                self._job_since_s = None
                return True
            self._stuck -= 1
            return False

    def _stand_by(self) -> None:
        while True:
            self._awake.wait()
            self._awake.clear()
            if self._over:
                return
            self._ticking = True
            idle_ticks, begun = 0, self._jobs_begun
            while idle_ticks < TICKS_WITHOUT_JOBS and not self._over:
                time.sleep(TAKEOVER_S)
                if self._take_over():
                    idle_ticks = 0
                elif begun == self._jobs_begun:
                    idle_ticks += 1
                else:
                    idle_ticks, begun = 0, self._jobs_begun
            self._ticking = False

    def _take_over(self) -> bool:
        """Take the right from a leader whose job takes too long. True: some job is under way."""
        with self._lock:
            since_s = self._job_since_s
            if since_s is None:
                return False
            if time.monotonic() - since_s < TAKEOVER_S:
                return True
            self._leader = None
            self._job_since_s = None
            self._stuck += 1
            self._slow_until_s[self._job_kind] = math.inf  # until it is done
            spare = self._parked - 1
        self._right.release()
        if spare < 1:
            self._grow()
        return True
