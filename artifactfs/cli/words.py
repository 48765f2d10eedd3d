"""The options that commands share, and how they become settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from artifactfs import config as settings
from artifactfs.cli import completing
from artifactfs.config import Config
from artifactfs.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS = (
    "url",
    "token_file",
    "cache_dir",
    "cache_size",
    "fuse",
    "log_level",
    "log_format",
    "metrics_listen",
)


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def service_options() -> Callable[[F], F]:
    """Where the service is and who asks."""
    return _all(
        click.option("--url", metavar="URL", help="The service's base URL."),
        click.option("--token-file", metavar="FILE", help="A file that holds the token."),
    )


def cache_options() -> Callable[[F], F]:
    """Where bytes are cached."""
    return _all(
        click.option("--cache-dir", metavar="DIR", help="Where cached bytes lie."),
        click.option("--cache-size", metavar="SIZE", help="How much to cache, such as 20G."),
    )


def json_option() -> Callable[[F], F]:
    """The machine's table."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def set_option() -> Callable[[F], F]:
    """Any setting."""
    return click.option(
        "-o",
        "options",
        multiple=True,
        metavar="KEY=VALUE[,…]",
        shell_complete=completing.settings,
        help="Any setting by its key (see artifactfs config); may be repeated.",
    )


def parse_options(texts: tuple[str, ...]) -> dict[str, Any]:
    """Settings by key from ``-o`` texts. A key without a value is switched on."""
    values: dict[str, Any] = {}
    for text in texts:
        for item in filter(None, text.split(",")):
            name, equals, value = item.partition("=")
            key = settings.key_of_option(name.strip())
            if key is None:
                raise ConfigError(
                    f"-o {name}: unknown option", remedy="`artifactfs config` shows all settings"
                )
            values[key] = value if equals else "true"
    return values


def config_of(options: tuple[str, ...] = (), **flags: Any) -> Config:
    """The settings with these words on top. Raises `ConfigError`."""
    given = {
        settings.key_of_option(name) or name: value
        for name, value in flags.items()
        if name in (*_FLAGS, "allow_other") and value not in (None, False)
    }
    return settings.load({**parse_options(options), **given})


def mountpoint_argument(*, required: bool = False) -> Callable[[F], F]:
    """The mount that is meant; without it the only one there is."""
    return click.argument(
        "mountpoint",
        required=required,
        type=click.Path(path_type=Path, readable=False),
        metavar="[MOUNTPOINT]",
        shell_complete=completing.mountpoints,
    )
