"""``mount``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from artifactfs import assembly
from artifactfs.cli import options
from artifactfs.cli.completion import one_of
from artifactfs.cli.daemon import run_detached
from artifactfs.cli.errors import say
from artifactfs.cli.log_setup import (
    log_path,
    log_to_file,
    log_to_terminal,
)
from artifactfs.cli.mount_client import RunningMount
from artifactfs.config import Config
from artifactfs.errors import MountError

DEFAULT_MOUNTPOINT = Path("artifacts")


@click.command()
@click.argument("mountpoint", required=False, type=click.Path(path_type=Path, readable=False))
@options.service_options()
@options.cache_options()
@click.option(
    "--fuse",
    metavar="BINDING",
    help="native, fusepy or auto (default).",
    shell_complete=one_of("native", "fusepy", "auto"),
)
@click.option("--allow-other", is_flag=True, help="Let other users use the mount.")
@click.option(
    "--read-only", is_flag=True, help="Mount without drop/: nothing can be written (-o ro)."
)
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to the terminal.")
@click.option(
    "--log-level",
    metavar="LEVEL",
    help="debug, info, warning or error.",
    shell_complete=one_of("debug", "info", "warning", "error"),
)
@click.option(
    "--log-format", metavar="FORMAT", help="text or json.", shell_complete=one_of("text", "json")
)
@click.option("--metrics-listen", metavar="HOST:PORT", help="Serve metrics.prom over HTTP there.")
@options.set_option()
def mount(
    mountpoint: Path | None, foreground: bool, settings: tuple[str, ...], **flags: Any
) -> None:
    """Mount the service's artifacts, and return when the mount answers.

    MOUNTPOINT is an empty directory, ./artifacts by default. It is made if it does not exist, and
    removed again if mounting fails; the directory above it must exist. In the foreground it tells
    systemd when it is ready, how it does and that it ends (Type=notify).

    \b
    Examples:
      artifactfs mount ~/artifacts
      artifactfs mount --url https://dev.computalot.com ~/artifacts
      artifactfs mount -o cache.size=100G,list.ttl=1m ~/artifacts
      artifactfs mount --read-only -o noexec ~/artifacts
      artifactfs mount --foreground --metrics-listen :9464 ~/artifacts
    """
    config = options.config_of(settings, **flags)
    location = Path(os.path.abspath(mountpoint or DEFAULT_MOUNTPOINT))  # noqa: PTH100
    with _made(location):
        mount_at(config, location, foreground=foreground)


@contextlib.contextmanager
def _made(location: Path) -> Iterator[None]:
    """Make a directory that does not exist; remove it if the block fails. Raises `MountError`.

    Only the last component is made, so that a file system that is not mounted above it is noticed.
    """
    try:
        location.mkdir()
    except FileExistsError:
        yield
        return
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not location.parent.exists():
            raise MountError(
                f"{location.parent} does not exist", remedy=f"mkdir -p {location}"
            ) from error
        raise MountError(
            f"{location} cannot be made: {error.strerror}", remedy="choose a directory of your own"
        ) from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty, or mounted after all
            location.rmdir()
        raise


def mount_at(config: Config, mountpoint: Path, *, foreground: bool) -> None:
    """Mount, in the background unless told otherwise. Raises what stands in the way."""
    if foreground:
        log_to_terminal(config)
        assembly.Mount(config, mountpoint).run(
            lambda: say(f"mounted at {mountpoint}"), config.supervisor
        )
        return
    path = log_path(config, mountpoint)

    def serve(ready: object) -> None:
        assert callable(ready)
        try:
            log_to_file(config, path)
        except OSError as error:
            raise MountError(
                f"the log {path} cannot be written: {error.strerror}",
                remedy="choose another directory with state.dir",
            ) from error
        assembly.Mount(config, mountpoint).run(ready)

    run_detached(serve)
    trouble = None
    with contextlib.suppress(MountError):  # it may have been unmounted again
        trouble = RunningMount.at(mountpoint).status()["uploads"].get("error")
    if trouble:
        say(f"mounted, but {trouble}")
