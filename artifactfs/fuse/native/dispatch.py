"""Messages: the memory they are read into, and how each one finds its handler.

A message is read into a buffer that is used again and again (the first touch of fresh memory costs
more than the request). A handler that needs the message longer, a write that another thread carries
out, keeps the buffer and gives it back when it is done; the reading thread takes another one.

No message can end the reading thread. What is too short, lies about its length, or makes a handler
raise is answered with an errno if it has a number at all, and logged.
"""

from __future__ import annotations

import errno
import logging
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Final

from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.requests import InFlightRequests, Request

_log = logging.getLogger(__name__)

Handler = Callable[[Request, memoryview], bool | None]
"""Carries out one request. True: the message's memory is still in use when it returns."""

_SPARE_BUFFERS: Final = 8
_UNPACK: Final = protocol.IN_HEADER.unpack_from
_HEADER_BYTES: Final = protocol.HEADER_BYTES


class RequestBuffers:
    """Memory for messages. `_lock` guards `_spare`."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._lock = threading.Lock()
        self._spare: list[bytearray] = []

    def take(self) -> bytearray:
        """A buffer nobody else uses."""
        with self._lock:
            if self._spare:
                return self._spare.pop()
        return bytearray(self._size_bytes)

    def give_back(self, part: memoryview) -> None:
        """Return the buffer that `part` is a view of."""
        buffer = part.obj
        part.release()
        if isinstance(buffer, bytearray):
            with self._lock:
                if len(self._spare) < _SPARE_BUFFERS:
                    self._spare.append(buffer)


class RequestDispatcher:
    """Finds the handler of each message. Used by the reading thread only."""

    def __init__(self, calls: InFlightRequests, handlers: Mapping[int, Handler]) -> None:
        self._calls = calls
        self._handlers = handlers
        self._unknown: set[int] = set()

    def carry_out(self, message: memoryview) -> bool:
        """Carry out one message. True: its memory is still in use. Raises nothing."""
        try:
            length, opcode, unique, nodeid, _, _, pid, _, _ = _UNPACK(message)
        except struct.error:
            _log.warning("a message of %d bytes is none of the kernel's", len(message))
            return False
        call = Request(self._calls, opcode, unique, nodeid, pid)
        handler = self._handlers.get(opcode)
        try:
            if length != len(message):
                self._refuse_lie(call, length, len(message))
            elif handler is not None:
                return bool(handler(call, message[_HEADER_BYTES:]))
            else:
                self._refuse_unknown(call)
        except protocol.NameTooLong:
            call.refuse(errno.ENAMETOOLONG)
        except (struct.error, ValueError, IndexError) as error:
            _log.warning("%s: %s", protocol.OPERATIONS.get(opcode, opcode), error)
            if opcode not in protocol.WITHOUT_ANSWER:
                call.refuse(errno.EIO)
        except BaseException as error:  # noqa: BLE001 - nothing may end the thread
            call.fail(error)
        return False

    def _refuse_lie(self, call: Request, claimed_bytes: int, length_bytes: int) -> None:
        _log.warning("a message of %d bytes claims %d", length_bytes, claimed_bytes)
        if call.opcode not in protocol.WITHOUT_ANSWER:
            call.refuse(errno.EIO)

    def _refuse_unknown(self, call: Request) -> None:
        if call.opcode not in self._unknown:
            self._unknown.add(call.opcode)
            _log.debug("%s is not answered", protocol.OPERATIONS.get(call.opcode, call.opcode))
        if call.opcode not in protocol.WITHOUT_ANSWER:
            call.refuse(errno.ENOSYS)
