"""``cache``: what is on the local disk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from artifactfs import assembly
from artifactfs.cli import shown, words
from artifactfs.cli.failures import (
    FAILED,
    line_of,
    say,
)
from artifactfs.cli.help import Group
from artifactfs.cli.progress import Bar


@click.group(cls=Group, invoke_without_command=True)
@words.json_option()
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
@words.service_options()
@words.cache_options()
@words.json_option()
def stats(as_json: bool = False, **flags: Any) -> None:
    """Show every content that is cached, and how much there is in all.

    Contents have the names under which the service lists them; without the service, or once an
    artifact has expired, their SHA-256 or id. No mount is needed.

    \b
    Examples:
      artifactfs cache stats
      artifactfs cache stats --json | jq '.contents[] | select(.pinned)'
    """
    config = words.config_of(**flags)
    with assembly.Client(config) as client:
        contents, names, nameless = client.cached()
    used_bytes = sum(one.disk_bytes for one in contents)
    if as_json:
        shown.as_json(
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
        shown.table(
            ("size", "cached", "verified", "pinned", "used", "name"),
            ((*_cells(one, now), _name(one, names.get(one.key, []))) for one in contents),
            right=(0, 1),
        )
    click.echo(
        f"{config.cache.directory}: {shown.count(len(contents), 'content')}, "
        f"{shown.size(used_bytes)} of {shown.size(config.cache.size_bytes)}"
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
        shown.size(one.size_bytes),
        shown.part(one.cached_bytes, one.size_bytes),
        "yes" if one.verified else "",
        "yes" if one.pinned else "",
        f"{shown.age(max(0.0, (now - one.used_at).total_seconds()))} ago",
    )


def _name(one: assembly.CachedContent, names: list[str]) -> str:
    if not names:
        return shown.Whole(one.key.removeprefix("id:"))
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]}{more}"


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
            f"{shown.count(report['contents'], 'content')}, "
            f"{shown.count(report['grains'], 'grain')} checked, "
            f"{report['dropped_grains']} dropped"
        )
    if report["dropped_grains"]:
        raise click.exceptions.Exit(FAILED)
