"""A row: a name, the figures that it yields, each with its target, and how they are measured.

A row is a generator function with the decorator `row`. It measures both sides in alternation and
yields a `Sample` for each round and figure, or an `Absent` for a figure whose peer is missing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.context import Context


class PeerAbsentError(Exception):
    """A program is not installed: the row's remaining figures are named as absent."""


@dataclass(frozen=True)
class Figure:
    """One line of the table. `name` is empty where the row has one figure only."""

    name: str
    against: str
    sense: str
    target: float

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.target if self.sense == ">=" else ratio <= self.target


@dataclass(frozen=True)
class Sample:
    """One round of one figure: the ratio that counts, and both sides in words."""

    figure: str
    ratio: float
    ours: str
    theirs: str = ""


@dataclass(frozen=True)
class Absent:
    """A figure that is not measured, and why."""

    figure: str
    reason: str


Measure = Callable[["Context"], Iterator[Sample | Absent]]


@dataclass(frozen=True)
class Row:
    """One row of the benchmark."""

    name: str
    what: str
    figures: tuple[Figure, ...]
    measure: Measure


ROWS: dict[str, Row] = {}


def row(name: str, what: str, *figures: Figure) -> Callable[[Measure], Measure]:
    """Register a generator function as the row `name`."""

    def register(measure: Measure) -> Measure:
        assert name not in ROWS, name
        ROWS[name] = Row(name, what, figures, measure)
        return measure

    return register


@dataclass
class Result:
    """What a row has yielded, and what went wrong."""

    row: Row
    samples: list[Sample] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: str = ""
    took_s: float = 0.0

    def add(self, one: Sample | Absent) -> None:
        assert one.figure in {figure.name for figure in self.row.figures}, one
        if isinstance(one, Absent):
            self.absent[one.figure] = one.reason
        else:
            self.samples.append(one)

    def outcomes(self) -> list[Outcome]:
        """One for each figure, in the order of the row."""
        return [
            Outcome(
                self.row,
                figure,
                tuple(sample for sample in self.samples if sample.figure == figure.name),
                absent=self.absent.get(figure.name, ""),
                failed=self.failed,
            )
            for figure in self.row.figures
        ]


@dataclass(frozen=True)
class Outcome:
    """A figure's rounds, or why it has none."""

    row: Row
    figure: Figure
    samples: tuple[Sample, ...]
    absent: str
    failed: str

    @property
    def label(self) -> str:
        return f"{self.row.name} {self.figure.name}".rstrip()

    @property
    def problem(self) -> str:
        """Why there is no verdict, or nothing."""
        if self.failed:
            return f"failed: {self.failed}"
        return self.absent or ("" if self.samples else "failed: no round was measured")

    @property
    def median(self) -> Sample:
        """The round in the middle; of an even number the one nearer to missing the target."""
        by_ratio = sorted(
            self.samples, key=lambda sample: sample.ratio, reverse=self.figure.sense == "<="
        )
        return by_ratio[(len(by_ratio) - 1) // 2]

    @property
    def spread(self) -> float:
        """Half the distance from the lowest to the highest ratio, as a part of the median."""
        ratios = [sample.ratio for sample in self.samples]
        middle = statistics.median(ratios)
        return (max(ratios) - min(ratios)) / 2 / middle if middle else 0.0

    @property
    def met(self) -> bool:
        return self.figure.is_met(self.median.ratio)
