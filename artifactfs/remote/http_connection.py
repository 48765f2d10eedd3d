"""One kept-alive HTTP/1.1 connection, spoken directly, for downloads and small uploads.

Downloads are what this project is measured by, and for a small range the library costs more than
the line: 200 ranges of 32 KiB from a server on the same machine took 0.75 ms each by requests,
0.37 by urllib3, 0.27 by http.client and 0.15 like this. A long body gains as well, because it goes
from the socket into the memory from where it is written to the disk, without one copy in between.

A small file that is uploaded is in the same case: 10 KiB took 0.6 ms of the interpreter by requests
and 0.2 like this.

So this speaks the one thing that is needed (RFC 9112): a request in one piece, answered by a head
and a body of known length. urllib3 makes the connection, with its TLS and its checks of
certificates. Whatever else an answer may be (chunked, without a length, HTTP/1.0, a head that is
not well formed) is `NotPlain`: nothing has been handed on yet, and what can be asked again is asked
by the library (``session``).

A connection belongs to one thread at a time; `shut_down` alone may be called by any other.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import urllib3.connection
import urllib3.exceptions

from artifactfs.remote.header_values import whole_number

_PIECE_BYTES = 4096
_MOST_HEAD_BYTES = 64 << 10
_DRAINED_BYTES = 64 << 10
_SWITCHED_PROTOCOLS = 101
_WITHOUT_BODY = frozenset({204, 304})
_STATUS_LINE = re.compile(r"HTTP/1\.1 ([1-5][0-9][0-9])(?: (.*))?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_UNFIT = frozenset("\r\n\0")
_ONCE = frozenset({"content-length", "content-range", "etag", "location"})
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class NotPlain(Exception):
    """An answer that only the library can read."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of an answer whose body has `length_bytes`. Header names are in lower case."""

    status_code: int
    reason: str
    headers: dict[str, str]
    length_bytes: int
    keeps_alive: bool


def parse_head(data: bytes) -> ResponseHead:
    """The head in `data`, which ends before the empty line (RFC 9112 §4, §5). Raises `NotPlain`."""
    first, *lines = data.decode("latin-1").split("\r\n")
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is None:
        raise NotPlain(f"a status line {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name) or not _UNFIT.isdisjoint(value):
            raise NotPlain(f"a header line {line[:80]!r}")
        name, value = name.lower(), value.strip(" \t")
        if name in headers:
            if name in _ONCE:
                raise NotPlain(f"{name} twice")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    if "transfer-encoding" in headers:
        raise NotPlain("a body in a transfer encoding")
    status_code = int(status_line[1])
    keeps_alive = headers.get("connection", "keep-alive").lower() == "keep-alive"
    length_bytes = _length_bytes(status_code, headers.get("content-length", ""))
    return ResponseHead(status_code, status_line[2] or "", headers, length_bytes, keeps_alive)


def _length_bytes(status_code: int, said: str) -> int:
    """How long the body is (RFC 9112 §6.3)."""
    if status_code < 200 or status_code in _WITHOUT_BODY:
        return 0
    length_bytes = whole_number(said)
    if length_bytes is None:
        raise NotPlain("no length")
    return length_bytes


class HttpConnection:
    """See the module. Raises urllib3's exceptions, `TimeoutError` and `NotPlain`."""

    def __init__(self, made: urllib3.connection.HTTPConnection, timeout_s: float) -> None:
        """Connect. `timeout_s` is how long the other side may be silent afterwards."""
        try:
            made.connect()
        except ssl.SSLError as error:
            made.close()
            raise urllib3.exceptions.SSLError(error) from error
        if made.sock is None:
            raise urllib3.exceptions.ProtocolError("no connection was made")
        self._made = made
        self._timeout_s = timeout_s
        self._socket: Any = made.sock
        self._socket.settimeout(timeout_s)
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN)
        self._early = memoryview(b"")
        self._left_bytes = 0
        self._keeps_alive = True
        self.idle_since_s = time.monotonic()

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent: the last body was read, nothing has come since."""
        return self._keeps_alive and not self._left_bytes and not self.is_arriving()

    def ask(self, request: bytes) -> ResponseHead:
        """Send a request, wait for the head of its answer."""
        self._left_bytes = 1  # not usable until the answer says how it goes on
        with _translated():
            self._socket.sendall(request)
            end_s = time.monotonic() + self._timeout_s
            while (head := self._receive_head(end_s)).status_code < 200:
                if head.status_code == _SWITCHED_PROTOCOLS:
                    raise NotPlain("another protocol")
            if _QUICKACK is not None and len(self._early) < head.length_bytes:
                # Else a server that sends its last packet only after an acknowledgement (Nagle),
                # and a kernel that delays that, wait 40 ms for each other.
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        if len(self._early) > head.length_bytes:
            raise NotPlain("more than was announced")
        self._left_bytes = head.length_bytes
        self._keeps_alive = head.keeps_alive
        return head

    def _receive_head(self, end_s: float) -> ResponseHead:
        """The next head. A server may neither be silent for long nor dribble for ever."""
        data = bytearray(self._early)
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _MOST_HEAD_BYTES:
                raise NotPlain("an endless head")
            if time.monotonic() >= end_s:
                raise TimeoutError("the head of the answer did not end")
            piece = self._socket.recv(_PIECE_BYTES)
            if not piece:
                raise urllib3.exceptions.ProtocolError("the connection was closed without answer")
            data += piece
        self._early = memoryview(bytes(data[end + 4 :]))
        return parse_head(bytes(data[:end]))

    def readinto(self, view: memoryview) -> int:
        """Put some of the body into `view`, once there is some; 0 at its end, or where it broke."""
        view = view[: self._left_bytes]
        if not view:
            return 0
        if self._early:
            count = min(len(view), len(self._early))
            view[:count] = self._early[:count]
            self._early = self._early[count:]
        else:
            with _translated():
                count = self._socket.recv_into(view)
            if not count:
                self._keeps_alive = False
        self._left_bytes -= count
        return count

    def is_arriving(self) -> bool:
        """Whether more can be read without waiting."""
        if self._early or self._poll.poll(0):
            return True
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def drain(self) -> None:
        """Read what is left of a body if it is little, so that the connection can be kept."""
        if not self._keeps_alive or not 0 < self._left_bytes <= _DRAINED_BYTES:
            return
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
            rest = memoryview(bytearray(self._left_bytes))
            while self.is_arriving() and self.readinto(rest):
                pass

    def shut_down(self) -> None:
        """End the reading in whatever thread it happens."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket."""
        self._made.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        raise urllib3.exceptions.ProtocolError(str(error), error) from error
