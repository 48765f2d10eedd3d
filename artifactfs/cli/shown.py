"""Sizes, ages and tables for people; JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(size_bytes: float | None) -> str:
    """``1.5 GB``; ``?`` where nobody knows."""
    if size_bytes is None:
        return "?"
    unit = 0
    while size_bytes >= 1000 and unit < len(_UNITS) - 1:
        size_bytes /= 1000
        unit += 1
    return f"{size_bytes:.0f} {_UNITS[unit]}" if unit == 0 else f"{size_bytes:.1f} {_UNITS[unit]}"


def rate(bytes_s: float | None) -> str:
    """``1.5 MB/s``; ``-`` while nobody can know."""
    return "-" if bytes_s is None else f"{size(bytes_s)}/s"


def part(some: float, whole: float) -> str:
    """``42%``: 100 only for all of it, 0 only for nothing; all of nothing is 100."""
    if some >= whole:
        return "100%"
    return f"{min(99, max(1, round(100 * some / whole))) if some else 0}%"


def count(number: int, what: str) -> str:
    """``1 file``, ``0 files``, ``12,000 files``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def age(seconds: float | None) -> str:
    """``12 s``, ``5 min``, ``3 h``, ``2 d``."""
    if seconds is None:
        return "never"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def plain(text: str) -> str:
    """Someone else's text without what would move the cursor or break the line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def console() -> Console:
    """Standard output, coloured only where that is a terminal that wants it.

    What is not a terminal has no width, so nothing is cut there.
    """
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 1 << 16)


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print a table without lines; columns in `right` are set to the right."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        drawn.add_column(
            heading, justify="right" if number in right else "left", no_wrap=True, overflow="ignore"
        )
    for row in rows:
        drawn.add_row(*(Text(plain(cell)) for cell in row))
    with console() as terminal:
        terminal.print(drawn, crop=False)


def as_json(document: Any) -> None:
    """Print JSON."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=True, default=str))
