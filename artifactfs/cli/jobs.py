"""Jobs without a mount: ``log_setup``, ``result``, ``watch``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from artifactfs import assembly
from artifactfs.assembly import WatchedJob
from artifactfs.cli import options, output
from artifactfs.cli.errors import (
    FAILED,
    line_of,
    say,
)
from artifactfs.cli.transfer import interruptible
from artifactfs.errors import ArtifactfsError, ConfigError

TROUBLE = 2
MOST_LINES = 30
BAR_WIDTH = 16
_COLOURS = {"completed": "green", "failed": "red", "partial": "yellow", "cancelled": "yellow"}


@click.command()
@click.argument("job", metavar="JOB")
@click.option("-f", "--follow", is_flag=True, help="Go on with what it prints until it ends.")
@options.service_options()
def logs(job: str, follow: bool, **flags: Any) -> None:
    """Show what a job has printed, without a mount.

    Where there are several tasks, each line has its task in front. Lines that begin with
    "--- artifactfs:" are not the job's: they say what may be missing, and how it went.

    \b
    Examples:
      artifactfs logs job_1
      artifactfs logs -f job_1 | grep loss
    """

    def write(text: str) -> None:
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.buffer.flush()

    with interruptible() as cancelled, assembly.Client(options.config_of(**flags)) as client:
        if follow:
            client.follow_log(job, write, cancelled=cancelled)
        else:
            client.log(job, write)


@click.command()
@click.argument("job", metavar="JOB")
@click.option("--wait", is_flag=True, help="Wait for the job's end before.")
@click.option("--raw", is_flag=True, help="Byte for byte, not set out for people.")
@options.service_options()
def result(job: str, wait: bool, raw: bool, **flags: Any) -> None:
    """Show a job's result, the service's JSON unchanged.

    The exit status is 1 if there is none.

    \b
    Examples:
      artifactfs result job_1 | jq .summary
      artifactfs result --wait job_1 > result.json
    """
    with interruptible() as cancelled, assembly.Client(options.config_of(**flags)) as client:
        found = client.result(job, raw=raw, wait=wait, cancelled=cancelled)
    if found is None:
        why = "" if wait else " yet (--wait waits for the job's end)"
        raise click.ClickException(f"the job {output.plain(job)} has no result{why}")
    sys.stdout.buffer.write(found)
    sys.stdout.buffer.flush()


@click.command()
@click.argument("jobs", nargs=-1, metavar="JOB…")
@click.option("--project", metavar="P", help="All jobs of this project instead.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line for each change.")
@options.service_options()
def watch(jobs: tuple[str, ...], project: str | None, as_json: bool, **flags: Any) -> None:
    """Watch jobs until all have ended: status, progress, quality, last line.

    The exit status is 0 if all were completed, 1 if one has failed, is partial or was cancelled,
    and 2 if they could not be watched.

    \b
    Examples:
      artifactfs watch job_1 job_2 && artifactfs result job_1
      artifactfs watch --project sweep
      artifactfs watch --json job_1 | jq .progress
    """
    if bool(jobs) == (project is not None):
        raise click.UsageError("name some jobs, or a project by --project")
    terminal = output.console()
    is_live = terminal.is_terminal and not as_json
    known: dict[str, WatchedJob] = {}
    showing = Live(console=terminal, refresh_per_second=8) if is_live else nullcontext()
    with _trouble(), interruptible() as cancelled, showing as live:

        def tell(one: WatchedJob) -> None:
            before = known.get(one.job.id)
            known[one.job.id] = one
            if live is not None:
                live.update(_table(known))
            elif as_json:
                click.echo(json.dumps(_document(one)))
            elif before is None or before.job.status != one.job.status:
                click.echo(_line(one))

        with assembly.Client(options.config_of(**flags)) as client:
            ended = client.watch(jobs, project, tell, cancelled=cancelled)
    if any(one.job.status != "completed" for one in ended):
        raise click.exceptions.Exit(FAILED)


@contextmanager
def _trouble() -> Iterator[None]:
    """What goes wrong with the watching itself has a status of its own."""
    try:
        yield
    except ConfigError:
        raise
    except (ArtifactfsError, OSError) as error:
        say(line_of(error))
        raise click.exceptions.Exit(TROUBLE) from error


def _document(one: WatchedJob) -> dict[str, Any]:
    return {
        "job_id": one.job.id,
        "status": one.job.status,
        "project": one.job.project,
        "client_ref": one.job.client_ref,
        "tasks": one.tasks,
        "progress": one.progress,
        "quality": one.quality,
        "last_line": one.last_line,
        "error": one.job.error,
        "recommended_action": one.job.recommended_action,
    }


def _line(one: WatchedJob) -> str:
    quality = "" if one.quality is None else f", quality {_quality(one)}"
    error = "" if one.job.error is None else f": {one.job.error}"
    return output.for_output(f"{one.job.id} {one.job.status or '?'}{quality}{error}")


def _quality(one: WatchedJob) -> str:
    """Two digits, rounded down: 1.00 is perfect, and nothing else is."""
    return "" if one.quality is None else f"{math.floor(one.quality * 100) / 100:.2f}"


def _table(known: dict[str, WatchedJob]) -> RenderableType:
    """What goes on first, then what has ended, and not more than a screen."""
    rows = sorted(known.values(), key=lambda one: one.job.ended)
    lines = output.rows(
        ("job", "status", "progress", "quality", "last line"),
        [
            (
                one.job.id,
                Text(output.plain(one.job.status or "?"), _COLOURS.get(one.job.status or "?", "")),
                Text() if one.progress is None else output.bar(one.progress, BAR_WIDTH),
                _quality(one),
                one.last_line,
            )
            for one in rows[:MOST_LINES]
        ],
        width=output.columns(),
    )
    ended = sum(one.job.ended for one in rows)
    left = f", {len(rows) - MOST_LINES:,} not shown" if len(rows) > MOST_LINES else ""
    return Group(*lines, Text(f"{ended:,} of {len(rows):,} ended{left}"))
