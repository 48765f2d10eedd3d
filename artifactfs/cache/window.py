"""How far to read ahead: pure logic, a history of reads in, a span to fetch out.

Many processes can read one file, a memory map jumps about in it, and the kernel's own readahead
reorders a little. So a content has several *streams*, each a place where reading goes on. A read
that begins where a stream is, or a small skip before or after, belongs to it; any other begins a
new stream, and the one that was used least recently is forgotten.

A new stream that does not begin at the file's start is a random read: nothing is fetched beyond
what it asks. From its second read on, its *window* grows: it doubles from `FIRST_BYTES` with each
window that was read through, up to the limit, so that a reader of a whole file soon has the line to
itself while one who looks at a few pages costs little. A read of the first bytes is taken for the
beginning of a whole reading (``cat``, ``cp``, ``sha256sum``), with the first window at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from artifactfs.spans import Span

FIRST_BYTES = 1 << 20
SKIP_BYTES = 2 << 20
BACK_BYTES = 1 << 20
MOST_STREAMS = 16


@dataclass(slots=True)
class Stream:
    """One place where reading goes on."""

    position: int
    window_bytes: int
    ahead_to: int
    used: int


class Window:
    """The streams of one content. Guarded by its content's lock."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._streams: list[Stream] = []
        self._clock = 0

    def plan(self, read: Span, size_bytes: int) -> Span:
        """What to have on its way for this read and those that will follow: begins at `read`."""
        self._clock += 1
        stream = self._stream_of(read)
        if stream is None:
            first_bytes = min(FIRST_BYTES, self._most_bytes) if read.start == 0 else 0
            stream = Stream(read.stop, first_bytes, read.stop + first_bytes, self._clock)
            self._add(stream)
        else:
            stream.used = self._clock
            if read.stop <= stream.position:
                return Span(read.start, max(read.stop, min(stream.ahead_to, size_bytes)))
            stream.position = read.stop
            left_bytes = stream.ahead_to - stream.position
            if left_bytes <= stream.window_bytes // 2:
                grown_bytes = max(2 * stream.window_bytes, FIRST_BYTES)
                stream.window_bytes = min(grown_bytes, self._most_bytes)
                stream.ahead_to = stream.position + stream.window_bytes
        return Span(read.start, max(read.stop, min(stream.ahead_to, size_bytes)))

    def _stream_of(self, read: Span) -> Stream | None:
        for stream in self._streams:
            if stream.position - BACK_BYTES <= read.start <= stream.position + SKIP_BYTES:
                return stream
        return None

    def _add(self, stream: Stream) -> None:
        if len(self._streams) >= MOST_STREAMS:
            self._streams.remove(min(self._streams, key=lambda one: one.used))
        self._streams.append(stream)
