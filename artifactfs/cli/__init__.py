"""The command line: commands, progress, exit statuses.

`main` is the command ``artifactfs``. A module is named for its command, or for the main one of
several: `mount`, `unmount`, `run`, `status` (with flush, refresh, retry, pin), `transfer` (ls, get,
put), `jobs` (watch, logs, result), `cache`, `config` (with doctor), `serve` (with demo),
`completion`, `man_page`. What they share:

| module | what it has |
|---|---|
| `options`, `mount_options` | options of several commands; what ``-o`` takes |
| `errors`, `standard_streams` | one line and an exit status; output whole or an error |
| `output`, `help` | tables, units, progress; ``--help`` |
| `get_target` | the files that ``get`` writes |
| `mount_client`, `mount_helper` | talking to a running mount; mount(8) and fstab |
| `daemon`, `log_setup`, `child_process` | background, logs, programs that are accompanied |

Exit status: 0 done, 1 failed, 2 wrong words or settings (``watch``: it could not watch either),
3 not everything is uploaded, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys

import click

from artifactfs import __version__
from artifactfs.cli.errors import run_command
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
    sys.exit(run_command(cli, sys.argv[1:], "artifactfs"))
