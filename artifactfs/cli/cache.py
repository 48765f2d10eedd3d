"""``cache``: what is on the local disk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from artifactfs import assembly
from artifactfs.cli import options, output
from artifactfs.cli.errors import (
    FAILED,
    line_of,
    say,
)
from artifactfs.cli.help import HelpGroup
from artifactfs.cli.output import ProgressLine


@click.group(cls=HelpGroup, invoke_without_command=True)
@options.json_option()
@click.pass_context
def cache(context: click.Context, as_json: bool) -> None:
    """Show, clear or check the bytes on the local disk.

    \b
    Examples:
      artifactfs cache
      artifactfs cache clear
      artifactfs cache verify
    """
    if context.invoked_subcommand is None:
        context.invoke(stats, as_json=as_json)


@cache.command()
@options.service_options()
@options.cache_options()
@options.json_option()
def stats(as_json: bool = False, **flags: Any) -> None:
    """Show every content that is cached, and how much there is in all.

    Contents have the names under which the service lists them; without the service, or once an
    artifact has expired, their SHA-256 or id. No mount is needed.

    \b
    Examples:
      artifactfs cache stats
      artifactfs cache stats --json | jq '.contents[] | select(.pinned)'
    """
    config = options.config_of(**flags)
    with assembly.Client(config) as client:
        contents, names, nameless = client.cached()
    used_bytes = sum(one.disk_bytes for one in contents)
    if as_json:
        output.as_json(
            {
                "directory": str(config.cache.directory),
                "used_bytes": used_bytes,
                "size_bytes": config.cache.size_bytes,
                "contents": [_described(one, names.get(one.key, [])) for one in contents],
            }
        )
        return
    if nameless is not None:
        say(f"names are not known: {line_of(nameless)}")
    if contents:
        now = datetime.now(UTC)
        output.table(
            ("size", "cached", "verified", "pinned", "used", "name"),
            ((*_cells(one, now), _name(one, names.get(one.key, []))) for one in contents),
            right=(0, 1),
        )
    click.echo(
        f"{config.cache.directory}: {output.count(len(contents), 'content')}, "
        f"{output.size(used_bytes)} of {output.size(config.cache.size_bytes)}"
    )


def _described(one: assembly.CachedContent, names: list[str]) -> dict[str, Any]:
    return {
        "names": names,
        "key": one.key,
        "size_bytes": one.size_bytes,
        "cached_bytes": one.cached_bytes,
        "disk_bytes": one.disk_bytes,
        "verified": one.verified,
        "pinned": one.pinned,
        "used_at": one.used_at.isoformat(timespec="seconds"),
    }


def _cells(one: assembly.CachedContent, now: datetime) -> tuple[str, ...]:
    return (
        output.size(one.size_bytes),
        output.part(one.cached_bytes, one.size_bytes),
        "yes" if one.verified else "",
        "yes" if one.pinned else "",
        f"{output.age(max(0.0, (now - one.used_at).total_seconds()))} ago",
    )


def _name(one: assembly.CachedContent, names: list[str]) -> str:
    if not names:
        return output.Whole(one.key.removeprefix("id:"))
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]}{more}"


@cache.command()
@options.cache_options()
@options.json_option()
def clear(as_json: bool, **flags: Any) -> None:
    """Remove everything that is not pinned or open in a mount.

    \b
    Examples:
      artifactfs cache clear
    """
    with assembly.Client(options.config_of(**flags)) as client:
        freed_bytes = client.cache_clear()
    if as_json:
        output.as_json({"freed_bytes": freed_bytes})
    else:
        click.echo(f"{output.size(freed_bytes)} are free again")


@cache.command()
@options.cache_options()
@options.json_option()
def verify(as_json: bool, **flags: Any) -> None:
    """Check every cached byte; what is wrong is dropped and fetched again when it is read.

    The exit status is 1 if something was wrong.

    \b
    Examples:
      artifactfs cache verify
    """
    with assembly.Client(options.config_of(**flags)) as client, ProgressLine("checking") as bar:
        report = client.cache_verify(bar.update)
    if as_json:
        output.as_json(report)
    else:
        click.echo(
            f"{output.count(report['contents'], 'content')}, "
            f"{output.count(report['grains'], 'grain')} checked, "
            f"{report['dropped_grains']} dropped"
        )
    if report["dropped_grains"]:
        raise click.exceptions.Exit(FAILED)
