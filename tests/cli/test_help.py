"""Help: shown by what is called alone, as wide as the terminal, with whole sentences."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from artifactfs.cli import cli
from artifactfs.cli.errors import run_command
from artifactfs.cli.help import HelpGroup

from .test_options import commands

PATHS = ["", *(name for name, _ in commands(cli))]


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("path", PATHS)
def test_help_fits_the_terminal_and_cuts_nothing(
    path: str, columns: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run_command(cli, [*path.split(), "--help"], "artifactfs") == 0
    shown = capfd.readouterr().out
    lines = shown.splitlines()
    begin = lines.index("  Examples:")
    end = lines.index("", begin)
    examples = range(begin, end)  # to be copied as they are
    for number, line in enumerate(lines):
        if number not in examples or columns >= 80:
            assert len(line) <= min(columns, 100), line
    assert "..." not in shown.partition("\n\n")[2], "the usage alone has dots"
    assert f"  artifactfs {path}".rstrip() in shown


def groups() -> list[tuple[str, click.Group]]:
    found = [("", cli), *commands(cli)]
    return [(name, one) for name, one in found if isinstance(one, click.Group)]


@pytest.mark.parametrize("path", [name for name, one in groups() if one.no_args_is_help])
def test_a_group_that_is_called_alone_shows_its_help(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command(cli, [*path.split(), "--help"], "artifactfs") == 0
    asked, _ = capfd.readouterr()
    assert run_command(cli, path.split(), "artifactfs") == 0
    assert capfd.readouterr() == (asked, "")
    assert len(asked.splitlines()) > 20


def test_a_group_of_any_depth_shows_its_help(capfd: pytest.CaptureFixture[str]) -> None:
    outer, inner = HelpGroup("outer"), HelpGroup("inner", help="What is inside.")
    outer.add_command(inner)
    assert run_command(outer, ["inner"], "outer") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("Usage: outer inner ")
    assert lines[2] == "  What is inside."


def test_every_group_is_one_of_ours() -> None:
    assert [name for name, one in groups() if not isinstance(one, HelpGroup)] == []


def test_the_mount_helper_has_help_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from artifactfs.cli.mount_helper import main; main()", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "mount -t fuse.artifactfs" in done.stdout
