"""The command line: words, progress, exit codes.

``main`` is the command ``artifactfs``. ``words`` holds the options that commands share and turns
them into settings; ``failures`` turns errors into one line and an exit status; ``output`` writes
every byte or fails, ``target`` is where ``get`` writes; ``progress`` and ``shown`` draw, ``rates``
tells how fast bytes move; ``daemon`` and ``logs`` make a mount a daemon; ``running`` talks to a
mount that runs, through the mount itself; ``supervision`` and ``borrowing`` are what a mount for
one command needs; ``help`` lays out ``--help``. The commands stand in ``mounting``,
``accompanying``, ``attending``, ``transfer``, ``jobs``, ``keeping``, ``checking`` and ``serving``;
``completing`` and ``manual`` tell shells and man(1) of them.

Exit status: 0 done, 1 failed, 2 wrong words or settings (``watch``: it could not watch either),
3 not everything is uploaded, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys

import click

from artifactfs import __version__
from artifactfs.cli.errors import run
from artifactfs.cli.help import HelpContext, HelpGroup

MODULES = {
    "mount": ("mount",),
    "unmount": ("unmount",),
    "run": ("run",),
    "status": ("status", "flush", "refresh", "retry", "pin", "unpin"),
    "transfer": ("ls", "get", "put"),
    "jobs": ("watch", "logs", "result"),
    "cache": ("cache",),
    "config": ("config", "doctor"),
    "serve": ("serve", "demo"),
    "completion": ("completion",),
    "man_page": ("manual",),
}
MODULE_OF = {command: module for module, some in MODULES.items() for command in some}


class Commands(HelpGroup):
    """The commands, each loaded when it is asked for."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Their names, in the order of the modules."""
        return list(MODULE_OF)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """One of them."""
        if name not in MODULE_OF:
            return None
        module = importlib.import_module(f"{__name__}.{MODULE_OF[name]}")
        found: click.Command = getattr(module, name)
        found.context_class = HelpContext
        return found


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command has --help with examples. Settings: artifactfs config.",
)
@click.version_option(__version__, prog_name="artifactfs")
def cli() -> None:
    """Mount the artifacts of a compute service as a directory.

    \b
    Examples:
      artifactfs mount ~/artifacts
      cp results.parquet ~/artifacts/drop/ && artifactfs flush ~/artifacts
      artifactfs unmount ~/artifacts
    """


def main() -> None:
    """Run the words of the command line; ends the process."""
    sys.exit(run(cli, sys.argv[1:], "artifactfs"))
