"""Measures one row. What goes wrong in it is part of its result and ends only this row."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.context import Context
from benchmarks.row import Absent, PeerAbsentError, Result, Row

TIME_LIMIT_S, QUICK_TIME_LIMIT_S = 1800.0, 90.0


def measure(
    row: Row,
    directory: Path,
    *,
    quick: bool,
    rounds: int | None = None,
    limit_s: float | None = None,
) -> Result:
    """Return what a row yields within its time. KeyboardInterrupt passes through."""
    result = Result(row)
    began_s = time.monotonic()
    limit_s = limit_s or (QUICK_TIME_LIMIT_S if quick else TIME_LIMIT_S)
    try:
        with Context(directory, quick=quick, rounds=rounds) as context, time_limit(limit_s):
            result.notes = context.notes
            for sample in row.measure(context):
                result.add(sample)
    except PeerAbsentError as missing:
        found = {sample.figure for sample in result.samples} | set(result.absent)
        for figure in row.figures:
            if figure.name not in found:
                result.add(Absent(figure.name, str(missing)))
    except Exception as error:
        result.failed = " ".join(f"{type(error).__name__}: {error}".split())
    result.took_s = time.monotonic() - began_s
    return result


@contextlib.contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Raise TimeoutError in the block after `limit_s`. For the main thread."""

    def end(*_: object) -> None:
        raise TimeoutError(f"the row took longer than {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
