"""How far to read ahead: pure logic, a history of reads in, spans to fetch out.

Every read of a content comes by here, whether its bytes were missing or not, as long as the content
is not complete. It belongs to one of the content's *streams* (``readahead_streams``: a run or a
stride), or begins one. Streams are recognised per content, not per handle: many processes share a
handle after ``fork``, one process reads in several places through one handle, and pages that are
mapped are read through whichever handle they were mapped by.

**What a new stream gets.** One that begins at the file's first byte is taken for the beginning of a
whole reading (``cat``, ``cp``, ``sha256sum``) and has a first window at once. Any other is a random
read until it goes on: nothing is fetched but what it asks. From its second read on there is a
window, in proportion to what the stream has read and to the content's *trust* (bytes ahead for each
byte read). Trust is learned: a stream that was left with much of its window unread halves it for
those that begin later, one that read on for long doubles it. A content that is entered at its end
has an index there (Parquet, zip, and with it wheels and saved PyTorch models): it will be read in
pieces whose ends cannot be seen coming, so trust is small at once, until a stream proves long.

**Strides.** A stream that begins as far from an earlier one as that from another still earlier is
the third of a row (see `StridedStream`).

**What the kernel lets us see.** READ has an offset, a length and the handle; nothing says whether
somebody waits for it or the kernel reads ahead on its own, up to ``read_ahead_kb`` (1 MiB where we
may set it, else 128 KiB) beyond what the program asked. Of ``posix_fadvise`` nothing reaches a
file system in user space as such, only what the kernel makes of it: after RANDOM it asks for
exactly the pages that are read; SEQUENTIAL doubles its readahead (``cp`` and ``sha256sum`` say so);
WILLNEED is a READ like any other, at most as long as the readahead; DONTNEED drops pages, so that
they are read again.
``madvise`` has the same effects on mapped pages, which otherwise come as reads of one readahead
window around the fault. Open flags (O_DIRECT, O_NOATIME) say nothing about the order of reads.

So that many readers do not plan more than can be of use, every window asks for its bytes at one
place (``readahead_budget``).
"""

from __future__ import annotations

from artifactfs.byte_range import ByteRange
from artifactfs.cache.readahead_budget import ReadaheadBudget
from artifactfs.cache.readahead_streams import (
    FIRST_BYTES,
    MOST_TRUST,
    SKIP_BYTES,
    WHOLE_TRUST,
    SequentialStream,
    Stream,
    StridedStream,
)

MOST_STREAMS = 64
IDLE_READS = 128
TAIL_BYTES = 1 << 20
LEAST_TRUST = 1 / 16
LONG_BYTES = 4 << 20


class Readahead:
    """The streams of one content. Guarded by its content's lock."""

    def __init__(self, most_bytes: int, allowance: ReadaheadBudget) -> None:
        self._most_bytes = most_bytes
        self._allowance = allowance
        self._streams: list[Stream] = []  # the one used last is first
        self._trust = 1.0
        self._clock = 0

    def plan(self, read: ByteRange, size_bytes: int, *, lost: bool = False) -> list[ByteRange]:
        """What to have on its way ahead of this read, besides the read itself.

        `lost`: some of the read's bytes are neither here nor on their way, so that what was planned
        did not come.
        """
        if not read:
            return []
        self._clock += 1
        is_due = True
        if stream := self._standing_at(read):
            is_due = stream.take(read, lost=lost)
            if isinstance(stream, StridedStream) and stream.is_broken:
                stream = self._as_run(stream)
        elif stride := self._stepping_to(read):
            stream = self._step(stride, read, lost=lost)
        else:
            stream = self._begin(read, size_bytes)
        stream.used = self._clock
        return self._ahead_of(stream, size_bytes) if is_due else []

    def forget(self) -> None:
        """Nobody reads any more. What was learned stays: many open a file for its index first."""
        for stream in self._streams:
            self._allowance.give_back(stream)
        self._streams.clear()

    def _ahead_of(self, stream: Stream, size_bytes: int) -> list[ByteRange]:
        wanted_bytes = stream.wants(self._most_bytes, size_bytes)
        if not wanted_bytes:
            if stream.asked_at_bytes and not stream.ahead_bytes:
                self._allowance.give_back(stream)
            return []
        read_bytes = stream.read_bytes - stream.asked_at_bytes
        stream.asked_at_bytes = stream.read_bytes
        granted_bytes = self._allowance.ask(
            stream, wanted_bytes, ahead_bytes=stream.ahead_bytes, read_bytes=read_bytes
        )
        return stream.plan(granted_bytes, size_bytes)

    # Streams

    def _standing_at(self, read: ByteRange) -> Stream | None:
        """The stream whose present run this read belongs to, put first."""
        start, stop = read.start, read.stop
        for index, stream in enumerate(self._streams):
            if stream.low <= stop and start <= stream.high:
                if index:
                    del self._streams[index]
                    self._streams.insert(0, stream)
                return stream
        return None

    def _stepping_to(self, read: ByteRange) -> StridedStream | None:
        """The stride that may have its next run here."""
        for stream in self._streams:
            if isinstance(stream, StridedStream) and stream.steps_to(read):
                return stream
        return None

    def _step(self, stride: StridedStream, read: ByteRange, *, lost: bool) -> StridedStream:
        """The run that the stride leaves may go on as well, when several are read at a time."""
        left = stride.move_to(read, lost=lost)
        left.trust, left.used = self._trust, stride.used
        self._streams.remove(stride)
        self._make_room()
        self._streams[:0] = [stride, left]
        return stride

    def _begin(self, read: ByteRange, size_bytes: int) -> Stream:
        self._make_room()
        stream: Stream | None = self._third_of_a_row(read)
        if stream is None:
            stream = self._run(read, size_bytes)
        self._streams.insert(0, stream)
        return stream

    def _make_room(self) -> None:
        while self._streams and (
            len(self._streams) >= MOST_STREAMS - 1
            or self._clock - self._streams[-1].used > IDLE_READS
        ):
            self._end(self._streams.pop())

    def _run(self, read: ByteRange, size_bytes: int) -> SequentialStream:
        if read.start == 0 and self._trust >= 1:
            return SequentialStream.begin(read, WHOLE_TRUST, FIRST_BYTES)
        if read.stop >= size_bytes - TAIL_BYTES:
            self._trust = LEAST_TRUST
        return SequentialStream.begin(read, self._trust)

    def _third_of_a_row(self, read: ByteRange) -> StridedStream | None:
        start = read.start
        starts = {stream.start for stream in self._streams}
        for second in self._streams:
            if 2 * second.start - start in starts and abs(start - second.start) > SKIP_BYTES:
                run = second.run if isinstance(second, StridedStream) else second
                return StridedStream.begin(read, start - second.start, run.stop - second.start)
        return None

    def _as_run(self, stride: StridedStream) -> SequentialStream:
        self._allowance.give_back(stride)
        run = stride.run
        run.trust = self._trust
        self._streams[0] = run
        return run

    def _end(self, stream: Stream) -> None:
        """Learn from a stream that is over."""
        self._allowance.give_back(stream)
        if stream.ahead_bytes > stream.read_bytes // 4:
            self._trust = max(self._trust / 2, LEAST_TRUST)
        elif stream.read_bytes >= LONG_BYTES:
            self._trust = min(self._trust * 2, MOST_TRUST)
