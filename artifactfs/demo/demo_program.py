"""The program that ``artifactfs demo --job`` runs as a job: it fits a line to points.

It prints an epoch a line, leaves ``result.json`` and ``fit.csv`` in its directory, and fails in its
first attempt, so that there is a retry to be seen. Arguments: which attempt this is, and the
seconds between two epochs.
"""

from __future__ import annotations

import csv
import json
import random
import sys
import time
from pathlib import Path

EPOCHS = 30
FAILS_AT = 8
RATE = 0.7


def main(attempt: int, pause_s: float) -> None:
    """Fit, print, and leave what was found."""
    chance = random.Random(7)  # noqa: S311 - the same points each time
    points = [(x / 100, 3 * x / 100 - 1 + chance.gauss(0, 0.05)) for x in range(100)]
    slope = offset = loss = 0.0
    tell(f"attempt {attempt}: fitting a line to {len(points)} points, {EPOCHS} epochs")
    for epoch in range(1, EPOCHS + 1):
        if attempt == 1 and epoch == FAILS_AT:
            raise MemoryError("this attempt fails on purpose, to show what a retry looks like")
        errors = [slope * x + offset - y for x, y in points]
        loss = sum(error * error for error in errors) / len(points)
        steps = sum(error * x for error, (x, _) in zip(errors, points, strict=True))
        slope -= RATE * 2 * steps / len(points)
        offset -= RATE * 2 * sum(errors) / len(points)
        tell(f"epoch {epoch:2}/{EPOCHS}  loss {loss:.5f}  y = {slope:.3f} x {offset:+.3f}")
        time.sleep(pause_s)
    with Path("fit.csv").open("w", newline="") as file:
        rows = ((x, y, round(slope * x + offset, 4)) for x, y in points)
        csv.writer(file).writerows([("x", "y", "fitted"), *rows])
    quality = round(max(0.0, 1 - loss), 4)
    warnings = ["it is only a demonstration"]
    result = {
        "summary": {"slope": slope, "offset": offset, "loss": loss, "epochs": EPOCHS},
        "aggregate_result": {"slope": slope, "offset": offset},
        "completeness": 1.0,
        "result_persisted": True,
        "output_persisted": True,
        "tasks": [{"index": 0, "result_quality": quality, "result_warnings": warnings}],
    }
    Path("result.json").write_text(json.dumps(result))
    tell("done: fit.csv and a result")


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
