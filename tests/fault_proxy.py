"""A server on loopback that passes requests on, or answers them itself, and fails as a test says.

`FaultProxy` stands between a client and a service. What answers is one of

* the URL of a service, to which whole HTTP/1.1 requests are forwarded,
* a function from `Request` to `Answer`,
* a list of `Reply` functions that write bytes to the socket (`Scripted`); each request takes the
  next one, the last one again and again.

With ``http=False`` it forwards the bytes of each connection to the host and port of the URL and
looks at none of them.

Faults are values and can be combined. `StreamFault` is what happens to a stream of bytes, `Fault`
what happens to a request and its answer; the byte offsets of a `Fault` count in the answer's body,
those of its `request` in the request's body. `FaultProxy.break_with` adds a rule for requests,
`FaultProxy.break_connections` one for the raw bytes of whole connections. The first rule that
matches and is not used up decides. Rules may be added and removed (`FaultProxy.heal`) at any time;
a rule holds from the next request or connection on. `FaultProxy.freeze` lets the connections that
are open die silently; `FaultProxy.release` ends what stalls.

Faults that are no matter of a proxy are here as well: `server_context` makes certificates that are
right or wrong, `failing_resolver` has names that do not resolve. ``host="::1"`` listens on IPv6
only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.listening import Listening

PIECE_BYTES = 64 * 1024
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}
LOGIN_PAGE: dict[str, Any] = {
    "status": 200,
    "headers": {"Content-Type": "text/html"},
    "body": b"<html><title>Please log in to the network</title></html>",
}
"""The answer of a captive portal: ``break_with(**LOGIN_PAGE)``."""


@dataclass(frozen=True, kw_only=True)
class StreamFault:
    """What happens to a stream of bytes. All offsets count from its beginning.

    `bytes_per_s` limits the rate. `piece_bytes` and `pause_s` send small pieces with a pause after
    each. `flip_at` changes one bit, `omit` leaves a half-open range out, `repeat` sends one twice.
    `reset_after` ends the connection with RST, `end_after` with FIN; `stall_after` sends nothing
    more and closes nothing.
    """

    bytes_per_s: float = 0.0
    piece_bytes: int = 0
    pause_s: float = 0.0
    flip_at: int | None = None
    omit: tuple[int, int] | None = None
    repeat: tuple[int, int] | None = None
    reset_after: int | None = None
    end_after: int | None = None
    stall_after: int | None = None

    @property
    def cut(self) -> tuple[int, str] | None:
        """The offset of the first cut, and its kind."""
        cuts = {"reset": self.reset_after, "end": self.end_after, "stall": self.stall_after}
        return min(((at, kind) for kind, at in cuts.items() if at is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Fault(StreamFault):
    """What happens to a request and its answer, besides what happens to the answer's body.

    Instead of an answer: `status` with `headers` and `body`; `raw` bytes and the connection's end;
    `silent` is no answer on a connection that stays open; `lose_answer` resets the connection when
    the service has answered.

    Before: `delay_s` comes before anything else. `drop_range` asks the service for the whole,
    `shorten_range_to` for so many bytes of the range only. `request` happens to the request's body.

    The answer's head: `headers` sets headers, or removes those that are None. `shift_range` has
    ``Content-Range`` name a place that many bytes further. `head_pause_s` comes before each line.

    The answer's body: `gzip` compresses it. `framing` is ``length``, ``chunked``, ``until closed``,
    ``no last chunk`` or ``bad chunk size``. `after` follows the answer, `close` ends the connection
    then. `expires_after` ends the connection after so many bytes, and the same target (a signed
    URL) is answered with 403 from then on.
    """

    delay_s: float = 0.0
    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    silent: bool = False
    lose_answer: bool = False
    drop_range: bool = False
    shorten_range_to: int | None = None
    request: StreamFault = StreamFault()
    shift_range: int = 0
    head_pause_s: float = 0.0
    gzip: bool = False
    framing: str = ""
    after: bytes = b""
    close: bool = False
    expires_after: int | None = None


@dataclass(frozen=True)
class Request:
    """The head of a request. `number` counts the requests of its connection from 1."""

    method: str
    target: str
    headers: Mapping[str, str]
    lines: Sequence[tuple[str, str]]
    number: int
    head: str

    @property
    def path(self) -> str:
        """The target without its query."""
        return urlsplit(self.target).path


@dataclass
class Answer:
    """An answer before any fault. `length` is None where its end is not known beforehand."""

    status: int
    headers: list[tuple[str, str]]
    body: Iterable[bytes] = ()
    length: int | None = None


def answer(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """An answer of known length."""
    return Answer(status, list(headers.items()), [body] if body else [], len(body))


Reply = Callable[[socket.socket, str], bool]
"""Answers a request, whose head it is given; whether the connection goes on."""


def sends(*pieces: bytes, goes_on: bool = True) -> Reply:
    """A reply of these bytes, each piece in a packet of its own."""

    def reply(connection: socket.socket, _head: str) -> bool:
        for piece in pieces:
            connection.sendall(piece)
        return goes_on

    return reply


@dataclass(frozen=True, kw_only=True)
class Match:
    """Which requests a rule is for; what is not given matches all.

    `path` is a part of the path, or the `whole` of it; `pattern` is searched for in the target with
    its query. `ranged` is whether a range is asked for, `reused` whether the connection has carried
    a request before. `where` is any other condition.
    """

    method: str = ""
    path: str = ""
    whole: bool = False
    pattern: str = ""
    ranged: bool | None = None
    reused: bool | None = None
    where: Callable[[Request], bool] | None = None

    def matches(self, request: Request) -> bool:
        """Whether the request is one of them."""
        path = request.path
        return (
            self.method in ("", request.method)
            and (self.path == path if self.whole else self.path in path)
            and re.search(self.pattern, request.target) is not None
            and self.ranged in (None, "range" in request.headers)
            and self.reused in (None, request.number > 1)
            and (self.where is None or self.where(request))
        )


@dataclass
class Rule:
    """A fault and how often it happens: `times` times (-1: always) after `skip` matches."""

    fault: Any
    match: Match = Match()
    times: int = 1
    skip: int = 0

    def take(self) -> bool:
        """Whether it happens now, to something that it matches."""
        if self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True, kw_only=True)
class ConnectionFault:
    """What happens to the bytes of a connection: `down` to the client, `up` from it.

    `delay_s` comes before the first of them, or before the TLS handshake.
    """

    down: StreamFault = StreamFault()
    up: StreamFault = StreamFault()
    delay_s: float = 0.0


class Cut(OSError):
    """The conversation has been ended by a fault."""


_MATCH = {one.name for one in fields(Match)}


class FaultProxy(Listening):
    """The server; use it in a ``with`` block. It is thread-safe.

    `requests` are the heads of all requests, `counts` how many there were by (method, path),
    `accepted` the number of connections and `sent_bytes` how many bytes of bodies were sent.
    """

    def __init__(
        self,
        upstream: str | Callable[[Request], Answer] | Sequence[Reply],
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        http: bool = True,
    ) -> None:
        super().__init__(host, tls)
        self._upstream = upstream
        self._http = http
        self.replies: list[Reply] = (
            [] if isinstance(upstream, str) or callable(upstream) else list(upstream)
        )
        self.requests: list[Request] = []
        self.heads: list[str] = []
        self.bodies: list[bytes] = []  # of the requests that a reply answered
        self.counts: Counter[tuple[str, str]] = Counter()
        self.sent_bytes = 0
        self._rules: list[Rule] = []
        self._connection_rules: list[Rule] = []
        self._expired: set[str] = set()
        self._frozen: set[socket.socket] = set()
        self._released = threading.Event()

    # Rules

    def break_with(self, *, times: int = 1, skip: int = 0, **how: Any) -> Rule:
        """Add a rule for requests: words of `Match` and of `Fault`."""
        match = Match(**{name: how.pop(name) for name in list(how) if name in _MATCH})
        rule = Rule(Fault(**how), match, times, skip)
        with self._lock:
            self._rules.append(rule)
        return rule

    def break_connections(self, *, times: int = 1, skip: int = 0, **how: Any) -> Rule:
        """Add a rule for connections that are accepted from now on: words of `ConnectionFault`."""
        rule = Rule(ConnectionFault(**how), Match(), times, skip)
        with self._lock:
            self._connection_rules.append(rule)
        return rule

    def decide_with(self, decide: Callable[[Request], Fault]) -> Rule:
        """Add a rule for all requests whose fault is made for each of them."""
        rule = Rule(decide, times=-1)
        with self._lock:
            self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Forget all rules, and what has expired. What stalls goes on stalling."""
        with self._lock:
            self._rules.clear()
            self._connection_rules.clear()
            self._expired.clear()

    def freeze(self) -> None:
        """Have all connections that are open now die silently: nothing passes, nothing closes."""
        with self._lock:
            self._frozen |= self._open

    def release(self) -> None:
        """End the connections that stall now."""
        with self._lock:
            released, self._released = self._released, threading.Event()
        released.set()

    def end(self) -> None:
        """Shut what is open, and see the threads end."""
        self.closing.set()
        self.release()
        super().end()

    # What was asked

    def count(self, method: str, path: str = "") -> int:
        """How many requests of this method had `path` in their path."""
        with self._lock:
            return sum(n for (m, p), n in self.counts.items() if m == method and path in p)

    def _fault_for(self, request: Request) -> Fault:
        with self._lock:
            self.counts[request.method, request.path] += 1
            self.requests.append(request)
            self.heads.append(request.head)
            rules = (one for one in self._rules if one.match.matches(request) and one.take())
            rule = next(rules, None)
            expired = request.target in self._expired
        if rule is not None:
            return rule.fault(request) if callable(rule.fault) else rule.fault
        if expired:
            return Fault(status=403, body=b"<Error><Code>AccessDenied</Code></Error>")
        return Fault()

    # Connections

    def converse(self, connection: socket.socket) -> None:
        with self._lock:
            rules = (rule for rule in self._connection_rules if rule.take())
            fault = next((rule.fault for rule in rules), ConnectionFault())
        link = _Link(self, connection, fault)
        self.pause(fault.delay_s)
        if self._http:
            while (request := link.request()) is not None and self._answered(link, request):
                pass
        else:
            self._pass_bytes(link)
        if not isinstance(connection, ssl.SSLSocket):
            connection.shutdown(socket.SHUT_WR)

    def pause(self, seconds: float) -> None:
        """Wait, but not past the proxy's end."""
        if seconds > 0:
            self.closing.wait(seconds)

    def stall(self) -> None:
        """Wait until the connections that stall are ended."""
        with self._lock:
            released = self._released
        if not self.closing.is_set():
            released.wait()
        raise Cut("stalled")

    def is_frozen(self, connection: socket.socket) -> bool:
        """Whether this connection is dead."""
        with self._lock:
            return connection in self._frozen

    def connect(self, timeout_s: float = 60) -> socket.socket:
        """A connection to the upstream service."""
        assert isinstance(self._upstream, str)
        parts = urlsplit(self._upstream)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        return socket.create_connection((parts.hostname, port), timeout=timeout_s)

    def _pass_bytes(self, link: _Link) -> None:
        with self.connect() as upstream:
            upstream.settimeout(None)
            back = threading.Thread(target=link.send_all_of, args=(upstream,), name="answers")
            back.start()
            try:
                while piece := link.read1(PIECE_BYTES):
                    upstream.sendall(piece)
                upstream.shutdown(socket.SHUT_WR)
                while back.is_alive() and not self.closing.is_set():
                    back.join(0.05)
            finally:
                with contextlib.suppress(OSError):
                    upstream.shutdown(socket.SHUT_RDWR)
                link.abandon()
                back.join()

    # Requests

    def _answered(self, link: _Link, request: Request) -> bool:
        """Whether the connection goes on."""
        fault = self._fault_for(request)
        self.pause(fault.delay_s)
        if fault.silent:
            self.stall()
        request = _as_asked(request, fault)
        sent = _Stream(self, link, fault.request, lambda piece: None)
        if fault.raw is not None:
            link.skip_body(sent)
            link.write(fault.raw)
            return False
        if fault.status is not None:
            link.skip_body(sent)
            said = {name: value for name, value in fault.headers.items() if value is not None}
            return link.send(request, answer(fault.status, said, fault.body), fault)
        if not isinstance(self._upstream, str):
            body = link.skip_body(sent)
            if callable(self._upstream):
                return link.send(request, self._upstream(request), fault)
            with self._lock:
                self.bodies.append(body)
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            return reply(link.socket, request.head)
        return self._forwarded(link, request, fault)

    def _forwarded(self, link: _Link, request: Request, fault: Fault) -> bool:
        upstream = http.client.HTTPConnection("upstream")
        upstream.sock = self.connect()
        try:
            upstream.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.lines:
                if name.lower() not in HOP_BY_HOP | {"expect"}:
                    upstream.putheader(name, value)
            if "transfer-encoding" in request.headers:
                upstream.putheader("Transfer-Encoding", "chunked")
            upstream.endheaders()
            link.skip_body(_Stream(self, link, fault.request, upstream.send))
            response = upstream.getresponse()
            if fault.lose_answer:
                response.read()
                link.cut("reset")
            headers = [one for one in response.getheaders() if one[0].lower() not in HOP_BY_HOP]
            length = None if request.method == "HEAD" else response.length
            pieces = iter(lambda: response.read1(PIECE_BYTES), b"")
            return link.send(request, Answer(response.status, headers, pieces, length), fault)
        except http.client.HTTPException as error:
            raise Cut(str(error)) from error
        finally:
            upstream.close()

    def expire(self, target: str) -> None:
        """Answer this target with 403 from now on."""
        with self._lock:
            self._expired.add(target)


class Scripted(FaultProxy):
    """A server that sends exactly the bytes that a test has written down for each request."""

    def __init__(
        self, *replies: Reply, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(replies, host=host, tls=tls)


class _Stream:
    """Passes bytes on to `send`, with a fault."""

    def __init__(
        self, proxy: FaultProxy, link: _Link, fault: StreamFault, send: Callable[[Any], object]
    ) -> None:
        self._proxy = proxy
        self._link = link
        self._fault = fault
        self._send = send
        self._sound = fault == StreamFault()
        self._passed = 0
        self._kept = bytearray()

    def check(self) -> None:
        """Cut where the fault says so."""
        if self._fault.cut is not None and self._passed >= self._fault.cut[0]:
            self._link.cut(self._fault.cut[1])

    def write(self, data: bytes | memoryview) -> None:
        """Pass the next bytes on; `Cut` ends it."""
        if self._sound:
            self._send(data)
            return
        self.check()
        cut = self._fault.cut
        if cut is not None:
            data = data[: cut[0] - self._passed]
        out = self._altered(bytes(data))
        self._passed += len(data)
        fault = self._fault
        step = fault.piece_bytes or max(1, int(fault.bytes_per_s / 50)) if _paced(fault) else 0
        for at in range(0, len(out), step or len(out) or 1):
            piece = out[at : at + (step or len(out))]
            self._send(piece)
            self._proxy.pause(
                fault.pause_s + (len(piece) / fault.bytes_per_s if fault.bytes_per_s else 0)
            )
        self.check()

    def _altered(self, data: bytes) -> bytes:
        start, out, fault = self._passed, bytearray(), self._fault
        for position, byte in enumerate(data, start) if _alters(fault, start, len(data)) else ():
            out.append(byte ^ 1 if position == fault.flip_at else byte)
            if fault.repeat is not None and fault.repeat[0] <= position < fault.repeat[1]:
                self._kept.append(out[-1])
                if position + 1 == fault.repeat[1]:
                    out += self._kept
            if fault.omit is not None and fault.omit[0] <= position < fault.omit[1]:
                del out[-1]
        return bytes(out) if _alters(fault, start, len(data)) else data


def _paced(fault: StreamFault) -> bool:
    return bool(fault.piece_bytes or fault.bytes_per_s)


def _alters(fault: StreamFault, start: int, size: int) -> bool:
    spans = [span for span in (fault.omit, fault.repeat) if span is not None]
    if fault.flip_at is not None:
        spans.append((fault.flip_at, fault.flip_at + 1))
    return any(first < start + size and start < last for first, last in spans)


class _Link(io.RawIOBase):
    """One connection of a client: reads requests, sends answers. For one thread.

    It is the raw stream below its own buffered reader.
    """

    def __init__(
        self, proxy: FaultProxy, connection: socket.socket, fault: ConnectionFault
    ) -> None:
        self._proxy = proxy
        self.socket = connection
        self._came = bytearray()
        self._up = _Stream(proxy, self, fault.up, self._came.extend)
        self._down = _Stream(proxy, self, fault.down, connection.sendall)
        self._reader = io.BufferedReader(self, PIECE_BYTES)
        self._requests = 0
        self._unread_bytes: int | None = 0  # of the request's body; None: it comes in chunks

    # Bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """What has come from the client, after what happens to it."""
        self._up.check()
        while not self._came:
            data = self.socket.recv(PIECE_BYTES)
            self._check_alive()
            if not data:
                return 0
            self._up.write(data)
        count = min(len(buffer), len(self._came))
        buffer[:count] = self._came[:count]
        del self._came[:count]
        return count

    def read1(self, size: int) -> bytes:
        """What has come, at least one byte unless it is the end."""
        return self._reader.read1(size)

    def write(self, data: Any) -> int:
        """Send to the client, with what happens to it."""
        self._check_alive()
        self._down.write(data)
        return len(data)

    def send_all_of(self, upstream: socket.socket) -> None:
        """Send what comes from `upstream` until its end."""
        with contextlib.suppress(OSError):
            self._down.check()
            while piece := upstream.recv(PIECE_BYTES):
                self.write(piece)
            self.socket.shutdown(socket.SHUT_WR)

    def abandon(self) -> None:
        """Shut the connection, whatever is on the way."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def cut(self, kind: str) -> None:
        """End the connection with RST (``reset``) or FIN (``end``), or ``stall``."""
        if kind == "stall":
            self._proxy.stall()
        if kind == "reset":
            unspecified = bytes(16)  # AF_UNSPEC disconnects (connect(2)), also under another's recv
            ctypes.CDLL(None).connect(self.socket.fileno(), unspecified, len(unspecified))
        else:
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
        raise Cut(kind)

    def _check_alive(self) -> None:
        if self._proxy.is_frozen(self.socket):
            self._proxy.stall()

    # Requests

    def request(self) -> Request | None:
        """The next request's head, None at the end of the connection."""
        self._down.check()
        lines = []
        while (line := self._reader.readline()) not in (b"\r\n", b"\n", b""):
            lines.append(line.decode("latin-1").rstrip("\r\n"))
        if not lines or not line:
            return None
        self._requests += 1
        method, target, _version = lines[0].split(" ", 2)
        pairs = [
            (name, value.strip()) for name, _, value in (one.partition(":") for one in lines[1:])
        ]
        headers = {name.lower(): value for name, value in pairs}
        length = int(headers.get("content-length", 0))
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._unread_bytes = None if chunked else length
        if "100-continue" in headers.get("expect", "").lower():
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(method, target, headers, pairs, self._requests, "\r\n".join(lines))

    def skip_body(self, stream: _Stream) -> bytes:
        """Read the request's body and pass it to `stream`; small bodies are returned."""
        stream.check()
        kept = bytearray()
        for piece in self._body():
            if len(kept) <= 1 << 20:
                kept += piece
            stream.write(piece)
        return bytes(kept)

    def _body(self) -> Iterator[bytes]:
        """The pieces of the request's body, as it is sent on: chunks with their sizes."""
        left = self._unread_bytes
        if left is None:
            yield from self._chunks()
            return
        while left > 0:
            piece = self._reader.read1(min(PIECE_BYTES, left))
            if not piece:
                raise Cut("the client went away")
            left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while size := self._reader.readline():
            yield size
            count = int(size.partition(b";")[0], 16)
            if count == 0:
                while (line := self._reader.readline()) not in (b"\r\n", b""):
                    yield line
                yield b"\r\n"
                return
            yield self._reader.read(count + 2)

    # Answers

    def send(self, request: Request, answer: Answer, fault: Fault) -> bool:
        """Send an answer with what happens to it; whether the connection goes on."""
        headers, body, length = list(answer.headers), answer.body, answer.length
        bare = request.method == "HEAD" or answer.status in (204, 304)
        if fault.status is None:
            changed = {name.lower() for name in fault.headers}
            headers = [pair for pair in headers if pair[0].lower() not in changed]
            headers += [(name, value) for name, value in fault.headers.items() if value is not None]
        headers = [(name, _shifted(name, value, fault.shift_range)) for name, value in headers]
        if fault.gzip and not bare:
            whole = gzip.compress(b"".join(body))
            body, length = [whole], len(whole)
            headers.append(("Content-Encoding", "gzip"))
        framing = fault.framing or ("chunked" if length is None else "length")
        has_length = any(name.lower() == "content-length" for name, _ in headers)
        if not bare:
            headers = [pair for pair in headers if pair[0].lower() != "content-length"]
            headers.append(_framing_header(framing, length))
        elif length is not None and not has_length and request.method == "HEAD":
            headers.append(("Content-Length", str(length)))
        self._send_head(answer.status, headers, fault.head_pause_s)
        if not bare:
            self._send_body(request, body, framing, fault)
        if fault.after:
            self.write(fault.after)
        asked_to_close = request.headers.get("connection", "").lower() == "close"
        return not (fault.close or framing == "until closed" or asked_to_close)

    def _send_head(self, status: int, headers: list[tuple[str, str]], pause_s: float) -> None:
        reason = http.client.responses.get(status, "Odd")
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
        head = [f"{line}\r\n".encode("latin-1") for line in lines] + [b"\r\n"]
        for piece in head if pause_s else [b"".join(head)]:
            self._proxy.pause(pause_s)
            self.write(piece)

    def _send_body(
        self, request: Request, body: Iterable[bytes], framing: str, fault: Fault
    ) -> None:
        def send(piece: bytes) -> None:
            if not piece:
                return
            self._proxy.sent_bytes += len(piece)  # before the client can have seen it
            if framing == "bad chunk size":
                half = piece[: len(piece) // 2]
                self.write(
                    b"%x\r\n%b\r\nno size\r\n" % (len(half), half) if half else b"no size\r\n"
                )
                self.write(piece[len(half) :])
                self.cut("end")
            elif framing in ("chunked", "no last chunk"):
                self.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            else:
                self.write(piece)

        stream = _Stream(self._proxy, self, _body_fault(fault), send)
        left = fault.expires_after
        stream.check()
        for piece in body:
            if left is not None and len(piece) >= left:
                stream.write(piece[:left])
                self._proxy.expire(request.target)
                self.cut("end")
            if left is not None:
                left -= len(piece)
            stream.write(piece)
        if framing == "chunked":
            self.write(b"0\r\n\r\n")
        elif framing == "no last chunk":
            self.cut("end")


def _framing_header(framing: str, length: int | None) -> tuple[str, str]:
    if framing == "length":
        return "Content-Length", str(length)
    if framing == "until closed":
        return "Connection", "close"
    return "Transfer-Encoding", "chunked"


def _body_fault(fault: Fault) -> StreamFault:
    return StreamFault(**{one.name: getattr(fault, one.name) for one in fields(StreamFault)})


def _as_asked(request: Request, fault: Fault) -> Request:
    """The request with the range that the service is asked for."""
    value = request.headers.get("range")
    if value is None or not (fault.drop_range or fault.shorten_range_to):
        return request
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", value)
    others = {name: value for name, value in request.headers.items() if name != "range"}
    lines = [pair for pair in request.lines if pair[0].lower() != "range"]
    if not fault.drop_range and fault.shorten_range_to is not None and found is not None:
        start = int(found[1])
        last = start + fault.shorten_range_to - 1
        others["range"] = f"bytes={start}-{min(last, int(found[2] or last))}"
        lines.append(("Range", others["range"]))
    return replace(request, headers=others, lines=lines)


def _shifted(name: str, value: str, by: int) -> str:
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(.+)", value)
    if by == 0 or name.lower() != "content-range" or found is None:
        return value
    return f"bytes {int(found[1]) + by}-{int(found[2]) + by}/{found[3]}"


# Faults outside of a proxy


def server_context(
    directory: Path, *names: str, expired: bool = False, self_signed: bool = False
) -> ssl.SSLContext:
    """A server's TLS context with a certificate for `names`, for ``FaultProxy(tls=...)``.

    Its authority's certificate is ``ca.pem`` in `directory`, made at the first call; a
    `self_signed` certificate has none.
    """
    now = datetime.now(UTC)
    authority = directory / "ca.pem", directory / "ca.key"
    if not authority[0].exists():
        _certificate(*authority, "The test's own authority", [], now + timedelta(days=2))
    at = directory / "server.pem", directory / "server.key"
    until = now - timedelta(days=1) if expired else now + timedelta(days=2)
    _certificate(*at, names[0], list(names), until, None if self_signed else authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*at)
    return context


def _certificate(
    at: Path,
    key_at: Path,
    common_name: str,
    names: list[str],
    until: datetime,
    issuer: tuple[Path, Path] | None = None,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    issued_by, signing_key = subject, key
    if issuer is not None:
        issued_by = x509.load_pem_x509_certificate(issuer[0].read_bytes()).subject
        loaded = serialization.load_pem_private_key(issuer[1].read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signing_key = loaded
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - timedelta(days=3))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
    )
    if not names:
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(usage, critical=True)
    else:
        shown = [_general_name(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(shown), critical=False)
    made = builder.sign(signing_key, hashes.SHA256())
    at.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_at.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@contextlib.contextmanager
def failing_resolver(*hosts: str, error: int = socket.EAI_AGAIN) -> Iterator[list[str]]:
    """No name of `hosts` resolves in this process; the list is of those that were asked for."""
    real, asked = socket.getaddrinfo, []

    def resolve(host: Any, *more: Any, **keywords: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in hosts:
            asked.append(name)
            raise socket.gaierror(error, "a fault")
        return real(host, *more, **keywords)

    socket.getaddrinfo = resolve
    try:
        yield asked
    finally:
        socket.getaddrinfo = real
