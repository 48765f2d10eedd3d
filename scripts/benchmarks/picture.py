"""The picture of a run: for each row how it stands to its target, drawn from results.json.

A bar of length 1 has just met its target; longer is better, whichever way the row is measured. The
scale is logarithmic, because some rows are about tenths and others about multiples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MET, MISSED, ABSENT = "#2a7f62", "#c0392b", "#9a9a9a"
SHORTEST = 0.05


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the PNG. Raises `ImportError` where matplotlib is missing (the extra ``bench``)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = document["rows"][::-1]
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.34 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        if reason := row["absent"] or row["failed"]:
            axes.text(1.03, place, reason, va="center", color=ABSENT, fontsize=8)
            continue
        length = max(SHORTEST, _to_target(row))
        axes.barh(place, length, color=MET if row["met"] else MISSED, height=0.62)
        axes.text(max(length, 1) * 1.04, place, _label(row), va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.25), max(high, 4) * 15)
    axes.set_yticks(range(len(rows)), [f"{row['row']} {row['figure']}" for row in rows], fontsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("against the target (1 is just met, longer is better)")
    machine = document["machine"]
    kind = "quick run" if document["quick"] else "full run"
    axes.set_title(
        f"artifactfs, {kind}, {machine['cores']} cores, Linux {machine['kernel']}", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _to_target(row: dict[str, Any]) -> float:
    sense, _, target = row["target"].partition(" ")
    ratio = row["median"] / float(target)
    return float(ratio if sense == ">=" else 1 / ratio if ratio else 100.0)


def _label(row: dict[str, Any]) -> str:
    against = f" : {row['theirs']} ({row['against']})" if row["theirs"] else ""
    return f"{row['median']:.2f}, wanted {row['target']}   {row['ours']}{against}"
