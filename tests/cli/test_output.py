"""A progress bar on a terminal, with log lines between; and none where there is no terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

SCRIPT = """
import logging
from artifactfs.cli import log_setup, output
from artifactfs.cli.errors import say
from artifactfs.config import load

output.PATIENCE_S = 0
log_setup.log_to_terminal(load())
with output.ProgressLine("uploading") as bar:
    bar.update(1000, 10_000)
    logging.getLogger("artifactfs").warning("a line of the log")
    bar.update(5000, 10_000)
    say("a word to the user")
    bar.update(9000, 10_000)
print("done")
"""


def on_a_terminal(**environment: str) -> str:
    """What a process writes to a terminal of its own."""
    ours, its = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=its, stdout=its, stderr=its,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"} | environment,
    )  # fmt: skip
    os.close(its)
    written = b""
    try:
        while piece := os.read(ours, 65536):
            written += piece
    except OSError:  # a terminal ends with EIO
        pass
    os.close(ours)
    assert running.wait(60) == 0
    return written.decode()


def screen(written: str) -> list[str]:
    """What is left on the screen: the few movements that a progress bar makes, carried out."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.", written, re.DOTALL):
        if part == "\n":
            row += 1
            column = 0
            lines += [""] * (row == len(lines))
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part.startswith("\x1b"):
            row = max(0, row - int(part[2:-1] or 1))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row].ljust(column)[:column] + part + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


def test_log_lines_stand_whole_above_a_bar_that_leaves_nothing_behind() -> None:
    written = on_a_terminal()
    assert "uploading" in written
    shown = screen(written)
    assert re.fullmatch(r"\S+ \S+ WARNING a line of the log", shown[0])
    assert shown[1:] == ["artifactfs: a word to the user", "done"]


def test_no_color_is_no_color() -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*m")
    bare = re.compile(r"\x1b\[0?m|\x1b\[[1-9]m")  # bold and the like are no colours
    assert coloured.search(on_a_terminal())
    left = coloured.findall(on_a_terminal(NO_COLOR="1"))
    assert [one for one in left if not bare.fullmatch(one)] == []


def test_without_a_terminal_there_is_no_bar() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert "uploading" not in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert "a word to the user" in done.stderr
