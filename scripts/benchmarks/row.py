"""What a row is: a name, what is measured against what, and its target."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.stage import Stage


class PeerAbsent(Exception):
    """A program to compare with is not installed: named as absent, never as beaten."""


def absent(program: str) -> PeerAbsent:
    return PeerAbsent(f"{program} is not installed")


@dataclass(frozen=True)
class Sample:
    """One round: the ratio that counts, and both sides in words."""

    ratio: float
    ours: str
    theirs: str

    @staticmethod
    def of_seconds(ours_s: float, theirs_s: float, size_bytes: int) -> Sample:
        """Two times for the same bytes; the ratio is of speeds."""
        speed = [f"{size_bytes / took / 1e6:,.0f} MB/s" for took in (ours_s, theirs_s)]
        return Sample(theirs_s / ours_s, *speed)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    what: str
    against: str
    sense: str
    target: float
    measure: Callable[[Stage], Iterator[Sample]]


@dataclass(frozen=True)
class Result:
    """A row's rounds, or why it has none."""

    row: Row
    samples: tuple[Sample, ...]
    absent: str = ""

    @property
    def median(self) -> Sample:
        ratios = sorted(self.samples, key=lambda sample: sample.ratio)
        return ratios[(len(ratios) - 1) // 2]

    @property
    def spread(self) -> float:
        """Half the distance from the lowest to the highest ratio, as a part of the median."""
        ratios = [sample.ratio for sample in self.samples]
        return (max(ratios) - min(ratios)) / 2 / statistics.median(ratios)

    @property
    def met(self) -> bool:
        ratio = self.median.ratio
        return ratio >= self.row.target if self.row.sense == ">=" else ratio <= self.row.target
