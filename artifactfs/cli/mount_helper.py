"""``mount.artifactfs``: what mount(8) calls for ``mount -t fuse.artifactfs`` and for fstab.

    mount.artifactfs SOURCE MOUNTPOINT [-sfnvN] [-o OPTIONS]

SOURCE is the service's URL, or ``none`` where the settings have it. OPTIONS are settings by their
keys, mixed with what mount(8) itself understands and passes on; those are left out, unknown ones
are an error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from artifactfs.cli import words
from artifactfs.cli.failures import run
from artifactfs.cli.help import Context
from artifactfs.cli.mounting import mount_at
from artifactfs.config import key_of_option

GENERIC = frozenset(
    """
    rw ro auto noauto user users nouser owner group defaults nofail _netdev exec noexec suid nosuid
    dev nodev async sync atime noatime relatime norelatime strictatime nostrictatime diratime
    nodiratime lazytime nolazytime nosymfollow silent loud
    """.split()  # noqa: SIM905 - a table of words
)


def is_generic(option: str) -> bool:
    """Whether mount(8) means itself by it."""
    name = option.partition("=")[0]
    return name in GENERIC or name.startswith(("x-", "comment", "uid", "gid"))


@click.command()
@click.argument("source")
@click.argument("mountpoint", type=click.Path(path_type=Path, readable=False))
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="Settings, by their keys.")
@click.option("-s", "sloppy", is_flag=True, help="Ignore unknown options.")
@click.option("-f", "fake", is_flag=True, help="Only check the words.")
@click.option("-n", "-v", "-N", "ignored", is_flag=True, help="Taken and ignored.")
@click.option("-t", "kind", metavar="TYPE", help="Taken and ignored.")
def helper(
    source: str,
    mountpoint: Path,
    options: tuple[str, ...],
    sloppy: bool,
    fake: bool,
    ignored: bool,
    kind: str | None,
) -> None:
    """Mount a service as mount(8) asks.

    \b
    Examples:
      mount -t fuse.artifactfs https://computalot.com /mnt -o token_file=/etc/artifactfs/token
      https://computalot.com /mnt fuse.artifactfs token_file=/etc/artifactfs/token,_netdev 0 0
    """
    _ = ignored, kind
    given = [one for text in options for one in text.split(",") if one and not is_generic(one)]
    if sloppy:
        given = [one for one in given if key_of_option(one.partition("=")[0])]
    url = None if source in ("none", "artifactfs") else source
    config = words.config_of(tuple(given), url=url)
    if not fake:
        mount_at(config, Path(os.path.abspath(mountpoint)), foreground=False)  # noqa: PTH100


def main() -> None:
    """Run the words of mount(8); ends the process."""
    helper.context_class = Context
    sys.exit(run(helper, sys.argv[1:], "mount.artifactfs"))
