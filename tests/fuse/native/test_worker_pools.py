"""Threads for what may wait: bounded, and never in the way of the end."""

from __future__ import annotations

import threading

import pytest

from artifactfs.fuse.native.worker_pools import WorkerPool


def test_jobs_are_done_by_no_more_threads_than_allowed() -> None:
    pool = WorkerPool("test", 3)
    go_on, done = threading.Event(), threading.Semaphore(0)
    names: set[str] = set()

    def job() -> None:
        names.add(threading.current_thread().name)
        go_on.wait(10)
        done.release()

    for _ in range(10):
        assert pool.submit(job)
    go_on.set()
    for _ in range(10):
        assert done.acquire(timeout=10)
    assert pool.close(10)
    assert names <= {"test-0", "test-1", "test-2"}


def test_one_job_after_the_other_needs_one_thread() -> None:
    pool = WorkerPool("test", 8)
    names: set[str] = set()
    for _ in range(20):
        done = threading.Event()
        pool.submit(lambda done=done: (names.add(threading.current_thread().name), done.set()))
        assert done.wait(10)
    assert pool.close(10)
    assert len(names) <= 2  # the thread may still be on its way back when the next job comes


@pytest.mark.parametrize("error", [KeyError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_job_that_fails_does_not_end_its_thread(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    pool = WorkerPool("test", 1)
    done = threading.Event()

    def fail() -> None:
        raise error

    pool.submit(fail)
    pool.submit(done.set)
    assert done.wait(10)
    assert pool.close(10)
    assert "a job failed" in caplog.text


def test_what_was_taken_is_done_before_the_end() -> None:
    pool = WorkerPool("test", 2)
    done: list[int] = []
    for number in range(50):
        pool.submit(lambda number=number: done.append(number))
    assert pool.close(10)
    assert sorted(done) == list(range(50))
    assert not pool.submit(lambda: None)


def test_a_job_that_hangs_does_not_hold_up_the_end() -> None:
    pool = WorkerPool("test", 2)
    go_on = threading.Event()
    pool.submit(lambda: go_on.wait(30))
    assert not pool.close(0.05)
    go_on.set()
    assert pool.close(10)
