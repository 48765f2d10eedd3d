"""The reading thread outlives every message, and each request is answered exactly once."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.protocol import Opcode
from tests.fuse.faults import FaultyTree, Plan
from tests.fuse.memory_tree import MemoryTree
from tests.fuse.mounted import wait_until
from tests.fuse.native.fake_kernel import Answer, FakeKernel, running_session

SETTINGS = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def plan() -> Plan:
    return Plan()


@pytest.fixture
def kernel(tmp_path: Path, plan: Plan) -> Iterator[FakeKernel]:
    """A session over the memory tree; `plan` makes it fail or wait."""
    tree = MemoryTree(tmp_path / "backed.bin", lambda name: plan.strike("arrive", name))
    tree.start()
    before = set(threading.enumerate())
    try:
        with running_session(FaultyTree(tree, plan)) as kernel:
            yield kernel
            plan.let_go()
    finally:
        plan.let_go()
        tree.close()
    left = [one.name for one in set(threading.enumerate()) - before if one.name.startswith("fuse")]
    assert left == []


def is_alive(kernel: FakeKernel) -> bool:
    answer = kernel.answer_to(kernel.ask(Opcode.GETATTR, 1, bytes(16)))
    return answer.error == 0 and len(answer.body) == protocol.ATTR_OUT.size


def look_up(kernel: FakeKernel, *names: str) -> int:
    """Walk from the root; the last one's number."""
    nodeid = 1
    for name in names:
        answer = kernel.asked(Opcode.LOOKUP, nodeid, os.fsencode(name) + b"\0")
        assert answer.error == 0
        nodeid = protocol.ENTRY_OUT.unpack_from(answer.body)[0]
    return nodeid


def opened(kernel: FakeKernel, nodeid: int, flags: int = os.O_RDONLY) -> int:
    answer = kernel.asked(Opcode.OPEN, nodeid, protocol.OPEN_IN.pack(flags, 0))
    assert answer.error == 0
    fh: int = protocol.OPEN_OUT.unpack(answer.body)[0]
    return fh


def read_body(fh: int, start: int = 0, size: int = 4096) -> bytes:
    return protocol.READ_IN.pack(fh, start, size, 0, 0, 0, 0)


@SETTINGS
@given(message=st.binary(max_size=300))
def test_any_bytes_at_all(kernel: FakeKernel, message: bytes) -> None:
    if message:  # an empty one is the end
        kernel.send(message)
    assert is_alive(kernel)


OPCODES = st.sampled_from([int(opcode) for opcode in Opcode] + [0, 7, 999, 4096, 1 << 31])


@SETTINGS
@given(
    opcode=OPCODES,
    nodeid=st.integers(0, 12) | st.integers(0, (1 << 64) - 1),
    body=st.binary(max_size=200),
)
def test_a_right_header_with_any_body(
    kernel: FakeKernel, opcode: int, nodeid: int, body: bytes
) -> None:
    unique = kernel.ask(opcode, nodeid, body)
    if opcode not in protocol.WITHOUT_ANSWER:
        assert kernel.answer_to(unique).unique == unique
    assert is_alive(kernel)


@SETTINGS
@given(opcode=OPCODES, claimed=st.integers(0, (1 << 32) - 1), body=st.binary(max_size=100))
def test_a_length_that_lies(kernel: FakeKernel, opcode: int, claimed: int, body: bytes) -> None:
    header = protocol.IN_HEADER.pack(claimed, opcode, 1 << 40, 1, 0, 0, 0, 0, 0)
    lies = claimed != len(header) + len(body)
    kernel.send(header + body)
    if opcode not in protocol.WITHOUT_ANSWER:
        answer = kernel.answer_to(1 << 40)
        assert not lies or answer.error == errno.EIO
    assert is_alive(kernel)


@SETTINGS
@given(data=st.data())
def test_fields_that_lie_about_what_follows(kernel: FakeKernel, data: st.DataObject) -> None:
    """Sizes, counts and numbers inside a body are the sender's word, no more."""
    number = st.integers(0, (1 << 32) - 1) | st.integers(0, 64)
    drawn = data.draw
    body = drawn(
        st.sampled_from(
            [
                (Opcode.WRITE, protocol.WRITE_IN.pack(1, 0, drawn(number), 0, 0, 0, 0) + b"abc"),
                (Opcode.BATCH_FORGET, protocol.BATCH_FORGET_IN.pack(drawn(number), 0) + bytes(32)),
                (Opcode.SETXATTR, protocol.SETXATTR_IN.pack(drawn(number), 0) + b"user.x\0v"),
                (Opcode.GETXATTR, protocol.GETXATTR_IN.pack(drawn(number), 0) + b"user.x"),
                (Opcode.READ, read_body(drawn(number), drawn(number), drawn(number))),
                (Opcode.READDIRPLUS, read_body(drawn(number), drawn(number), drawn(number))),
                (Opcode.RENAME2, protocol.RENAME2_IN.pack(drawn(number), 0, 0) + b"one\0two"),
                (Opcode.FORGET, protocol.FORGET_IN.pack(drawn(number))),
                (Opcode.INTERRUPT, protocol.INTERRUPT_IN.pack(drawn(number))),
            ]
        )
    )
    kernel.ask(body[0], 1, body[1])
    assert is_alive(kernel)


def test_what_is_not_known_is_enosys_and_logged_once(
    kernel: FakeKernel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        assert kernel.asked(Opcode.POLL, 1, bytes(24)).error == errno.ENOSYS
        assert kernel.asked(60_000).error == errno.ENOSYS
    assert caplog.text.count("poll is not answered") == 1
    assert caplog.text.count("60000 is not answered") == 1


def test_an_enosys_of_the_trees_never_switches_an_operation_off(
    kernel: FakeKernel, plan: Plan
) -> None:
    plan.fail("open", "hello.txt", "ENOSYS", None)
    nodeid = look_up(kernel, "fixed", "hello.txt")
    answer = kernel.asked(Opcode.OPEN, nodeid, protocol.OPEN_IN.pack(0, 0))
    assert answer.error == errno.EOPNOTSUPP


def test_an_interrupted_open_is_answered_at_once_and_undone(kernel: FakeKernel, plan: Plan) -> None:
    nodeid = look_up(kernel, "fixed", "hello.txt")
    plan.hold("open", "hello.txt")
    unique = kernel.ask(Opcode.OPEN, nodeid, protocol.OPEN_IN.pack(0, 0))
    wait_until(lambda: plan.held("open") == 1)
    kernel.interrupt(unique)
    assert kernel.answer() == Answer(unique, errno.EINTR, b"")
    plan.let_go()
    wait_until(lambda: plan.counts().get("release") == 1)
    assert is_alive(kernel)


def test_an_interrupted_read_is_answered_at_once_and_its_bytes_are_dropped(
    kernel: FakeKernel, plan: Plan
) -> None:
    fh = opened(kernel, nodeid := look_up(kernel, "fixed", "fetched.bin"))
    plan.hold("arrive", "fetched.bin")
    unique = kernel.ask(Opcode.READ, nodeid, read_body(fh))
    wait_until(lambda: plan.held("arrive") == 1)
    kernel.interrupt(unique)
    assert kernel.answer() == Answer(unique, errno.EINTR, b"")
    assert kernel.asked(Opcode.RELEASE, nodeid, protocol.RELEASE_IN.pack(fh, 0, 0, 0)).error == 0
    plan.let_go()
    assert is_alive(kernel)


def test_a_file_is_released_only_when_its_interrupted_read_is_over(
    kernel: FakeKernel, plan: Plan
) -> None:
    fh = opened(kernel, nodeid := look_up(kernel, "fixed", "slow.txt"))
    plan.hold("read", "slow.txt")
    unique = kernel.ask(Opcode.READ, nodeid, read_body(fh))
    wait_until(lambda: plan.held("read") == 1)
    kernel.interrupt(unique)
    assert kernel.answer().error == errno.EINTR
    assert kernel.asked(Opcode.RELEASE, nodeid, protocol.RELEASE_IN.pack(fh, 0, 0, 0)).error == 0
    assert is_alive(kernel)
    assert plan.counts().get("release") is None
    plan.let_go()
    wait_until(lambda: plan.counts().get("release") == 1)


def test_an_interrupt_for_what_is_answered_already_changes_nothing(kernel: FakeKernel) -> None:
    unique = kernel.ask(Opcode.GETATTR, 1, bytes(16))
    kernel.answer_to(unique)
    kernel.interrupt(unique)
    assert is_alive(kernel)


def test_what_changes_the_disk_is_not_torn_out_of_the_middle(
    kernel: FakeKernel, plan: Plan
) -> None:
    drop = look_up(kernel, "drop")
    plan.hold("make_directory", "new")
    unique = kernel.ask(Opcode.MKDIR, drop, protocol.MKDIR_IN.pack(0o755, 0) + b"new\0")
    wait_until(lambda: plan.held("make_directory") == 1)
    kernel.interrupt(unique)
    assert is_alive(kernel)
    plan.let_go()
    answer = kernel.answer()
    assert (answer.unique, answer.error) == (unique, 0)


def test_a_flush_is_carried_out_though_its_caller_is_gone(kernel: FakeKernel, plan: Plan) -> None:
    drop = look_up(kernel, "drop")
    body = protocol.CREATE_IN.pack(os.O_WRONLY | os.O_CREAT, 0o644, 0, 0) + b"a\0"
    created = kernel.asked(Opcode.CREATE, drop, body).body
    fh = protocol.OPEN_OUT.unpack_from(created, protocol.ENTRY_OUT.size)[0]
    nodeid = protocol.ENTRY_OUT.unpack_from(created)[0]
    plan.hold("flush", "a")
    unique = kernel.ask(Opcode.FLUSH, nodeid, protocol.FLUSH_IN.pack(fh, 0, 0, 0))
    kernel.interrupt(unique)
    wait_until(lambda: plan.held("flush") == 1)
    assert is_alive(kernel)
    plan.let_go()
    wait_until(lambda: plan.counts().get("flush") == 1)
    assert kernel.answer_to(unique).unique == unique


def test_a_write_of_a_megabyte_arrives_while_others_are_read(
    kernel: FakeKernel, plan: Plan
) -> None:
    """The buffer of a write that waits is not used for the messages after it."""
    drop = look_up(kernel, "drop")
    body = protocol.CREATE_IN.pack(os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + b"a\0"
    created = kernel.asked(Opcode.CREATE, drop, body).body
    fh = protocol.OPEN_OUT.unpack_from(created, protocol.ENTRY_OUT.size)[0]
    nodeid = protocol.ENTRY_OUT.unpack_from(created)[0]
    data = bytes(range(256)) * 400
    plan.hold("write", "a")
    unique = kernel.ask(
        Opcode.WRITE, nodeid, protocol.WRITE_IN.pack(fh, 0, len(data), 0, 0, 0, 0) + data
    )
    wait_until(lambda: plan.held("write") == 1)
    for _ in range(20):
        kernel.asked(
            Opcode.SETXATTR,
            1,
            protocol.SETXATTR_IN.pack(90_000, 0) + b"trusted.x\0" + b"z" * 90_000,
        )
    plan.let_go()
    answer = kernel.answer_to(unique)
    assert protocol.WRITE_OUT.unpack(answer.body)[0] == len(data)
    assert kernel.asked(Opcode.READ, nodeid, read_body(fh, 0, len(data))).body == data


def test_the_end_of_the_connection_leaves_nothing_waiting(tmp_path: Path, plan: Plan) -> None:
    tree = MemoryTree(tmp_path / "backed.bin", lambda name: plan.strike("arrive", name))
    tree.start()
    try:
        with running_session(FaultyTree(tree, plan)) as kernel:
            nodeid = look_up(kernel, "fixed", "fetched.bin")
            fh = opened(kernel, nodeid)
            plan.hold("arrive", "fetched.bin")
            kernel.ask(Opcode.READ, nodeid, read_body(fh))
            wait_until(lambda: plan.held("arrive") == 1)
            plan.let_go()
        wait_until(lambda: plan.counts().get("release") == 1)  # the read may just be answering
    finally:
        plan.let_go()
        tree.close()
