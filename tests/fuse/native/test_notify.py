"""Notifications go out once, in time, and never where they could get stuck."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from artifactfs.fuse.error_reply import ErrorReplies
from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.inodes import InodeTable
from artifactfs.fuse.native.notify import Notifier
from artifactfs.fuse.native.protocol import Opcode
from artifactfs.fuse.native.requests import InFlightRequests, Request
from artifactfs.vfs.node import EntryChanged
from tests.fuse.native.fake_kernel import FakeKernel
from tests.fuse.native.test_inodes import Empty, Plain


class Turns:
    def __init__(self) -> None:
        self.turn = 0


class Parts:
    """A notifier and what it depends on."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.inodes = InodeTable(Empty())
        self.calls = InFlightRequests(self.kernel.device, ErrorReplies())
        self.turns = Turns()
        self.notifier = Notifier(self.kernel.device, self.inodes, self.calls, self.turns)


@pytest.fixture
def parts() -> Iterator[Parts]:
    parts = Parts()
    yield parts
    assert parts.notifier.close(10)
    parts.kernel.hang_up()
    parts.kernel.device.close(unused=True)


def next_change(kernel: FakeKernel) -> tuple[int, bytes]:
    """The directory and the name of the next notification, which must be INVAL_ENTRY."""
    message = kernel.answer()
    assert (message.unique, message.error) == (0, protocol.NOTIFY_INVAL_ENTRY)
    parent, length, flags = protocol.NOTIFY_INVAL_ENTRY_OUT.unpack_from(message.body)
    name = message.body[protocol.NOTIFY_INVAL_ENTRY_OUT.size :]
    assert (len(name), name[-1:], flags) == (length + 1, b"\0", 0)
    return parent, name[:-1]


def test_a_change_is_told_with_its_directory_and_its_bytes(parts: Parts) -> None:
    parts.notifier.start()
    parts.notifier.tell(EntryChanged(1, "caf\u00e9-\udcff"))
    assert next_change(parts.kernel) == (1, "caf\u00e9-".encode() + b"\xff")


def test_what_the_kernel_does_not_know_is_not_told(parts: Parts) -> None:
    parts.notifier.start()
    parts.notifier.tell(EntryChanged(99, "a"))
    parts.notifier.tell(EntryChanged(1, "b"))
    assert next_change(parts.kernel) == (1, b"b")


def test_the_same_change_is_told_once(parts: Parts) -> None:
    for _ in range(1000):
        parts.notifier.tell(EntryChanged(1, "a"))
    parts.notifier.tell(EntryChanged(1, "b"))
    parts.notifier.start()
    assert next_change(parts.kernel) == (1, b"a")
    assert next_change(parts.kernel) == (1, b"b")


def test_a_directory_in_which_a_look_up_waits_is_told_later(parts: Parts) -> None:
    parts.inodes.remember(Plain(7))
    call = Request(parts.calls, Opcode.LOOKUP, 2, 7, 0)
    parts.calls.defer(call)
    parts.notifier.start()
    parts.notifier.tell(EntryChanged(7, "a"))
    parts.notifier.tell(EntryChanged(1, "b"))
    assert next_change(parts.kernel) == (1, b"b")
    parts.notifier.tell(EntryChanged(1, "c"))
    assert next_change(parts.kernel) == (1, b"c")
    assert parts.calls.claim(call)
    assert next_change(parts.kernel) == (7, b"a")


def test_the_request_under_way_is_waited_for(parts: Parts) -> None:
    """Its answer may have been computed before the change."""
    parts.turns.turn = 1
    parts.notifier.start()
    parts.notifier.tell(EntryChanged(1, "a"))
    received: list[tuple[int, bytes]] = []
    receiver = threading.Thread(target=lambda: received.append(next_change(parts.kernel)))
    receiver.start()
    receiver.join(0.1)
    assert received == []
    parts.turns.turn = 2
    receiver.join(10)
    assert received == [(1, b"a")]


def test_after_the_end_nothing_is_told(parts: Parts) -> None:
    parts.notifier.start()
    assert parts.notifier.close(10)
    parts.notifier.tell(EntryChanged(1, "a"))
    assert parts.notifier.close(10)


def test_one_that_was_never_started_can_be_closed(parts: Parts) -> None:
    assert parts.notifier.close(10)


def test_the_end_of_the_connection_ends_the_thread(parts: Parts) -> None:
    parts.kernel.hang_up()
    parts.notifier.start()
    parts.notifier.tell(EntryChanged(1, "a"))
    assert parts.notifier.close(10)
