"""A request that waits is ended exactly once, by whoever comes first."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator

import pytest

from artifactfs.caller import UNSEEN_S, CallerIntent
from artifactfs.fuse.error_reply import ErrorReplies
from artifactfs.fuse.native.protocol import Opcode
from artifactfs.fuse.native.requests import (
    CHANGES,
    SETTLES,
    WAITS,
    InFlightRequests,
    Interruptible,
    Request,
)
from tests.fuse.native.fake_kernel import Answer, FakeKernel

INVISIBLE_PID = 0


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    kernel = FakeKernel()
    yield kernel
    kernel.hang_up()
    kernel.device.close(unused=True)


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every caller has a signal pending that ends it."""
    monkeypatch.setattr(
        "artifactfs.fuse.native.requests.caller_intent", lambda _: CallerIntent.STOP
    )


def deferred(
    calls: InFlightRequests, manners: Interruptible = WAITS, *, unique: int = 2, pid: int = 0
) -> Request:
    call = Request(calls, Opcode.READ, unique, 5, pid)
    calls.defer(call, manners)
    return call


def test_only_one_claims_it(kernel: FakeKernel) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies())
    call = deferred(calls)
    claims: list[bool] = []
    threads = [threading.Thread(target=lambda: claims.append(calls.claim(call))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claims) == [False] * 7 + [True]
    assert calls.waiting() == 0


def test_an_interrupt_answers_after_it_gave_up_the_work(kernel: FakeKernel, dying: None) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies())
    given_up: list[int] = []
    call = Request(calls, Opcode.READ, 2, 5, INVISIBLE_PID)
    calls.defer(call, abandon=lambda: given_up.append(1))
    calls.interrupt(2)
    assert given_up == [1]
    assert kernel.answer() == Answer(2, errno.EINTR, b"")
    assert not calls.claim(call)
    assert not calls.begin(call)


def test_a_ticket_that_fails_to_cancel_does_not_keep_the_answer_back(
    kernel: FakeKernel, dying: None, caplog: pytest.LogCaptureFixture
) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies())
    call = Request(calls, Opcode.READ, 2, 5, INVISIBLE_PID)

    def fail() -> None:
        raise RuntimeError("no")

    calls.defer(call, abandon=fail)
    calls.interrupt(2)
    assert kernel.answer().error == errno.EINTR
    assert "giving up a request failed" in caplog.text


@pytest.mark.parametrize(
    ("manners", "begun", "ends"),
    [
        (WAITS, False, True),
        (WAITS, True, True),
        (CHANGES, False, True),
        (CHANGES, True, False),
        (SETTLES, False, False),
        (SETTLES, True, False),
    ],
)
def test_manners_say_what_an_interrupt_ends(
    kernel: FakeKernel, dying: None, manners: Interruptible, begun: bool, ends: bool
) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies())
    call = deferred(calls, manners)
    if begun:
        assert calls.begin(call)
    calls.interrupt(2)
    assert calls.claim(call) is not ends


def test_an_interrupted_caller_that_cannot_be_seen_is_given_a_moment(kernel: FakeKernel) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies())
    watch = threading.Thread(target=calls.watch)
    watch.start()
    try:
        began_s = time.monotonic()
        deferred(calls)
        calls.interrupt(2)
        assert kernel.answer() == Answer(2, errno.EINTR, b"")
        assert time.monotonic() - began_s >= UNSEEN_S
    finally:
        calls.close()
        watch.join()


def test_a_flush_that_takes_long_lets_its_caller_go_in_the_end(kernel: FakeKernel) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies())
    watch = threading.Thread(target=calls.watch)
    watch.start()
    try:
        call = deferred(calls, Interruptible(unbegun=False, after_s=0.2))
        calls.interrupt(2)
        assert calls.begin(call)
        assert kernel.answer() == Answer(2, errno.EINTR, b"")
    finally:
        calls.close()
        watch.join()


def test_a_deadline_ends_whatever_it_is(kernel: FakeKernel) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies(), deadline_s=0.2)
    watch = threading.Thread(target=calls.watch)
    watch.start()
    try:
        call = deferred(calls, CHANGES)
        assert calls.begin(call)
        assert kernel.answer() == Answer(2, errno.ETIMEDOUT, b"")
        assert not calls.claim(call)
    finally:
        calls.close()
        watch.join()


def test_without_a_deadline_nothing_is_ever_overdue(kernel: FakeKernel) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies())
    watch = threading.Thread(target=calls.watch)
    watch.start()
    call = deferred(calls, pid=os.getpid())
    calls.interrupt(2)  # this process has nothing pending: it may go on
    calls.close()
    watch.join()
    assert calls.claim(call)


@pytest.mark.parametrize(
    "opcode", [Opcode.LOOKUP, Opcode.CREATE, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR]
)
def test_a_directory_is_locked_while_a_call_about_it_is_under_way(
    kernel: FakeKernel, opcode: Opcode
) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies())
    call = Request(calls, opcode, 2, 77, 0)
    calls.defer(call)
    assert calls.keeps_locked(77)
    assert not calls.keeps_locked(78)
    calls.claim(call)
    assert not calls.keeps_locked(77)


def test_a_rename_keeps_both_directories_locked_and_a_read_none(kernel: FakeKernel) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies())
    rename, read = Request(calls, Opcode.RENAME2, 2, 77, 0), Request(calls, Opcode.READ, 4, 80, 0)
    rename.target = 79
    for call in (rename, read):
        calls.defer(call)
    assert [calls.keeps_locked(nodeid) for nodeid in (77, 78, 79, 80)] == [True, False, True, False]


LOCK_A_DIRECTORY = (
    "LOOKUP", "CREATE", "MKNOD", "MKDIR", "SYMLINK", "LINK", "UNLINK", "RMDIR", "RENAME", "RENAME2",
    "READDIR", "READDIRPLUS", "SETATTR", "FSYNCDIR", "SETXATTR", "REMOVEXATTR",
)  # fmt: skip


@pytest.mark.parametrize("name", LOCK_A_DIRECTORY)
def test_a_directory_is_locked_while_a_request_about_it_waits(
    kernel: FakeKernel, name: str
) -> None:
    calls = InFlightRequests(kernel.device, ErrorReplies())
    call = Request(calls, Opcode[name], 2, 5, 0)
    calls.defer(call)
    assert calls.keeps_locked(5)
    assert not calls.keeps_locked(6)
    assert calls.claim(call)
    assert not calls.keeps_locked(5)
