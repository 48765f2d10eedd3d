"""Server-sent events, from bytes as they come. Pure: it is fed, and gives back what is complete.

The format is that of the HTML standard, §9.2.6: UTF-8, a byte order mark at the very beginning is
dropped, lines end with CRLF, LF or CR, an empty line ends an event, a line that begins with a colon
is a comment, which serves as a heartbeat. Pieces may be cut anywhere, also within CRLF or within
a character. An event that the end of the stream cuts off is never given back.

Nobody's frame may fill the memory: of an event that is larger than `most_bytes` the rest is read
and dropped, and what is given back says so, because whoever follows must then ask by other ways.

Following a stream of server-sent events, across as many connections as it takes.

`EventStream.follow` hands each event to its caller, on the caller's thread, and keeps what it has
seen: a connection that breaks, or that the service ends, is made anew with ``Last-Event-ID``,
after a wait. The wait grows while connections are short ones, and is at least what the service
has asked for by ``retry:``. What brings nothing at all is tried again by the one retry loop
(``retry``) for as long as `patience_s`; then `follow` raises, and its caller asks by other means. A
service that says nothing, not even a heartbeat, for ``http.timeout`` counts as a connection that
broke.

A service without such a stream (404, 405, 501, no content, or an answer that is no event stream)
is `Unsupported`. `close` may be called from any thread and ends the reading at once.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from artifactfs.errors import (
    Cancelled,
    Unreachable,
    Unsupported,
)
from artifactfs.model import StreamEvent
from artifactfs.remote.content_encoding import codings_of
from artifactfs.remote.retry import Backoff, Transient
from artifactfs.remote.session import HttpSession

MOST_FRAME_BYTES = 32 << 20

_MOST_FIELD_BYTES = 4096
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. `id` is the last one that was said, in this event or before."""

    kind: str
    data: str
    id: str
    too_large: bool = False


class EventParser:
    """Reads one stream, from its first byte on. `last_id` and `retry_ms` are what it has said."""

    def __init__(self, *, last_id: str = "", most_bytes: int = MOST_FRAME_BYTES) -> None:
        self.last_id = last_id
        self.retry_ms: int | None = None
        self._most_bytes = most_bytes
        self._line: list[bytes] = []  # what has come of the line that is not complete
        self._after_cr = False
        self._at_start = True
        self._id = last_id
        self._kind = ""
        self._data: list[bytes] = []
        self._line_bytes = 0
        self._held_bytes = 0  # of the event
        self._too_large = False

    def feed(self, piece: bytes) -> list[ServerSentEvent]:
        """The events that `piece` completes."""
        if self._after_cr and piece[:1] == b"\n":
            piece = piece[1:]
            self._after_cr = False
        if not piece:
            return []
        self._after_cr = piece.endswith(b"\r")
        *ends, rest = _LINE_END.split(piece)
        events = []
        for end in ends:
            self._hold(end)
            line = b"".join(self._line)
            self._line.clear()
            event = self._take(line)
            if event is not None:
                events.append(event)
        self._hold(rest)
        return events

    def _hold(self, piece: bytes) -> None:
        self._line_bytes += len(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > self._most_bytes:
            self._too_large = True
            self._data.clear()
        if self._too_large:
            piece = (b"".join(self._line) + piece)[:_MOST_FIELD_BYTES]
            self._line.clear()
        if piece:
            self._line.append(piece)

    def _take(self, line: bytes) -> ServerSentEvent | None:
        line_bytes, self._line_bytes = self._line_bytes, 0
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            if not self._too_large:
                self._data.append(value)
            return None
        self._held_bytes -= line_bytes
        if name == b"event":
            self._kind = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self.retry_ms = int(value)
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_id = self._id
        kind, data, too_large = self._kind or "message", self._data, self._too_large
        self._kind, self._data, self._too_large, self._held_bytes = "", [], False, 0
        if not data and not too_large:
            return None
        return ServerSentEvent(
            kind, b"\n".join(data).decode("utf-8", "replace"), self.last_id, too_large
        )


PATIENCE_S = 10.0
MOST_PAUSE_S = 30.0
LONG_CONNECTION_S = 5.0  # what lasted so long was no failure: the waits are short again
_PIECE_BYTES = 64 << 10
_NO_CONTENT = 204

_chance = random.SystemRandom()


class TooLargeEvent(Exception):
    """An event was too large to be taken: what it said must be asked for by other means."""


class EventStream:
    """One stream. `_lock` guards the connection that is being read; the rest is the follower's."""

    def __init__(
        self,
        session: HttpSession,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        last_id: str = "",
        patience_s: float = PATIENCE_S,
        most_event_bytes: int = MOST_FRAME_BYTES,
    ) -> None:
        self.last_id = last_id
        self.connections = 0
        self._session = session
        self._path = path
        self._params = params
        self._patience_s = patience_s
        self._most_event_bytes = most_event_bytes
        self._asked_s = 0.0
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._reading: Any = None

    def follow(self, take: Callable[[StreamEvent], bool]) -> None:
        """Hand on every event until `take` has enough and says False.

        Raises `Cancelled` once it is closed, `Unsupported`, `TooLargeEvent`, what the service
        refuses with, and `Unreachable` or `TimedOut` when nothing has come for `patience_s`.
        """
        clock, backoff = self._session.clock, Backoff(_chance)
        while True:
            began_s = clock.monotonic_s()
            if self._session.run(
                lambda: self._attempt(take), deadline_s=self._patience_s, cancelled=self._closed
            ):
                return
            if clock.monotonic_s() - began_s >= LONG_CONNECTION_S:
                backoff.reset()
            self._closed.wait(backoff.next_s(self._asked_s * _chance.uniform(1.0, 1.2)))

    def probe(self) -> bool:
        """Whether there is such a stream, without following it."""

        def attempt() -> bool:
            with self._opened():
                return True

        try:
            return self._session.run(attempt, cancelled=self._closed)
        except Unsupported:
            return False

    def close(self) -> None:
        """End `follow`, in whatever thread it runs."""
        self._closed.set()
        with self._lock:
            if self._reading is not None:
                with contextlib.suppress(Exception):
                    self._reading.shutdown()

    def _attempt(self, take: Callable[[StreamEvent], bool]) -> bool:
        """One connection. Whether `take` has enough; raises if it has brought nothing."""
        brought = False
        parser = EventParser(last_id=self.last_id, most_bytes=self._most_event_bytes)
        try:
            with contextlib.closing(self._events(parser)) as events:
                for event in events:
                    brought = True
                    self.last_id = event.id
                    if event.too_large:
                        raise TooLargeEvent
                    if not take(StreamEvent(event.kind, event.id, event.data)):
                        return True
        except Transient:
            if not brought or self._closed.is_set():
                raise
        finally:
            if parser.retry_ms is not None:
                self._asked_s = min(parser.retry_ms / 1000, MOST_PAUSE_S)
        if not brought:
            raise Transient(Unreachable(f"GET {self._path}: the stream ended without an event"))
        return False

    def _events(self, parser: EventParser) -> Generator[ServerSentEvent, None, None]:
        self.connections += 1
        with self._opened() as response:
            with self._lock:
                self._reading = response.raw
            try:
                while not self._closed.is_set():
                    piece = response.raw.read1(_PIECE_BYTES)
                    if not piece:
                        return
                    yield from parser.feed(piece)
            finally:
                with self._lock:
                    self._reading = None
        raise Cancelled("the stream was closed")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[requests.Response]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id.encode().decode("latin-1")
        with self._session.open(
            "GET",
            self._session.call(self._path),
            headers=headers,
            params=self._params,
            optional=True,
        ) as response:
            kind = response.headers.get("Content-Type", "")
            is_stream = "event-stream" in kind.lower() and not codings_of(response.headers)
            if response.status_code == _NO_CONTENT or not is_stream:
                raise Unsupported(f"GET {self._path}: the answer is no event stream")
            yield response
