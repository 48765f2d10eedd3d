"""The other end of the device, played by the test: a pair of sockets that keep messages apart.

With it a whole session runs without a mount, and can be sent what no kernel would ever send.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from artifactfs.fuse.binding import MountOptions
from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.device import Device
from artifactfs.fuse.native.session import NativeSession
from artifactfs.vfs.node import Tree

ANSWER_S = 10.0


@dataclass(frozen=True)
class Answer:
    """One message of the driver's. `error` is an errno, above zero, or 0."""

    unique: int
    error: int
    body: bytes


class FakeKernel:
    """Asks like the kernel. `device` is the driver's end."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._socket.settimeout(ANSWER_S)
        for one in (ours, theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.device = Device(theirs.detach())
        self._numbers = count(2, 2)

    def send(self, message: bytes) -> None:
        """Any bytes at all."""
        self._socket.send(message)

    def ask(self, opcode: int, nodeid: int = 1, body: bytes = b"", *, pid: int = 0) -> int:
        """A well-formed request; its number."""
        unique = next(self._numbers)
        length = protocol.IN_HEADER.size + len(body)
        self.send(protocol.IN_HEADER.pack(length, opcode, unique, nodeid, 0, 0, pid, 0, 0) + body)
        return unique

    def answer(self) -> Answer:
        """The driver's next message."""
        message = self._socket.recv(2 << 20)
        length, error, unique = protocol.OUT_HEADER.unpack_from(message)
        assert length == len(message)
        return Answer(unique, -error if unique else error, message[protocol.OUT_HEADER.size :])

    def asked(self, opcode: int, nodeid: int = 1, body: bytes = b"") -> Answer:
        """A request and its answer, when nothing else is under way."""
        unique = self.ask(opcode, nodeid, body)
        answer = self.answer()
        assert answer.unique == unique
        return answer

    def answer_to(self, unique: int) -> Answer:
        """The answer with this number; what comes before it is passed over."""
        while (answer := self.answer()).unique != unique:
            pass
        return answer

    def greet(self) -> Answer:
        """INIT."""
        flags = (1 << 64) - 1 & ~protocol.PASSTHROUGH
        body = protocol.INIT_IN.pack(7, 45, 1 << 17, flags & 0xFFFFFFFF)
        return self.asked(
            protocol.Opcode.INIT, 0, body + (flags >> 32).to_bytes(4, "little") + bytes(44)
        )

    def interrupt(self, unique: int) -> None:
        """INTERRUPT of a request."""
        body = protocol.INTERRUPT_IN.pack(unique)
        message = protocol.IN_HEADER.pack(
            48, protocol.Opcode.INTERRUPT, unique | 1, 0, 0, 0, 0, 0, 0
        )
        self.send(message + body)

    def hang_up(self) -> None:
        """The end of the connection."""
        self._socket.close()


@contextmanager
def running_session(tree: Tree) -> Iterator[FakeKernel]:
    """A session that answers a fake kernel, after INIT; it leaves no thread behind."""
    kernel = FakeKernel()
    session = NativeSession(
        kernel.device,
        tree,
        MountOptions("test", 1000, 1000),
        backing_directory=Path("/tmp"),
        stack_depth=1,
        on_end=lambda: None,
    )
    session.start()
    try:
        kernel.greet()
        session.wait_ready()
        yield kernel
    finally:
        kernel.hang_up()
        session.close(10.0)
