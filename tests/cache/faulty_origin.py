"""A service's downloads over real sockets, with a fault for each request.

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
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests import fault_proxy
from tests.fault_proxy import Answer, FaultProxy, Request, answer

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
    """One content at the origin. Guarded by the origin's `_serving`."""

    data: bytes
    presigned: bool
    faults: list[Fault]
    signature: int = 1
    etag: str = ""
    forged: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.etag = f'"{hashlib.md5(self.data).hexdigest()}"'


class Origin(FaultProxy):
    """The origin; use it in a ``with`` block. `_serving` guards `_served`."""

    def __init__(self) -> None:
        super().__init__(self._sound)
        self._serving = threading.Lock()
        self._served: dict[str, Served] = {}
        self.decide_with(self._decide)

    def serve(self, name: str, data: bytes, *, presigned: bool, faults: Sequence[Fault]) -> None:
        """Serve a content from now on, with these faults."""
        with self._serving:
            self._served[name] = Served(data, presigned, list(faults))

    def forget(self, name: str) -> None:
        """Serve it no longer."""
        with self._serving:
            del self._served[name]

    def heal(self) -> None:
        """Be sound from now on; what stalls ends."""
        with self._serving:
            for served in self._served.values():
                served.faults.clear()
        self.release()

    def forged(self, name: str) -> list[tuple[int, int]]:
        """Where wrong bytes of it were delivered as if they were right, half-open."""
        with self._serving:
            return list(self._served[name].forged)

    def _sound(self, request: Request) -> Answer:
        """The answer without a fault."""
        folder, name = request.path.split("/")[-2:]
        with self._serving:
            served = self._served.get(name)
            if served is None:
                return answer(404, {}, b"no such artifact")
            signature = f"signature={served.signature}"
        if folder == "artifacts" and served.presigned:
            return answer(302, {"Location": f"/blob/{name}?{signature}"}, b"")
        if folder == "blob" and not request.target.endswith(f"?{signature}"):
            return answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
        etag = {"ETag": served.etag}
        span = span_of(request, len(served.data))
        if span is None:
            return answer(200, etag, served.data)
        start, stop = span
        if start >= stop:
            return answer(416, {"Content-Range": f"bytes */{len(served.data)}"}, b"")
        named = {"Content-Range": f"bytes {start}-{stop - 1}/{len(served.data)}"}
        return answer(206, etag | named, served.data[start:stop])

    def _decide(self, request: Request) -> fault_proxy.Fault:
        """What happens to this request."""
        folder, name = request.path.split("/")[-2:]
        with self._serving:
            served = self._served.get(name)
            if served is None:
                return fault_proxy.Fault()
            redirects = folder == "artifacts" and served.presigned
            with_body = not redirects and request.method == "GET"
            if not served.faults or not (with_body or served.faults[0].kind not in _OF_BODIES):
                return fault_proxy.Fault()
            fault = served.faults.pop(0)
            if fault.kind == "expire":
                served.signature += 1
            expired = folder == "blob" and not request.target.endswith(f"={served.signature}")
            if expired and fault.kind in _OF_BODIES:
                return fault_proxy.Fault()
            made, forged = _made(fault, request, served)
            if forged is not None:
                served.forged.append(forged)
        return made


def span_of(request: Request, size: int) -> tuple[int, int] | None:
    """The range that is asked for, half-open."""
    asked = request.headers.get("range")
    if asked is None:
        return None
    first, _, last = asked.removeprefix("bytes=").partition("-")
    return int(first), min(size, int(last or size - 1) + 1)


def _made(
    fault: Fault, request: Request, served: Served
) -> tuple[fault_proxy.Fault, tuple[int, int] | None]:
    """The fault for this request, and where its answer is forged."""
    kind, at, size = fault.kind, fault.at, len(served.data)
    start, stop = span_of(request, size) or (0, size)
    length = max(0, stop - start)
    place = int(at * length)
    simple = {
        "reset": {"reset_after": place},
        "end": {"end_after": place},
        "stall": {"stall_after": place},
        "dribble": {"piece_bytes": -(-length // 7) or 1, "pause_s": DRIBBLE_S},
        "half": {"shorten_range_to": max(1, place)},
        "whole": {"drop_range": True},
        "whole chunked": {"drop_range": True, "framing": "chunked"},
        "whole until closed": {"drop_range": True, "framing": "until closed"},
        "whole cut": {"drop_range": True, "end_after": int(at * size)},
        "chunked": {"framing": "chunked"},
        "chunked cut": {"framing": "chunked", "end_after": place},
        "until closed": {"framing": "until closed"},
        "closes afterwards": {"close": True},
        "junk afterwards": {"after": b"\x00\x01 left over\r\n\r\n"},
        "no answer": {"raw": b""},
        "garbage": {"raw": b"\x15\x03\x01 this is no HTTP\r\n\r\n"},
        "redirect to itself": {"status": 302, "headers": {"Location": request.target}},
        "redirect to nowhere": {"status": 302},
        "detour": {
            "status": (301, 302, 303, 307, 308)[int(at * 4.99)],
            "headers": {
                "Location": f"/blob/{request.path.split('/')[-1]}?signature={served.signature}"
            },
        },
        "416": {"status": 416, "headers": {"Content-Range": f"bytes */{size}"}},
        "other version": {"headers": {"ETag": '"another"'}},
        "no range named": {"headers": {"Content-Range": None}},
        "other size": {
            "headers": {"Content-Range": f"bytes {start}-{stop - 1}/{size + 1 + int(at * size)}"}
        },
        "page": {"status": 200, "headers": {"Content-Type": "text/html"}, "body": PAGE},
    }
    simple["page chunked"] = simple["page"] | {"framing": "chunked"}
    if kind in _PLAIN:
        retry = {"Retry-After": "0"} if kind in ("429", "503") else {}
        return fault_proxy.Fault(
            status=int(kind), headers=retry, body=b'{"error": "a fault"}'
        ), None
    if kind in ("page", "page chunked"):
        passes = kind == "page chunked" or size == len(PAGE)
        return fault_proxy.Fault(**simple[kind]), (0, min(size, len(PAGE))) if passes else None
    if "range" not in request.headers and kind in ("half", *BODY_FINAL, *FORGING):
        return fault_proxy.Fault(), None
    if kind == "flip":
        flipped = min(length - 1, place)
        return fault_proxy.Fault(flip_at=flipped), (start + flipped, start + flipped + 1)
    body = served.data[start:stop]
    if kind == "lie":
        forged = start, min(stop, start + 4096)
        body = bytes(255 - byte for byte in body[:4096]) + body[4096:]
    elif kind == "other range":
        shift, forged = max(1, int(at * size)), None
        start = start + shift if start + shift < size else max(0, start - shift)
        stop = min(size, start + length)
        body = served.data[start:stop]
    else:
        return fault_proxy.Fault(**simple.get(kind, {})), None
    named = {"ETag": served.etag, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return fault_proxy.Fault(status=206, headers=named, body=body), forged
