"""Words: help, options, errors and exit statuses, without a service."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from artifactfs import errors
from artifactfs.cli import cli
from artifactfs.config import SETTINGS, load


def commands(group: click.Group, path: str = "") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((f"{path}{name}", command))
        if isinstance(command, click.Group):
            found += commands(command, f"{path}{name} ")
    return found


def run(
    *words: str, environment: dict[str, str] | None = None, module: str = "artifactfs"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        env=os.environ | (environment or {}), capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "command"), commands(cli))
def test_every_command_and_option_explains_itself_with_an_example(
    name: str, command: click.Command
) -> None:
    assert command.help
    assert "Examples:" in command.help
    assert f"artifactfs {name.split()[0]}" in command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


def test_every_command_and_setting_stands_in_the_readme_or_is_shown_by_config() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for name, _ in commands(cli):
        assert name.split()[0] in readme
    shown = json.loads(run("config", "--json").stdout)
    assert {setting.key for setting in SETTINGS} <= set(shown)


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["mont"], "No such command"),
        (["mount", "--nonsense"], "No such option"),
        (["mount", "-o", "cache.siz=1"], "-o cache.siz: unknown option"),
        (["mount", "--cache-size", "much"], "cache.size: a size such as 20G"),
        (["unmount"], "Missing argument"),
        (["put"], "which files?"),
        (["put", "--url", "http://x/y"], "--url goes with --name"),
        (["get"], "Missing argument"),
    ],
)
def test_wrong_words_are_one_line_and_status_2(words: list[str], say: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert say in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "artifactfs" / "config.toml"
    path.parent.mkdir()
    path.write_text("[cache]\nsice = 1\n")
    done = run("ls", environment={"XDG_CONFIG_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "cache.sice; did you mean cache.size?" in done.stderr


def test_no_token_and_no_service_say_what_to_do() -> None:
    done = run("ls", environment={"ARTIFACTFS_URL": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert "ARTIFACTFS_TOKEN" in done.stderr
    quick = {
        "ARTIFACTFS_URL": "http://127.0.0.1:9",
        "ARTIFACTFS_TOKEN": "x",
        "ARTIFACTFS_HTTP_RETRY_FOR": "0",
    }
    done = run("ls", environment=quick)
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_config_shows_values_and_sources_but_no_token() -> None:
    environment = {"ARTIFACTFS_TOKEN": "flk_secret", "ARTIFACTFS_CACHE_SIZE": "7G"}
    for words in (["config"], ["config", "--json"]):
        done = run(*words, environment=environment)
        assert done.returncode == 0
        assert "flk_secret" not in done.stdout + done.stderr
        assert "ARTIFACTFS_CACHE_SIZE" in done.stdout
    shown = json.loads(done.stdout)
    assert shown["cache.size"]["value"] == 7 << 30


def test_commands_for_a_mount_say_when_there_is_none(tmp_path: Path) -> None:
    for words in (["status"], ["flush"], ["refresh"], ["unmount"], ["retry"]):
        done = run(*words, str(tmp_path))
        assert done.returncode == 1, words
        assert "mount" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_mount_helper_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    done = run(
        "-c",
        environment={},
        module="artifactfs",
    )
    assert done.returncode == 2
    script = (
        "import sys; sys.argv[1:] = ['http://127.0.0.1:9', sys.argv[1], '-o', sys.argv[2]];"
        "from artifactfs.cli.mount_helper import main; main()"
    )
    for options, status in (("rw,_netdev,nonsense=1", 2), ("rw,_netdev,http.retry_for=0", 1)):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), options],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_readme_has_every_setting_with_its_default_and_every_errno() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    defaults = load(environ={}, files=())
    for setting in SETTINGS:
        written = setting.written(setting.get(defaults))
        shown = f"`{written}`" if written else ""
        assert f"| `{setting.key}` | {shown} | {setting.explained} |" in readme
    kinds = [errors.ArtifactfsError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind.errno not in (errno.EINTR, errno.ENOTSUP):  # nobody sees these
            assert f"`{errno.errorcode[kind.errno]}`" in readme
