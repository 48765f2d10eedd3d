"""A place in a file where reading goes on, and how much is fetched ahead of it.

A `SequentialStream` is a part of the file that is read without a break, forward or backward. Its
*front* is where the next read is expected. What a run gets is in proportion to what it has shown:
ahead of the front there are at most `trust` bytes for each byte that it has read, and never more
than a limit. So a window grows by a constant factor each time that it was read through, and what is
fetched in vain is never more than that multiple of what was read, wherever the reader stops.
Whatever trust it began with, a run of `FULL_TRUST_BYTES` has a trust of 1. As with the kernel's own
readahead (``mm/readahead.c``, the page marked for asynchronous readahead) more is asked for while
half of the window is still ahead, so that the reader never reaches its end.

Reads need not follow one another exactly. The kernel cuts a large read into several, two or more of
which are under way at a time and may come in the wrong order; programs skip padding, or come back
to a header. A read that touches the run, or what is planned for it, or begins up to `SKIP_BYTES`
beside them, belongs to it. It goes on, and is not just another random read near by, when the second
read begins no farther from the first than that was long, or a third comes. Larger skips count
against it until it comes back for what lies between, so that one who reads less of what is fetched
has less fetched. A read that lies more than `NEAR_BYTES`
ahead, but in what is planned already, asks for nothing new: it neither moves the front nor begins
another run. One that far behind the front is another reader's.

A `StridedStream` is a row of runs of one length at one distance, forward or backward: a column's
chunks, a slice of an array, every n-th frame. The runs that will follow are fetched, and not what
lies between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from artifactfs.byte_range import ByteRange

FIRST_BYTES = 1 << 20
SKIP_BYTES = 256 << 10
NEAR_BYTES = 8 << 20
FULL_TRUST_BYTES = 64 << 20
WHOLE_TRUST = 7.0
MOST_TRUST = 3.0
MOST_RUNS_AHEAD = 32

_STEPS_TO_GO_ON = 2
_STEPS_TO_TURN = 2


@dataclass(slots=True, eq=False)
class SequentialStream:
    """Bytes [start, stop) that were read without a break. For one window.

    `planned` is how far they were fetched ahead: a position after `stop`, or before `start` when
    reading goes backward. `first_bytes` are fetched ahead of its first read already. What touches
    [`low`, `high`] belongs to it.
    """

    start: int
    stop: int
    trust: float
    first_bytes: int = 0
    used: int = 0
    read_bytes: int = 0
    asked_at_bytes: int = 0
    is_forward: bool = True
    planned: int = 0
    low: int = 0
    high: int = 0
    _earned_bytes: int = 0
    _hole_bytes: int = 0
    _taken_bytes: int = 0
    _has_most: bool = False
    _goes_on: bool = False
    _steps_on: int = 0
    _steps_back: int = 0

    @classmethod
    def begin(cls, read: ByteRange, trust: float, first_bytes: int = 0) -> SequentialStream:
        """A run that begins with this read."""
        run = cls(read.start, read.stop, trust, first_bytes, planned=read.stop)
        run.read_bytes = run._earned_bytes = len(read)
        run._bound()
        return run

    @property
    def front(self) -> int:
        """Where the next read is expected."""
        return self.stop if self.is_forward else self.start

    @property
    def ahead_bytes(self) -> int:
        """What is planned and not yet read."""
        return self.planned - self.stop if self.is_forward else self.start - self.planned

    def _bound(self) -> None:
        if self.is_forward:
            self.low = max(self.start - SKIP_BYTES, self.stop - NEAR_BYTES)
            self.high = max(self.stop + SKIP_BYTES, self.planned)
        else:
            self.low = min(self.start - SKIP_BYTES, self.planned)
            self.high = min(self.stop + SKIP_BYTES, self.start + NEAR_BYTES)

    def take(self, read: ByteRange, *, lost: bool) -> bool:
        """Go on with a read that belongs to it; whether the front may have moved.

        `lost`: bytes that were planned are neither here nor on their way.
        """
        distance_bytes = read.start - self.stop if self.is_forward else self.start - read.stop
        if lost and 0 <= distance_bytes < self.ahead_bytes:
            self.planned = self.front
        elif distance_bytes > NEAR_BYTES:
            return False
        self._earn(read, distance_bytes)
        if read.stop > self.stop:
            self._steps_back = 0
            self._steps_on += 1
            self._goes_on |= self._steps_on >= _STEPS_TO_GO_ON
            self._goes_on |= distance_bytes <= self.stop - self.start
            self.stop = read.stop
            self._turn(is_forward=True)
        elif read.start < self.start:
            self.start = read.start
            self._steps_back += 1
            if self._steps_back >= _STEPS_TO_TURN:
                self._goes_on = True
                self._turn(is_forward=False)
        if self.ahead_bytes < 0:
            self.planned = self.front
        self._bound()
        return True

    def _earn(self, read: ByteRange, distance_bytes: int) -> None:
        """Count what is new to the run. What it was told of before does not count again."""
        new_bytes = max(read.stop - max(read.start, self.stop), 0)
        new_bytes += max(min(read.stop, self.start) - read.start, 0)
        if distance_bytes > 0:
            self._hole_bytes += distance_bytes
            if distance_bytes > SKIP_BYTES:
                taken_bytes = min(distance_bytes, self._earned_bytes)
                self._taken_bytes += taken_bytes
                self._earned_bytes -= taken_bytes
        filled_bytes = min(len(read) - new_bytes, self._hole_bytes)
        given_bytes = min(filled_bytes, self._taken_bytes)
        self._hole_bytes -= filled_bytes
        self._taken_bytes -= given_bytes
        self.read_bytes += new_bytes + filled_bytes
        self._earned_bytes += given_bytes
        if not self._has_most:
            self._earned_bytes += new_bytes + filled_bytes

    def _turn(self, *, is_forward: bool) -> None:
        """Several steps back in a row are no accident, whatever was thought of this content."""
        if self.is_forward != is_forward:
            self.is_forward = is_forward
            self.planned = self.front
            self.trust = max(self.trust, MOST_TRUST)

    def wants(self, most_bytes: int, size_bytes: int) -> int:
        """How much should be ahead of the front; 0 while enough is."""
        earned_bytes = self._earned_bytes if self._goes_on else 0
        if self.stop <= self.first_bytes and 2 * earned_bytes < self.first_bytes:
            window_bytes = self.first_bytes
        else:
            trust = max(self.trust, min(earned_bytes / FULL_TRUST_BYTES, 1.0))
            window_bytes = int(trust * earned_bytes)
        self._has_most = window_bytes >= most_bytes
        left_bytes = max(size_bytes - self.stop, 0) if self.is_forward else self.start
        window_bytes = min(window_bytes, most_bytes, left_bytes)
        return 0 if self.ahead_bytes > window_bytes // 2 else window_bytes

    def plan(self, granted_bytes: int, size_bytes: int) -> list[ByteRange]:
        """Have so much ahead of the front: what to fetch for that."""
        if granted_bytes <= self.ahead_bytes:
            return []
        if self.is_forward:
            planned = min(self.stop + granted_bytes, size_bytes)
            ahead = ByteRange(self.stop, max(self.stop, planned))
        else:
            planned = max(self.start - granted_bytes, 0)
            ahead = ByteRange(planned, self.start)
        if len(ahead) <= self.ahead_bytes:
            return []
        self.planned = planned
        self._bound()
        return [ahead]


@dataclass(slots=True, eq=False)
class StridedStream:
    """Runs of `run_bytes` every `step` bytes (negative: backward). For one window.

    `run` is the present one, which began at `start`; so many after it are planned.
    """

    run: SequentialStream
    step: int
    run_bytes: int
    start: int = 0
    used: int = 0
    read_bytes: int = 0
    asked_at_bytes: int = 0
    planned_runs: int = 0

    @classmethod
    def begin(cls, read: ByteRange, step: int, run_bytes: int) -> StridedStream:
        """Recognised at the third run's first read; `run_bytes` is how long the second was."""
        run = SequentialStream.begin(read, trust=0.0)
        read_bytes = 2 * run_bytes + len(read)
        return cls(run, step, run_bytes, start=read.start, read_bytes=read_bytes)

    @property
    def ahead_bytes(self) -> int:
        """What is planned and not yet read."""
        return self.run.ahead_bytes + self.planned_runs * self.run_bytes

    @property
    def is_broken(self) -> bool:
        """Whether the present run goes on far beyond the others: it is just a run."""
        return self.run.stop - self.start > 2 * self.run_bytes + SKIP_BYTES

    @property
    def low(self) -> int:
        """From here on, a read belongs to the present run."""
        return self.run.low

    @property
    def high(self) -> int:
        """Up to here, a read belongs to the present run."""
        return self.run.high

    def steps_to(self, read: ByteRange) -> int:
        """Which of the runs that follow begins with this read; 0 for none."""
        number, rest = divmod(read.start - self.start, self.step)
        return number if not rest and 1 <= number <= max(self.planned_runs, 1) else 0

    def take(self, read: ByteRange, *, lost: bool) -> bool:
        """Go on with a read of the present run. Nothing is planned for that."""
        before_bytes = self.run.read_bytes
        self.run.take(read, lost=lost)
        self.read_bytes += self.run.read_bytes - before_bytes
        return False

    def move_to(self, read: ByteRange, *, lost: bool) -> SequentialStream:
        """Go on with a read that begins one of the runs that follow; the run that is left."""
        left = self.run
        self.planned_runs = 0 if lost else max(0, self.planned_runs - self.steps_to(read))
        self.run_bytes = left.stop - self.start
        self.start = read.start
        self.read_bytes += len(read)
        self.run = SequentialStream.begin(read, trust=0.0)
        return left

    def wants(self, most_bytes: int, size_bytes: int) -> int:
        """How much should be ahead."""
        left_bytes = size_bytes - self.start if self.step > 0 else self.start
        runs_left = min(left_bytes // abs(self.step), MOST_RUNS_AHEAD)
        return min(int(MOST_TRUST * self.read_bytes), most_bytes, (runs_left + 1) * self.run_bytes)

    def plan(self, granted_bytes: int, size_bytes: int) -> list[ByteRange]:
        """The rest of the present run, and the runs that may follow: what is new of them."""
        spans: list[ByteRange] = []
        rest = self.start + self.run_bytes - self.run.stop
        spans += self.run.plan(min(rest, granted_bytes), size_bytes)
        runs = min((granted_bytes - self.run.ahead_bytes) // self.run_bytes, MOST_RUNS_AHEAD)
        for number in range(self.planned_runs + 1, runs + 1):
            start = self.start + number * self.step
            if not 0 <= start < size_bytes:
                break
            spans.append(ByteRange(start, min(start + self.run_bytes, size_bytes)))
            self.planned_runs = number
        return spans


Stream = SequentialStream | StridedStream
