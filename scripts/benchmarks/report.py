"""What a run says: the table on the terminal, and results.json."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.row import Outcome, Result


def in_words(outcome: Outcome) -> str:
    """Return a figure's result on one line."""
    if outcome.problem:
        return f"{outcome.label}: {outcome.problem}"
    figure = outcome.figure
    beside = f" : {outcome.median.theirs}" if outcome.median.theirs else ""
    return (
        f"{outcome.label}: {_number(outcome.median.ratio)} (target {figure.sense} "
        f"{figure.target:g}), {outcome.median.ours}{beside}"
    )


def table(results: Sequence[Result]) -> Table:
    """The table of a run; `--list` says what a row measures."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("row", no_wrap=True)
    for heading in ("ours", "theirs", "ratio", "spread", "target"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("met", no_wrap=True)
    for outcome in (outcome for result in results for outcome in result.outcomes()):
        target = f"{outcome.figure.sense} {outcome.figure.target:g}"
        if outcome.problem:
            word = "absent" if outcome.absent and not outcome.failed else "failed"
            shown.add_row(outcome.label, "", "", "", "", target, word)
            continue
        shown.add_row(
            outcome.label,
            outcome.median.ours,
            outcome.median.theirs,
            _number(outcome.median.ratio),
            f"± {outcome.spread:.0%}" if len(outcome.samples) > 1 else "",
            target,
            "met" if outcome.met else "missed",
        )
    return shown


def problems(results: Sequence[Result]) -> list[str]:
    """Why figures have no verdict, one line each, for below the table."""
    outcomes = [outcome for result in results for outcome in result.outcomes()]
    return [in_words(outcome) for outcome in outcomes if outcome.problem]


def save(results: Sequence[Result], path: Path, *, quick: bool) -> dict[str, Any]:
    """Write results.json, and return its document."""
    document = {
        "machine": {"cores": os.cpu_count(), "kernel": platform.release()},
        "quick": quick,
        "rows": [_as_json(outcome, result) for result in results for outcome in result.outcomes()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    return document


def _as_json(outcome: Outcome, result: Result) -> dict[str, Any]:
    measured = not outcome.problem
    return {
        "row": outcome.row.name,
        "figure": outcome.figure.name,
        "what": outcome.row.what,
        "against": outcome.figure.against,
        "target": f"{outcome.figure.sense} {outcome.figure.target:g}",
        "absent": outcome.absent or None,
        "failed": outcome.problem if not measured and not outcome.absent else None,
        "notes": result.notes,
        "took_s": round(result.took_s, 1),
        "ratios": [round(sample.ratio, 4) for sample in outcome.samples],
        "spread": round(outcome.spread, 4) if measured else None,
        "median": round(outcome.median.ratio, 4) if measured else None,
        "met": outcome.met if measured else None,
        "ours": outcome.median.ours if measured else None,
        "theirs": outcome.median.theirs if measured else None,
    }


def _number(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"
