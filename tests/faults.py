"""A proxy that breaks, delays, truncates and corrupts what passes between client and service.

It forwards whole HTTP/1.1 requests to one service and counts them by method and path. `break_with`
adds a rule; the first rule that matches a request and is not used up decides what happens to it.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.listening import Listening

PIECE = 64 * 1024
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}


@dataclass
class Fault:
    """What happens to a request. All offsets count in the answer's body.

    It is meant if `path` is in its path, or is the `whole` of it.

    `delay_s` comes before anything else; `status` answers instead of the service; `reset_after` and
    `end_after` cut the connection, hard or softly; `stall_after` stops sending until the proxy
    closes; `flip_at` changes one bit; `drop_range` asks the service for the whole.
    """

    method: str = ""
    path: str = ""
    whole: bool = False
    times: int = 1
    skip: int = 0
    delay_s: float = 0.0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset_after: int | None = None
    end_after: int | None = None
    stall_after: int | None = None
    flip_at: int | None = None
    drop_range: bool = False
    lose_answer: bool = False

    def matches(self, method: str, path: str) -> bool:
        fits = self.path == path if self.whole else self.path in path
        return self.method in ("", method) and fits


class FaultProxy(Listening):
    """The proxy; use it in a ``with`` block. `counts` holds requests by (method, path).

    `_lock` guards them and the rules as well.
    """

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = urlsplit(target)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.sent_bytes = 0
        self._faults: list[Fault] = []
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._handler = Handler

    def converse(self, connection: socket.socket) -> None:
        self._handler(connection, ("a client", 0), self)  # type: ignore[arg-type]
        connection.shutdown(socket.SHUT_WR)

    def break_with(self, **how: object) -> Fault:
        """Add a rule."""
        fault = Fault(**how)  # type: ignore[arg-type]
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._faults.clear()

    def count(self, method: str, path: str = "") -> int:
        """How many requests of this method had `path` in their path."""
        with self._lock:
            return sum(n for (m, p), n in self.counts.items() if m == method and path in p)

    def take(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.counts[method, path] += 1
            for fault in self._faults:
                if not fault.matches(method, path) or fault.times == 0:
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def connect(self) -> http.client.HTTPConnection:
        host, port = self._target.hostname, self._target.port
        assert host is not None
        return http.client.HTTPConnection(host, port, timeout=60)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultProxy
    wbufsize = 0

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        return

    def handle_one_request(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            super().handle_one_request()
            return
        self.close_connection = True

    def _serve(self) -> None:
        fault = self.owner.take(self.command, urlsplit(self.path).path) or Fault()
        if fault.delay_s:
            self.owner.closing.wait(fault.delay_s)
        if fault.status is not None:
            self._skip_body()
            self._answer(fault.status, {**fault.headers, "Content-Length": str(len(fault.body))})
            self.wfile.write(fault.body)
            return
        upstream = self.owner.connect()
        try:
            self._forward(upstream, fault)
            response = upstream.getresponse()
            if fault.lose_answer:
                response.read()
                self._cut(hard=True)
                return
            self._relay(response, fault)
        finally:
            upstream.close()

    def _forward(self, upstream: http.client.HTTPConnection, fault: Fault) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() in HOP_BY_HOP or (fault.drop_range and name.lower() == "range"):
                continue
            upstream.putheader(name, value)
        upstream.endheaders()
        for piece in self._body():
            upstream.send(piece)

    def _body(self) -> Iterator[bytes]:
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            piece = self.rfile.read(min(PIECE, left))
            if not piece:
                raise ConnectionError("the client went away")
            left -= len(piece)
            yield piece

    def _skip_body(self) -> None:
        for _ in self._body():
            pass

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()

    def _relay(self, response: http.client.HTTPResponse, fault: Fault) -> None:
        headers = dict(response.getheaders())
        if "Content-Length" not in headers and self.command != "HEAD":
            headers["Connection"] = "close"
            self.close_connection = True
        self._answer(response.status, headers)
        if self.command == "HEAD":
            return
        sent = 0
        while piece := response.read1(PIECE):
            for limit in (fault.reset_after, fault.end_after, fault.stall_after):
                if limit is not None:
                    piece = piece[: max(0, limit - sent)]
            if fault.flip_at is not None and sent <= fault.flip_at < sent + len(piece):
                changed = bytearray(piece)
                changed[fault.flip_at - sent] ^= 1
                piece = bytes(changed)
            self.wfile.write(piece)
            sent += len(piece)
            self.owner.sent_bytes += len(piece)
            if fault.stall_after is not None and sent >= fault.stall_after:
                self.owner.closing.wait()
                self.close_connection = True
                return
            if fault.reset_after is not None and sent >= fault.reset_after:
                self._cut(hard=True)
                return
            if fault.end_after is not None and sent >= fault.end_after:
                self._cut(hard=False)
                return

    def _cut(self, *, hard: bool) -> None:
        self.close_connection = True
        if hard:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - the library's names


def eventually(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until something comes true; fail if it does not."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"did not come true in {within_s} s"
        time.sleep(0.01)
