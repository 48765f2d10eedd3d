"""What bash, zsh and fish offer, asked of the shells themselves, and the man page in man's eyes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from artifactfs.cli import cli
from artifactfs.config import SETTINGS

from .test_options import commands, run

# Each shell gets the words of a line, and prints what it offers for the last.
ASK = {
    "bash": """
source "$SCRIPT"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_artifactfs_completion artifactfs
printf '%s\\n' "${COMPREPLY[@]}"
""",
    "zsh": """
compdef() { }
compadd() { print -l -- ${(P)@[-1]} }
_describe() { local offered; for offered in ${(P)${@[-2]}}; do print -- ${offered%%:*}; done }
source "$SCRIPT"
words=("$@"); CURRENT=$#
_artifactfs_completion
""",
    "fish": """
source "$SCRIPT"
complete --do-complete (string join " " -- $argv)
""",
}


@pytest.fixture(params=list(ASK))
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    done = run("completion", request.param)
    assert done.returncode == 0, done.stderr
    (tmp_path / "script").write_text(done.stdout)
    return str(request.param)


def offered(shell: str, script: Path, *words: str) -> list[str]:
    line = {
        "bash": ["bash", "--norc", "-c", ASK["bash"], "bash"],
        "zsh": ["zsh", "-f", "-c", ASK["zsh"], "zsh"],
        "fish": ["fish", "--no-config", "-c", ASK["fish"]],
    }[shell]
    done = subprocess.run(
        [*line, *words],
        env=os.environ | {
            "SCRIPT": str(script), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return sorted(line.partition("\t")[0] for line in done.stdout.split("\n") if line)


def test_a_shell_offers_commands_options_and_settings(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    commands = offered(shell, script, "artifactfs", "un")
    assert commands == ["unmount", "unpin"]
    assert "--metrics-listen" in offered(shell, script, "artifactfs", "mount", "--me")
    assert offered(shell, script, "artifactfs", "mount", "-o", "cache.s") == ["cache.size="]
    assert offered(shell, script, "artifactfs", "mount", "--fuse", "n") == ["native"]


def test_what_a_shell_does_not_know_is_refused() -> None:
    done = run("completion", "cmd.exe")
    assert done.returncode == 2
    assert "bash" in done.stderr


def test_the_man_page_names_every_command_option_and_setting(tmp_path: Path) -> None:
    (tmp_path / "artifactfs.1").write_text(run("manual").stdout)
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", tmp_path / "artifactfs.1"],
        env=os.environ | {"MANWIDTH": "200", "LC_ALL": "C.UTF-8"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.sub(".\b", "", done.stdout)
    for name, command in commands(cli):
        assert f"   {name} " in shown
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[-1] in shown, f"{name} {parameter.opts}"
    for setting in SETTINGS:
        assert setting.key in shown
    assert "artifactfs mount --foreground" in shown
    assert str(Path.home()) not in shown
