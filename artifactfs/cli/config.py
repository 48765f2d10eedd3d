"""``config`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.text import Text

from artifactfs import assembly
from artifactfs.cli import options, output
from artifactfs.cli.errors import FAILED
from artifactfs.config import SETTINGS

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@options.service_options()
@options.cache_options()
@options.set_option()
@options.json_option()
def config(settings: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Show every setting, its value, and where that comes from.

    \b
    Examples:
      artifactfs config
      artifactfs config --json
      ARTIFACTFS_CACHE_SIZE=50G artifactfs config
    """
    values = options.config_of(settings, **flags)
    token = f"*** from {values.token.name}" if _has_token(values) else "none"
    if as_json:
        document: dict[str, object] = {
            setting.key: {
                "value": _plain(setting.get(values)),
                "source": values.sources[setting.key],
                "variable": setting.variable,
                "help": setting.explained,
            }
            for setting in SETTINGS
        }
        output.as_json(document | {"token": token, "ignored": list(values.ignored)})
        return
    rows = [
        (one.key, one.written(one.get(values)), values.sources[one.key], one.explained)
        for one in SETTINGS
    ]
    output.table(("setting", "value", "from", ""), [*rows, ("token", token, "", "")])
    for name in values.ignored:
        click.echo(f"{name} is set, but no setting of that name exists", err=True)


def _has_token(values: object) -> bool:
    source = getattr(values, "token", None)
    return source is not None and (source.value is not None or source.path is not None)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


@click.command()
@options.service_options()
@options.cache_options()
@options.set_option()
@options.json_option()
def doctor(settings: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Say what stands in the way on this machine, and what to do about it.

    The exit status is 1 if something does.

    \b
    Examples:
      artifactfs doctor
      artifactfs doctor --url https://dev.computalot.com
    """
    terminal = output.console()

    def tell(check: assembly.Check) -> None:
        if as_json:
            return
        terminal.print(
            Text(f"{check.state:4} ", _COLOURS[check.state]),
            Text(f"{check.name:12} {output.for_output(check.detail)}"),
            sep="",
            soft_wrap=True,
        )
        if check.remedy:
            terminal.print(Text(f"{'':17} → {output.for_output(check.remedy)}"), soft_wrap=True)

    checks = assembly.doctor(options.config_of(settings, **flags), tell)
    if as_json:
        output.as_json(
            [
                {"name": one.name, "state": one.state, "detail": one.detail, "remedy": one.remedy}
                for one in checks
            ]
        )
    if any(check.state == "fail" for check in checks):
        raise click.exceptions.Exit(FAILED)
