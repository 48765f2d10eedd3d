"""A service's downloads over real sockets, made for speed, with a fault for each request.

`Origin` answers what a download asks: ``/api/v1/artifacts/<id>`` with the bytes or, where a content
is presigned, with a redirect to ``/blob/<id>?signature=<number>``, which is refused once the number
is no longer the current one. Each content has a list of `Fault`s; each request takes the next one,
and when there are none left the origin is sound again, as it is for all contents after `heal`.

Some faults deliver bytes that are not the content's while nothing in the answer says so (a flipped
bit, another range under the right ``Content-Range``). The origin writes down where: `forged` is the
only place where a reader may ever see a wrong byte.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.listening import Listening, heads

STALL_S = 3.0
DRIBBLE_S = 0.004
PAGE = b"<html><title>Please log in to the network</title>" + b"<p>Hello.</p>" * 24_000 + b"</html>"

BODY_BEARABLE = (
    "reset",
    "end",
    "stall",
    "dribble",
    "half",
    "whole",
    "whole chunked",
    "whole until closed",
    "whole cut",
    "chunked",
    "chunked cut",
    "until closed",
    "closes afterwards",
    "junk afterwards",
)
BEARABLE = (
    *BODY_BEARABLE,
    "408",
    "425",
    "429",
    "500",
    "502",
    "503",
    "504",
    "no answer",
    "garbage",
    "expire",
    "detour",
)
BODY_FINAL = ("other range", "other size", "other version", "page", "416", "no range named")
FINAL = (*BODY_FINAL, "404", "410", "403", "422", "redirect to itself", "redirect to nowhere")
FORGING = ("flip", "lie", "page chunked")
_OF_BODIES = frozenset((*BODY_BEARABLE, *BODY_FINAL, *FORGING))
_PLAIN = frozenset(("408", "425", "429", "500", "502", "503", "504", "404", "410", "403", "422"))


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request; `at` from 0 to 1 says where in the body."""

    kind: str
    at: float = 0.5


@dataclass(slots=True)
class Served:
    """One content at the origin. Guarded by the origin's lock."""

    data: bytes
    presigned: bool
    faults: list[Fault]
    signature: int = 1
    forged: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """One answer as it goes out: how its end is told, and where it is cut."""

    status: int
    headers: dict[str, str]
    body: memoryview | bytes
    framing: str = "length"
    cut_at: int | None = None
    cut: str = ""
    close: bool = False
    after: bytes = b""


class Origin(Listening):
    """The origin; use it in a ``with`` block. `_lock` guards `_served` as well."""

    def __init__(self) -> None:
        super().__init__()
        self._served: dict[str, Served] = {}
        self._healed = threading.Event()

    def end(self) -> None:
        """End it, and whatever stalls."""
        self._healed.set()
        super().end()

    def serve(self, name: str, data: bytes, *, presigned: bool, faults: Sequence[Fault]) -> None:
        """Serve a content from now on, with these faults."""
        self._healed.clear()
        with self._lock:
            self._served[name] = Served(data, presigned, list(faults))

    def forget(self, name: str) -> None:
        """Serve it no longer."""
        with self._lock:
            del self._served[name]

    def heal(self) -> None:
        """Be sound from now on; what stalls goes on."""
        with self._lock:
            for served in self._served.values():
                served.faults.clear()
        self._healed.set()

    def forged(self, name: str) -> list[tuple[int, int]]:
        """Where wrong bytes of it were delivered as if they were right, half-open."""
        with self._lock:
            return list(self._served[name].forged)

    def converse(self, connection: socket.socket) -> None:
        for head in heads(connection):
            method, target, headers = _parsed(head)
            answer = self._answer(method, target, headers)
            if answer is None or not self._send(connection, method, answer):
                return

    def _answer(self, method: str, target: str, headers: dict[str, str]) -> Answer | None:
        path, _, query = target.partition("?")
        *_, folder, name = path.split("/")
        with self._lock:
            served = self._served.get(name)
            if served is None:
                return Answer(404, {}, b"no such artifact")
            redirects = folder == "artifacts" and served.presigned
            fault = self._next(served, with_body=not redirects and method == "GET")
            if fault.kind == "expire":
                served.signature += 1
            signature = served.signature
        if fault.kind == "no answer":
            return None
        if fault.kind in _PLAIN:
            retry = {"Retry-After": "0"} if fault.kind in ("429", "503") else {}
            return Answer(int(fault.kind), retry, b'{"error": "a fault"}')
        if fault.kind == "garbage":
            return Answer(0, {}, b"\x15\x03\x01 this is no HTTP\r\n\r\n", close=True)
        if fault.kind == "redirect to itself":
            return Answer(302, {"Location": target}, b"")
        if fault.kind == "redirect to nowhere":
            return Answer(302, {}, b"")
        if redirects or fault.kind == "detour":
            status = (301, 302, 303, 307, 308)[int(fault.at * 4.99)]
            return Answer(status, {"Location": f"/blob/{name}?signature={signature}"}, b"")
        if folder == "blob" and query != f"signature={signature}":
            return Answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
        answer, forged = _with_body(served.data, headers.get("range"), fault)
        if forged is not None:
            with self._lock:
                served.forged.append(forged)
        return answer

    @staticmethod
    def _next(served: Served, *, with_body: bool) -> Fault:
        if served.faults and (with_body or served.faults[0].kind not in _OF_BODIES):
            return served.faults.pop(0)
        return Fault("none")

    def _send(self, connection: socket.socket, method: str, answer: Answer) -> bool:
        """Whether the connection can go on."""
        body = memoryview(b"") if method == "HEAD" else memoryview(answer.body)
        cut_at = len(body) if answer.cut_at is None else answer.cut_at
        if answer.status == 0:
            connection.sendall(answer.body)
            return False
        connection.sendall(_head(answer))
        for piece in _pieces(body[:cut_at], 7 if answer.cut == "dribble" else 1):
            if answer.framing == "chunked":
                connection.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
            else:
                connection.sendall(piece)
            if answer.cut == "dribble":
                time.sleep(DRIBBLE_S)
        if answer.cut == "stall":
            self._healed.wait(STALL_S)
            return False
        if answer.cut == "reset":
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        if answer.cut == "end":
            return False
        if answer.framing == "chunked":
            connection.sendall(b"0\r\n\r\n")
        connection.sendall(answer.after)
        return not answer.close and answer.framing != "until closed"


def _parsed(head: str) -> tuple[str, str, dict[str, str]]:
    """Method, target and headers of a request."""
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    return method, target, {name.lower(): value.strip() for name, _, value in pairs}


def _head(answer: Answer) -> bytes:
    headers = dict(answer.headers)
    if answer.framing == "length":
        headers["Content-Length"] = str(len(answer.body))
    elif answer.framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
    else:
        headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {answer.status} Such", *(f"{name}: {headers[name]}" for name in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _pieces(body: memoryview, count: int) -> Iterator[memoryview]:
    step = max(1, -(-len(body) // count))
    for start in range(0, len(body), step):
        yield body[start : start + step]


def _with_body(
    data: bytes, asked: str | None, fault: Fault
) -> tuple[Answer, tuple[int, int] | None]:
    """The answer to a request for bytes, and where they are forged."""
    whole = memoryview(data)
    size = len(data)
    start, stop = 0, size
    if asked is not None:
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(size, int(last) + 1)
    kind = fault.kind
    etag = {"ETag": f'"{hashlib.md5(whole).hexdigest()}"'}
    if kind == "416" or start >= size > 0:
        return Answer(416, {"Content-Range": f"bytes */{size}"}, b""), None
    if kind in ("page", "page chunked"):
        framing = "chunked" if kind == "page chunked" else "length"
        forged = (0, min(size, len(PAGE))) if framing == "chunked" or size == len(PAGE) else None
        return Answer(200, {"Content-Type": "text/html"}, PAGE, framing), forged
    if asked is None or kind.startswith("whole"):
        framing = {"whole chunked": "chunked", "whole until closed": "until closed"}.get(kind)
        answer = Answer(200, etag, whole, framing or "length")
        if kind == "whole cut":
            answer.cut, answer.cut_at = "end", int(fault.at * size)
        return answer, None
    if kind == "half":
        stop = start + max(1, int(fault.at * (stop - start)))
    shown_start, shown_stop, shown_size = start, stop, size
    body: memoryview | bytes = whole[start:stop]
    forged = None
    if kind == "other range":
        shift = max(1, int(fault.at * size))
        shown_start = start + shift if start + shift < size else max(0, start - shift)
        shown_stop = min(size, shown_start + stop - start)
        body = whole[shown_start:shown_stop]
    elif kind == "other size":
        shown_size = size + 1 + int(fault.at * size)
    elif kind == "other version":
        etag = {"ETag": '"another"'}
    elif kind == "flip":
        at = min(stop - 1, start + int(fault.at * (stop - start)))
        changed = bytearray(body)
        changed[at - start] ^= 1 << int(fault.at * 7)
        body, forged = bytes(changed), (at, at + 1)
    elif kind == "lie":
        body, forged = (
            bytes(255 - byte for byte in body[:4096]) + body[4096:],
            (
                start,
                min(stop, start + 4096),
            ),
        )
    headers = etag | {"Content-Range": f"bytes {shown_start}-{shown_stop - 1}/{shown_size}"}
    if kind == "no range named":
        del headers["Content-Range"]
    answer = Answer(206, headers, body)
    if kind in ("reset", "end", "stall", "dribble"):
        answer.cut = kind
        answer.cut_at = int(fault.at * len(body)) if kind != "dribble" else None
    elif kind.startswith("chunked"):
        answer.framing = "chunked"
        if kind == "chunked cut":
            answer.cut, answer.cut_at = "end", int(fault.at * len(body))
    elif kind == "until closed":
        answer.framing = kind
    elif kind == "closes afterwards":
        answer.close = True
    elif kind == "junk afterwards":
        answer.after = b"\x00\x01 left over\r\n\r\n"
    return answer, forged
