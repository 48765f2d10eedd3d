"""The command line: words, progress, exit codes.

``main`` is the command ``artifactfs``. ``words`` holds the options that commands share and turns
them into settings; ``failures`` turns errors into one line and an exit status; ``progress`` and
``shown`` draw, ``rates`` tells how fast bytes move; ``daemon`` and ``logs`` make a mount a daemon;
``running`` talks to a mount that runs, through the mount itself. The commands stand in
``mounting``, ``attending``, ``transfer``, ``keeping``, ``checking`` and ``serving``.

Exit status: 0 done, 1 failed, 2 wrong words or settings, 3 not everything is uploaded, 130
interrupted.
"""

from __future__ import annotations

import sys

import click

from artifactfs import __version__
from artifactfs.cli import attending, checking, keeping, mounting, serving, transfer
from artifactfs.cli.failures import run


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
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


for command in (
    mounting.mount,
    mounting.unmount,
    attending.status,
    attending.flush,
    attending.refresh,
    attending.retry,
    attending.pin,
    attending.unpin,
    transfer.ls,
    transfer.get,
    transfer.put,
    keeping.cache,
    checking.config,
    checking.doctor,
    serving.serve,
    serving.demo,
):
    cli.add_command(command)


def main() -> None:
    """Run the words of the command line; ends the process."""
    sys.exit(run(cli, sys.argv[1:], "artifactfs"))
