"""Server-sent events, from bytes as they come. Pure: it is fed, and gives back what is complete.

The format is that of the HTML standard, §9.2.6: UTF-8, a byte order mark at the very beginning is
dropped, lines end with CRLF, LF or CR, an empty line ends an event, a line that begins with a colon
is a comment, which serves as a heartbeat. Pieces may be cut anywhere, also within CRLF or within
a character. An event that the end of the stream cuts off is never given back.

Nobody's frame may fill the memory: of an event that is larger than `most_bytes` the rest is read
and dropped, and what is given back says so, because whoever follows must then ask by other ways.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_FRAME_BYTES = 32 << 20

_MOST_FIELD_BYTES = 4096
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `id` is the last one that was said, in this event or before."""

    kind: str
    data: str
    id: str
    too_large: bool = False


class Parser:
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

    def feed(self, piece: bytes) -> list[Event]:
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

    def _take(self, line: bytes) -> Event | None:
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

    def _dispatch(self) -> Event | None:
        self.last_id = self._id
        kind, data, too_large = self._kind or "message", self._data, self._too_large
        self._kind, self._data, self._too_large, self._held_bytes = "", [], False, 0
        if not data and not too_large:
            return None
        return Event(kind, b"\n".join(data).decode("utf-8", "replace"), self.last_id, too_large)
