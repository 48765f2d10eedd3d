"""How many connections carry bulk transfers: pure logic, what arrived in, how many lanes out.

On loopback or a fast local network one connection fills the machine, and more only fight for the
interpreter and the processor. Over a long line each connection is held back, by its round trips or
by the server's limit, and eight or more bring eight times as much. Nobody can know beforehand, so
the number of *lanes* follows what is measured, in ticks of `TICK_S` in which something to
fetch was held back for want of a lane:

* when even the quickest of the first `ANSWERS` answers took `LONG_S` to begin, the line is long,
  and there are `LONG_LANES` at once, and for `HOLD_S` at least;
* at first the lanes double, up to `SAFE_LANES`, while less than `FAST_BYTES_S` arrives by each: no
  processor is the limit then, and a reader over a long line has them all after a few round trips;
* from then on another number is tried now and then for some ticks, in turn half as many and twice
  as many. Fewer are kept if they were no slower, more if they brought a quarter more; otherwise the
  old number is taken again, and after both have failed nothing is tried for `HOLD_S`.

How much one request asks for follows too: a tenth of a second's worth of one lane, so that requests
are few on a fast line and a reader who jumps away wastes little on a slow one; and no more than
leaves something for every lane, while a window is still small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TICK_S = 0.05
TRIAL_TICKS = 4
HOLD_S = 10.0
SAFE_LANES = 8
LONG_LANES = 16
FAST_BYTES_S = 100e6
GAIN = 1.25
LOSS = 0.95
LONG_S = 0.02
ANSWERS = 3
SHORT_BYTES = 1 << 20
FLIGHT_BYTES = 8 << 20
MOST_FLIGHT_BYTES = 64 << 20
FLIGHT_S = 0.1


@dataclass(slots=True)
class _RateSample:
    """What one number of lanes brings, over some ticks."""

    lanes: int
    ticks: int = 0
    arrived_bytes: int = 0
    elapsed_s: float = 0.0

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.arrived_bytes / self.elapsed_s

    def add(self, arrived_bytes: int, elapsed_s: float) -> bool:
        """Count a tick; whether there are enough. The first is what still came by others."""
        self.ticks += 1
        if self.ticks > 1:
            self.arrived_bytes += arrived_bytes
            self.elapsed_s += elapsed_s
        return self.ticks > TRIAL_TICKS


class ConcurrencyLimit:
    """The number of lanes. Guarded by the crew's lock."""

    def __init__(self, most: int, now_s: float) -> None:
        self.limit = 1
        self._most = most
        self._arrived_bytes = 0
        self._tick_from_s = now_s
        self._held_back = False
        self._rate = 0.0
        self._now = _RateSample(1)
        self._before: _RateSample | None = None
        self._is_growing = True
        self._up_next = True
        self._answers = 0
        self._nearest_s = math.inf
        self._failed = 0
        self._hold_until_s = 0.0

    def flight_bytes(self, span_bytes: int) -> int:
        """How much one request for the beginning of so much should ask for."""
        wanted_bytes = int(self._rate / self.limit * FLIGHT_S) >> 20 << 20
        most_bytes = min(max(wanted_bytes, FLIGHT_BYTES), MOST_FLIGHT_BYTES)
        share_bytes = -(-span_bytes // self.limit // SHORT_BYTES) * SHORT_BYTES
        return min(max(share_bytes, SHORT_BYTES), most_bytes)

    def answered(self, after_s: float) -> bool:
        """An answer has begun; whether there are more lanes now."""
        self._answers += 1
        self._nearest_s = min(self._nearest_s, after_s)
        if self._answers != ANSWERS or self._nearest_s < LONG_S or self.limit >= LONG_LANES:
            return False
        self._is_growing = False
        self._hold_until_s = self._tick_from_s + HOLD_S
        self._become(LONG_LANES)
        return True

    def arrived(self, size_bytes: int) -> None:
        """Bytes came."""
        self._arrived_bytes += size_bytes

    def held_back(self) -> None:
        """Something waits for a lane."""
        self._held_back = True

    def tick(self, now_s: float) -> bool:
        """See what the last tick brought, if it is over; whether there are more lanes now."""
        elapsed_s = now_s - self._tick_from_s
        if elapsed_s < TICK_S:
            return False
        arrived_bytes, self._arrived_bytes = self._arrived_bytes, 0
        held_back, self._held_back = self._held_back, False
        self._tick_from_s = now_s
        rate = arrived_bytes / elapsed_s
        self._rate = rate if not self._rate else (self._rate + rate) / 2
        before = self.limit
        if held_back and elapsed_s < 2 * TICK_S:
            self._learn(arrived_bytes, elapsed_s, now_s)
        return self.limit > before

    def _learn(self, arrived_bytes: int, elapsed_s: float, now_s: float) -> None:
        rate = arrived_bytes / elapsed_s
        if self._is_growing:
            self._is_growing = rate < FAST_BYTES_S * self.limit and self.limit < SAFE_LANES
            if self._is_growing:
                self._become(2 * self.limit)
        elif now_s >= self._hold_until_s and self._now.add(arrived_bytes, elapsed_s):
            if self._before is None:
                self._before = self._now
                self._become(2 * self.limit if self._up_next else self.limit // 2)
            else:
                self._judge(self._before, self._now, now_s)

    def _judge(self, before: _RateSample, now: _RateSample, now_s: float) -> None:
        wanted = GAIN if now.lanes > before.lanes else LOSS
        self._before = None
        if now.lanes != before.lanes and now.rate >= wanted * before.rate:
            self._failed = 0
            self._become(now.lanes)
            return
        self._become(before.lanes)
        self._up_next = not self._up_next
        self._failed += 1
        if self._failed >= 2:
            self._failed = 0
            self._hold_until_s = now_s + HOLD_S

    def _become(self, lanes: int) -> None:
        self.limit = max(1, min(lanes, self._most))
        self._now = _RateSample(self.limit)
