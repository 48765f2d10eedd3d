"""The options that commands share, and how they become settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from artifactfs import config as settings
from artifactfs.cli import completion
from artifactfs.cli.mount_options import parse_options
from artifactfs.config import Config

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
_SWITCHES = {"allow_other": "allow_other", "read_only": "mount.read_only"}


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
        "settings",
        multiple=True,
        metavar="OPTION[,…]",
        shell_complete=completion.settings,
        help="Any setting, KEY=VALUE (see artifactfs config), or ro, rw, noexec, exec and other "
        "options of mount(8); may be repeated, the last one counts.",
    )


def config_of(options: tuple[str, ...] = (), *, sloppy: bool = False, **flags: Any) -> Config:
    """Return the settings with these words on top; `sloppy` ignores unknown options.

    Raises `ConfigError`.
    """
    given = {
        _SWITCHES.get(name) or settings.key_of_option(name) or name: value
        for name, value in flags.items()
        if name in (*_FLAGS, *_SWITCHES) and value not in (None, False)
    }
    return settings.load({**parse_options(options, sloppy=sloppy), **given})


def mountpoint_argument(*, required: bool = False) -> Callable[[F], F]:
    """The mount that is meant; without it the only one there is."""
    return click.argument(
        "mountpoint",
        required=required,
        type=click.Path(path_type=Path, readable=False),
        metavar="[MOUNTPOINT]",
        shell_complete=completion.mountpoints,
    )
