"""Sizes, ages and tables for people; JSON for programs.

Progress bars: on standard error, on a terminal, for what takes longer than a second.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import click
from rich.cells import set_cell_size
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

GAP: Final = 2
MIN_LAST_CELLS: Final = 12
MAX_CELLS: Final = 32
_BREAKING: Final = ("Cc", "Cs", "Zl", "Zp")

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
    """Someone else's text with everything that a terminal would act on, or hide, as an escape.

    Control characters, line breaks, and those that turn the direction of writing are written as in
    Python (``\\x1b``, ``\\n``, ``\\u202e``), so that no two texts look the same by them.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def for_output(text: str) -> str:
    """Someone else's text for standard output: `plain` on a terminal.

    Elsewhere it is whole, but for control characters, which would break the line that it stands on.
    """
    if is_terminal():
        return plain(text)
    return "".join(_escaped(c) if unicodedata.category(c) in _BREAKING else c for c in text)


def console() -> Console:
    """Standard output, coloured only where that is a terminal that wants it.

    What is not a terminal has no width, so nothing is cut there.
    """
    return Console(highlight=False, width=columns() or 1 << 16)


def is_terminal() -> bool:
    """Whether standard output is a terminal, also while rich has taken the place of the stream."""
    try:
        return os.isatty(sys.stdout.fileno())
    except (OSError, ValueError):
        return False


def columns() -> int | None:
    """The width of standard output, which COLUMNS overrides; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if is_terminal() else None


class Whole(str):
    """A cell that is never shortened, even in the last column."""

    __slots__ = ()


Cell = str | Text


def rows(
    headings: Sequence[str],
    cells: Iterable[Sequence[Cell]],
    *,
    right: Sequence[int] = (),
    width: int | None = None,
) -> list[Text]:
    """Lay out a table: a line for the headings if there are any, then one for each row.

    A `Text` is taken as it is, a string is someone else's. Only the last column is ever shortened,
    and ends in an ellipsis then. Where the others need more than `width` cells, the row takes
    several whole lines of the terminal, and the last column what is left of them. A cell that is
    much longer than its column pushes only its own row.
    """
    table = [[Text(one, "bold") for one in headings]] if headings else []
    table += [[_cell(one) for one in row] for row in cells]
    if not table:
        return []
    last = len(table[0]) - 1
    widths = [max(row[number].cell_len for row in table) for number in range(last)]
    if width is not None and sum(widths) + GAP * last + MIN_LAST_CELLS > width:
        widths = [
            max((n for row in table if (n := row[number].cell_len) <= MAX_CELLS), default=0)
            for number in range(last)
        ]
    lines = []
    for row in table:
        line = Text()
        for number, cell_width in enumerate(widths):
            padding = " " * max(0, cell_width - row[number].cell_len)
            parts = (padding, row[number]) if number in right else (row[number], padding)
            line = line.append(parts[0]).append(parts[1]).append(" " * GAP)
        line.append(_shortened(row[last], line.cell_len, width))
        line.rstrip()
        lines.append(line)
    return lines


class _Kept(Text):
    """Text that is not shortened."""


def _cell(cell: Cell) -> Text:
    if isinstance(cell, Text):
        return cell
    kind = _Kept if isinstance(cell, Whole) else Text
    return kind(for_output(cell))


def _shortened(cell: Text, before: int, width: int | None) -> Text:
    """The last cell, cut to what is left of its line, or of the line that it ends on."""
    if width is None or isinstance(cell, _Kept):
        return cell
    room = width - before
    while room < MIN_LAST_CELLS:
        room += width
    if cell.cell_len <= room:
        return cell
    ellipsis = "…" if "utf" in (sys.stdout.encoding or "utf-8").lower() else "..."
    cut = Text(set_cell_size(cell.plain, room - len(ellipsis)).rstrip() + ellipsis)
    if cell.style:
        cut.style = cell.style
    return cut


def table(
    headings: Sequence[str], cells: Iterable[Sequence[Cell]], *, right: Sequence[int] = ()
) -> None:
    """Print a table without lines (`rows`); columns in `right` are set to the right."""
    terminal = console()
    lines = rows(headings, cells, right=right, width=columns())
    terminal.print(Text("\n").join(lines), soft_wrap=True, crop=False)


def bar(part: float, cells: int) -> Text:
    """A bar of so many cells, of which that part is done."""
    done = round(min(1.0, max(0.0, part)) * cells)
    return Text("━" * done, "bar.complete") + Text("━" * (cells - done), "bar.back")


def as_json(document: Any) -> None:
    """Print JSON."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=True, default=str))


PATIENCE_S = 1.0


class ProgressLine:
    """One bar in bytes. Use it in a ``with`` block; `update` may be called from any thread."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._console = Console(stderr=True)
        self._begun_s = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done_bytes: int, all_bytes: int | None) -> None:
        """So much of so much."""
        if self._progress is None:
            if not sys.stderr.isatty() or time.monotonic() - self._begun_s < PATIENCE_S:
                return
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(self._what, total=all_bytes)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=done_bytes, total=all_bytes)
