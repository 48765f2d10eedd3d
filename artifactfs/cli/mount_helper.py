"""``mount.artifactfs``: what mount(8) calls for ``mount -t fuse.artifactfs`` and for fstab.

    mount.artifactfs SOURCE MOUNTPOINT [-sfnvN] [-o OPTIONS]

SOURCE is the service's URL, or ``none`` where the settings have it. OPTIONS are what
`artifactfs.cli.mount_options` reads. mount(8) puts ``rw`` first in OPTIONS also where its user did
not write it, so a ``rw`` there does not override `mount.read_only` of the settings.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from artifactfs.cli import options
from artifactfs.cli.errors import run_command
from artifactfs.cli.help import HelpContext
from artifactfs.cli.mount import mount_at


@click.command()
@click.argument("source")
@click.argument("mountpoint", type=click.Path(path_type=Path, readable=False))
@click.option(
    "-o",
    "settings",
    multiple=True,
    metavar="OPTIONS",
    help="Settings by their keys, and options of mount(8).",
)
@click.option("-s", "sloppy", is_flag=True, help="Ignore unknown options.")
@click.option("-f", "fake", is_flag=True, help="Only check the words.")
@click.option("-n", "-v", "-N", "ignored", is_flag=True, help="Taken and ignored.")
@click.option("-t", "kind", metavar="TYPE", help="Taken and ignored.")
def helper(
    source: str,
    mountpoint: Path,
    settings: tuple[str, ...],
    sloppy: bool,
    fake: bool,
    ignored: bool,
    kind: str | None,
) -> None:
    """Mount a service as mount(8) asks.

    \b
    Examples:
      mount -t fuse.artifactfs https://computalot.com /mnt -o token_file=/etc/artifactfs/token
      mount -t fuse.artifactfs https://computalot.com /mnt -o ro,noexec
      https://computalot.com /mnt fuse.artifactfs token_file=/etc/artifactfs/token,_netdev 0 0
    """
    _ = ignored, kind
    url = None if source in ("none", "artifactfs") else source
    config = options.config_of(_without_default(settings), sloppy=sloppy, url=url)
    if not fake:
        mount_at(config, Path(os.path.abspath(mountpoint)), foreground=False)  # noqa: PTH100


def _without_default(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Return `settings` without the ``rw`` that mount(8) puts first where there is no ``ro``."""
    words_given = ",".join(settings).split(",")
    return (",".join(words_given[1:] if words_given[0] == "rw" else words_given),)


def main() -> None:
    """Run the words of mount(8); ends the process."""
    helper.context_class = HelpContext
    sys.exit(run_command(helper, sys.argv[1:], "mount.artifactfs"))
