"""How help looks: as wide as the terminal, with whole sentences, shown by a group called alone.

``artifactfs`` without a word asks for help: it is shown on standard output with status 0, as
docker(1), gh(1) and pip(1) do. `HelpGroup` does that for every group that has nothing else to do.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Any, Final

import click

MAX_COLUMNS: Final = 100
MIN_COLUMNS: Final = 20
MAX_SENTENCE_CHARS: Final = 300


class HelpFormatter(click.HelpFormatter):
    """click's formatter, for terminals that are narrower than 50 columns as well."""

    def __init__(self, *_: Any, **__: Any) -> None:
        columns = min(shutil.get_terminal_size().columns, MAX_COLUMNS)
        super().__init__(width=max(columns, MIN_COLUMNS))

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write names beside what they mean; a name that needs more than its share, above it."""
        super().write_dl(list(rows), min(col_max, self.width // 3), col_spacing)


class HelpContext(click.Context):
    """Context that formats help by `HelpFormatter`."""

    formatter_class = HelpFormatter


class HelpGroup(click.Group):
    """Group that shows its help when it is called alone."""

    context_class = HelpContext

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help if there is nothing to parse, else parse."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one of its commands, whose help is laid out like the group's."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.context_class = HelpContext
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with the first sentence of its help, whole."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [
            (name, command.get_short_help_str(limit=MAX_SENTENCE_CHARS))
            for name, command in found
            if command is not None
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
