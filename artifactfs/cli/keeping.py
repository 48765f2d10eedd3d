"""``cache``: what is on the local disk."""

from __future__ import annotations

from typing import Any

import click

from artifactfs import assembly
from artifactfs.cli import shown, words
from artifactfs.cli.failures import FAILED
from artifactfs.cli.progress import Bar


@click.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """Show, clear or check the bytes on the local disk.

    \b
    Examples:
      artifactfs cache
      artifactfs cache clear
      artifactfs cache verify
    """
    if context.invoked_subcommand is None:
        context.invoke(stats)


@cache.command()
@words.cache_options()
@words.json_option()
def stats(as_json: bool = False, **flags: Any) -> None:
    """Show how much is cached, and where.

    \b
    Examples:
      artifactfs cache stats
      artifactfs cache stats --json
    """
    config = words.config_of(**flags)
    with assembly.Client(config) as client:
        contents, used_bytes = client.cache_contents()
    if as_json:
        shown.as_json(
            {
                "directory": str(config.cache.directory),
                "contents": contents,
                "used_bytes": used_bytes,
                "size_bytes": config.cache.size_bytes,
            }
        )
        return
    click.echo(
        f"{config.cache.directory}: {contents} contents, {shown.size(used_bytes)} "
        f"of {shown.size(config.cache.size_bytes)}"
    )


@cache.command()
@words.cache_options()
@words.json_option()
def clear(as_json: bool, **flags: Any) -> None:
    """Remove everything that is not pinned or open in a mount.

    \b
    Examples:
      artifactfs cache clear
    """
    with assembly.Client(words.config_of(**flags)) as client:
        freed_bytes = client.cache_clear()
    if as_json:
        shown.as_json({"freed_bytes": freed_bytes})
    else:
        click.echo(f"{shown.size(freed_bytes)} are free again")


@cache.command()
@words.cache_options()
@words.json_option()
def verify(as_json: bool, **flags: Any) -> None:
    """Check every cached byte; what is wrong is dropped and fetched again when it is read.

    The exit status is 1 if something was wrong.

    \b
    Examples:
      artifactfs cache verify
    """
    with assembly.Client(words.config_of(**flags)) as client, Bar("checking") as bar:
        report = client.cache_verify(bar.update)
    if as_json:
        shown.as_json(report)
    else:
        click.echo(
            f"{report['contents']} contents, {report['grains']} grains checked, "
            f"{report['dropped_grains']} dropped"
        )
    if report["dropped_grains"]:
        raise click.exceptions.Exit(FAILED)
