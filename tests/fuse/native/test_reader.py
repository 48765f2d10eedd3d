"""The reading thread does what is brief itself, and is replaced when it was not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from artifactfs.fuse.error_reply import ErrorReplies
from artifactfs.fuse.native.dispatch import RequestBuffers, RequestDispatcher
from artifactfs.fuse.native.protocol import Opcode
from artifactfs.fuse.native.reader import MOST_STUCK, ReaderThreads
from artifactfs.fuse.native.requests import InFlightRequests, Request
from tests.fuse.mounted import wait_until
from tests.fuse.native.fake_kernel import FakeKernel

BRIEF, STUCK, BROKEN, PLAIN = Opcode.MKDIR, Opcode.RMDIR, Opcode.UNLINK, Opcode.GETATTR


class Parts:
    """A crew with three operations: PLAIN answers, BRIEF as a job, STUCK as a job that waits."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.calls = InFlightRequests(self.kernel.device, ErrorReplies())
        self.ended = threading.Event()
        self.crew = ReaderThreads(self.kernel.device, RequestBuffers(65_536), self.ended.set)
        self.go_on = threading.Event()
        self.taken: list[bool] = []
        self.job_threads: list[str] = []
        self.readers: list[str] = []
        handlers = {
            int(BRIEF): self.brief,
            int(STUCK): self.stuck,
            int(BROKEN): self.broken,
            int(PLAIN): self.plain,
        }
        self.crew.start(RequestDispatcher(self.calls, handlers))

    def plain(self, call: Request, _body: memoryview) -> None:
        self.readers.append(threading.current_thread().name)
        call.answer()

    def brief(self, call: Request, _body: memoryview) -> None:
        self.offer(call, lambda: None)

    def stuck(self, call: Request, _body: memoryview) -> None:
        self.offer(call, lambda: self.go_on.wait(30))

    def broken(self, call: Request, _body: memoryview) -> None:
        def fail() -> None:
            raise SystemExit

        self.offer(call, fail)

    def offer(self, call: Request, act: object) -> None:
        def job() -> None:
            self.job_threads.append(threading.current_thread().name)
            try:
                act()  # type: ignore[operator]
            finally:
                call.answer()

        taken = self.crew.take(call.opcode, job)
        self.taken.append(taken)
        if not taken:
            call.answer()

    def warm_up(self, opcode: int = BRIEF) -> None:
        """Until jobs of this kind are taken: a spare thread is parked, none was slow lately."""

        def is_taken() -> bool:
            self.kernel.asked(opcode)
            return self.taken[-1]

        wait_until(is_taken)

    def get_stuck(self) -> int:
        """Until a job is taken that does not end; the number of its request."""

        def is_stuck() -> int | None:
            before = len(self.taken)
            unique = self.kernel.ask(STUCK)
            wait_until(lambda: len(self.taken) > before)
            if self.taken[-1]:
                return unique
            self.kernel.answer_to(unique)
            return None

        unique: int = wait_until(is_stuck)
        return unique


@pytest.fixture
def parts() -> Iterator[Parts]:
    parts = Parts()
    yield parts
    parts.go_on.set()
    parts.kernel.hang_up()
    assert parts.ended.wait(10)
    assert parts.crew.join(10)
    parts.kernel.device.close(unused=True)


def test_a_brief_job_is_done_by_the_thread_that_reads(parts: Parts) -> None:
    parts.warm_up()
    parts.kernel.asked(PLAIN)
    assert parts.job_threads[-1] == parts.readers[-1]


def test_a_stuck_job_costs_its_thread_the_right_to_read(parts: Parts) -> None:
    stuck = parts.get_stuck()
    began_s = time.monotonic()
    assert parts.kernel.asked(PLAIN).error == 0
    assert time.monotonic() - began_s < 1.0
    assert parts.readers[-1] != parts.job_threads[-1]
    parts.go_on.set()
    assert parts.kernel.answer_to(stuck).error == 0
    for _ in range(20):
        assert parts.kernel.asked(PLAIN).error == 0


def test_what_was_slow_is_not_taken_again_at_once_but_later(parts: Parts) -> None:
    stuck = parts.get_stuck()
    parts.kernel.asked(PLAIN)
    parts.kernel.asked(STUCK)
    assert parts.taken[-1] is False
    parts.go_on.set()
    parts.kernel.answer_to(stuck)
    parts.warm_up(STUCK)


def test_a_job_that_raises_ends_nothing(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    parts.warm_up()
    parts.warm_up(BROKEN)
    assert parts.kernel.asked(PLAIN).error == 0
    wait_until(lambda: "a job failed" in caplog.text)


def test_only_the_reading_thread_may_hand_in_jobs(parts: Parts) -> None:
    parts.warm_up()
    assert parts.crew.take(BRIEF, lambda: None) is False


def test_many_stuck_jobs_are_not_taken_without_end(parts: Parts) -> None:
    """Each kind gets stuck at most once at a time, and all of them together so many times."""
    names = {thread.name for thread in threading.enumerate()}
    parts.warm_up()
    for _ in range(50):
        parts.kernel.ask(STUCK)
    parts.kernel.answer_to(parts.kernel.ask(PLAIN))
    grown = {thread.name for thread in threading.enumerate()} - names
    assert len(grown) <= MOST_STUCK + 4
    parts.go_on.set()


def test_the_end_while_a_job_is_stuck_is_told_at_once() -> None:
    parts = Parts()
    parts.get_stuck()
    parts.kernel.asked(PLAIN)
    parts.kernel.hang_up()
    assert parts.ended.wait(10)
    assert not parts.crew.join(0.05)
    parts.go_on.set()
    assert parts.crew.join(10)
    parts.kernel.device.close(unused=True)
