"""Rows about the command itself."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.context import Context, Mount, driver_of, end_mount
from benchmarks.measure import run, seconds
from benchmarks.row import Figure, Sample, row


@row(
    "mount",
    "artifactfs mount until it returns, s",
    Figure("", "", "<=", 0.3),
)
def mounting(context: Context) -> Iterator[Sample]:
    context.serve()
    for _ in range(context.rounds):
        took_s = seconds(lambda: context.start_mount("mount", {}))
        path = context.directory / "mount" / "mnt"
        end_mount(Mount(path, driver_of(path)))
        yield Sample("", took_s, f"{took_s:.2f} s")


@row(
    "start",
    "artifactfs --help, a TAB completion, s",
    Figure("--help", "", "<=", 0.12),
    Figure("TAB", "", "<=", 0.12),
)
def start(context: Context) -> Iterator[Sample]:
    beside = Path(sys.executable).with_name("artifactfs")
    command = beside if beside.exists() else shutil.which("artifactfs")
    completion = {
        "_ARTIFACTFS_COMPLETE": "bash_complete",
        "COMP_WORDS": "artifactfs mou",
        "COMP_CWORD": "1",
    }
    run(command, "--help")  # compiled
    for _ in range(3 * context.rounds):
        help_s = seconds(lambda: run(command, "--help"))
        yield Sample("--help", help_s, f"{help_s:.3f} s")
        tab_s = seconds(lambda: _complete(command, completion))
        yield Sample("TAB", tab_s, f"{tab_s:.3f} s")


def _complete(command: object, completion: dict[str, str]) -> None:
    assert "mount" in run(command, env=os.environ | completion)
