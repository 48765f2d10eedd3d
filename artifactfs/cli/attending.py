"""What one says to a mount that runs: status, flush, refresh, retry, pin, unpin."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from artifactfs.cli import shown, words
from artifactfs.cli.failures import (
    FAILED,
    NOT_ALL_UPLOADED,
    say,
)
from artifactfs.cli.progress import Bar
from artifactfs.cli.rates import Rates
from artifactfs.cli.running import Running
from artifactfs.errors import MountError

POLL_S = 0.05
WATCH_S = 1.0
MOST_LINES = 20
BAR_WIDTH = 20
_ON_THEIR_WAY = frozenset({"queued", "hashing", "uploading"})
_ORDER = {"uploading": 0, "failed": 1, "interrupted": 2, "hashing": 3, "writing": 4}


@click.command()
@words.mountpoint_argument()
@words.json_option()
@click.option("--watch", is_flag=True, help="Go on showing it, and what is moving.")
@click.option("--check", is_flag=True, help="Say nothing; 0 if the mount answers, 1 if not.")
def status(mountpoint: Path | None, as_json: bool, watch: bool, check: bool) -> None:
    """Show a mount: its listing, its cache, its uploads.

    \b
    Examples:
      artifactfs status
      artifactfs status --watch ~/artifacts
      artifactfs status --watch --json | jq .rates
      artifactfs status --json | jq .uploads
      artifactfs status --check ~/artifacts && echo it answers
    """
    running = Running.at(mountpoint)
    if check:
        if running.status()["listing"]["fetched_at"] is None:
            raise click.exceptions.Exit(FAILED)
        return
    if watch:
        _watch(running, as_json=as_json)
        return
    if as_json:
        shown.as_json(running.status() | {"files": running.uploads()})
        return
    shown.console().print(_overview(running.status(), running.uploads()), soft_wrap=True)


def _watch(running: Running, *, as_json: bool) -> None:
    """Show it until interrupted: a picture that is renewed on a terminal, else a line each time."""
    terminal = shown.console()
    rates = Rates()
    is_live = terminal.is_terminal and not as_json
    with Live(console=terminal, auto_refresh=False) if is_live else nullcontext() as live:
        while True:
            now, uploads = running.status(), running.uploads()
            rates.look(time.monotonic(), now["cache"], uploads)
            if live is not None:
                live.update(_overview(now, uploads, rates), refresh=True)
            elif as_json:
                click.echo(json.dumps(now | {"files": uploads, "rates": rates.document()}))
            else:
                click.echo(_line(now, rates))
            time.sleep(WATCH_S)


def _line(now: dict[str, Any], rates: Rates) -> str:
    uploads = now["uploads"]
    return (
        f"{datetime.now().astimezone():%H:%M:%S}  {_transfers(rates)}  "
        f"cached {shown.size(now['cache']['cached_bytes'])}  "
        f"pending {shown.count(uploads['pending_files'], 'file')}, "
        f"{shown.size(uploads['pending_bytes'])}"
    )


def _transfers(rates: Rates) -> str:
    hits = rates.hit_part
    return (
        f"down {shown.rate(rates.fetched_bytes_s)}  up {shown.rate(rates.sent_bytes_s)}  "
        f"hits {'-' if hits is None else shown.part(hits, 1)}"
    )


def _overview(
    now: dict[str, Any], entries: list[dict[str, Any]], rates: Rates | None = None
) -> RenderableType:
    listing, cache, uploads = now["listing"], now["cache"], now["uploads"]
    binding = now["binding"]
    reads = "passthrough"
    if not binding.get("passthrough"):
        reads = f"no passthrough: {binding.get('passthrough_reason') or 'not tried yet'}"
    listed = f"{shown.count(listing['artifacts'], 'artifact')}, "
    listed += f"listed {shown.age(listing['age_s'])} ago"
    if listing["stale"]:
        listed += f" (stale: {listing['error'] or 'the service does not answer'})"
    pending = shown.count(uploads["pending_files"], "file")
    pending += f", {shown.size(uploads['pending_bytes'])} pending"
    for state in ("failed", "interrupted"):
        if uploads[state]:
            pending += f", {uploads[state]} {state}"
    if now.get("read_only"):
        pending = "none, mounted read-only"
        if waiting := now.get("spool_files"):
            pending += f"; {shown.count(waiting, 'file')} in {now['spool']}"
    if uploads.get("error"):
        pending += f" ({uploads['error']})"
    cached = f"{shown.size(cache['cached_bytes'])} of {shown.size(cache['size_bytes'])}"
    moving = [("now", _transfers(rates))] if rates is not None else []
    facts = [
        Text(f"{name:9}", "bold") + Text(shown.for_output(text))
        for name, text in (
            ("mount", f"{now['mountpoint']} (pid {now['pid']}, {binding['name']}, {reads})"),
            ("service", f"{now['url']}, token from {now['token']}"),
            ("listing", listed),
            ("cache", f"{cached}, {shown.size(cache['fetched_bytes'])} fetched since the mount"),
            ("uploads", pending),
            *moving,
        )
    ]
    files = [one for one in entries if one["state"] != "uploaded"]
    return Group(*facts, *([Text(""), *_files(files)] if files else []))


def _files(files: list[dict[str, Any]]) -> list[Text]:
    """What is in drop/, what moves and what needs somebody first, and not more than a screen."""
    files = sorted(files, key=lambda one: _ORDER.get(one["state"], len(_ORDER)))
    lines = shown.rows(
        ("drop/", "state", "size", "sent", "", ""),
        [
            (
                one["name"],
                "waits for its name" if one["waits_for_name"] else one["state"],
                shown.size(one["size"]),
                *_sent(one),
                one["error"] or "",
            )
            for one in files[:MOST_LINES]
        ],
        width=shown.columns(),
    )
    if len(files) > MOST_LINES:
        lines.append(Text(f"and {len(files) - MOST_LINES:,} more"))
    return lines


def _sent(one: dict[str, Any]) -> tuple[Text, Text]:
    if one["state"] != "uploading":
        return Text(), Text()
    return shown.bar(one["progress"], BAR_WIDTH), Text(shown.part(one["progress"], 1.0))


def wait_for_uploads(
    running: Running, timeout_s: float, enough: Callable[[], bool] = lambda: False
) -> list[dict[str, Any]]:
    """Wait with a progress bar until nothing is on its way, or it is `enough`.

    What is not uploaded then.
    """
    deadline_s = time.monotonic() + timeout_s
    pause_s = POLL_S
    with Bar("uploading") as bar:
        whole_bytes = 0
        while True:
            uploads = running.status()["uploads"]
            left_bytes = uploads["pending_bytes"]
            whole_bytes = max(whole_bytes, left_bytes)
            if uploads.get("error"):  # nothing is uploaded before that has been mended
                say(uploads["error"])
                break
            if not uploads["pending_files"] or time.monotonic() >= deadline_s or enough():
                break
            bar.update(whole_bytes - left_bytes + uploads["sent_bytes"], whole_bytes)
            time.sleep(min(pause_s, max(0.0, deadline_s - time.monotonic())))
            pause_s = min(0.5, pause_s * 1.5)
    return [
        one
        for one in running.uploads()
        if one["state"] != "uploaded" and not (one["state"] == "writing" and one["size"] == 0)
    ]


def wait_for_files(running: Running, names: set[str], timeout_s: float) -> list[dict[str, Any]]:
    """Wait until none of these files of drop/, or of these directories, is on its way.

    What of them is not uploaded then. One that is not there is uploaded, or was removed.
    """
    deadline_s = time.monotonic() + timeout_s
    pause_s = POLL_S
    with Bar("uploading") as bar:
        while True:
            uploads = running.status()["uploads"]
            chosen = [one for one in running.uploads() if _is_in(one["name"], names)]
            left = [one for one in chosen if one["state"] != "uploaded"]
            # A file whose close has just returned is `writing` still, and counts as pending.
            states = _ON_THEIR_WAY | ({"writing"} if uploads["pending_files"] else set())
            pending = [one for one in left if one["state"] in states and not one["waits_for_name"]]
            if uploads.get("error"):
                say(uploads["error"])
                return left
            if not pending or time.monotonic() >= deadline_s:
                return left
            whole_bytes = sum(one["size"] for one in chosen)
            left_bytes = sum(int(one["size"] * (1 - one["progress"])) for one in left)
            bar.update(whole_bytes - left_bytes, whole_bytes)
            time.sleep(min(pause_s, max(0.0, deadline_s - time.monotonic())))
            pause_s = min(0.5, pause_s * 1.5)


def _is_in(name: str, names: set[str]) -> bool:
    return name in names or any(name.startswith(f"{one}/") for one in names)


def _chosen(paths: tuple[Path, ...]) -> dict[Path, set[str] | None]:
    """By mount point, the names below drop/ that are meant; None: everything there."""
    chosen: dict[Path, set[str] | None] = {}
    for path in paths:
        mountpoint = Running.at(path).mountpoint
        location = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would touch the mount
        if not location.is_relative_to(mountpoint):
            location = Path(os.path.realpath(location))
        names = location.relative_to(mountpoint).parts
        if names in ((), ("drop",)):
            chosen[mountpoint] = None
        elif names[0] != "drop":
            raise MountError(f"{path} is not in drop/", remedy=f"only {mountpoint}/drop is flushed")
        else:
            known = chosen.setdefault(mountpoint, set())
            if known is not None:
                known.add("/".join(names[1:]))
    return chosen


@click.command()
@click.argument(
    "paths", nargs=-1, type=click.Path(path_type=Path, readable=False), metavar="[MOUNTPOINT|FILE]…"
)
@click.option("--timeout", type=float, default=3600.0, metavar="S", help="How long to wait.")
def flush(paths: tuple[Path, ...], timeout: float) -> None:
    """Wait until files in drop/ are on the service: all, or only those that are named.

    A named file that is not in drop/ any more has been uploaded, or was removed. The exit status
    is 3 if something failed, was interrupted, waits for its name, or is still on its way.

    \b
    Examples:
      artifactfs flush
      cp model.safetensors ~/artifacts/drop/ && artifactfs flush ~/artifacts
      artifactfs flush --timeout 60 ~/artifacts
      artifactfs flush ~/artifacts/drop/model.safetensors
    """
    deadline_s = time.monotonic() + timeout
    left: list[dict[str, Any]] = []
    chosen = _chosen(paths) or {Running.at(None).mountpoint: None}
    for mountpoint, names in chosen.items():
        left_s = max(0.0, deadline_s - time.monotonic())
        if names is None:
            left += wait_for_uploads(Running(mountpoint), left_s)
        else:
            left += wait_for_files(Running(mountpoint), names, left_s)
    say_what_is_left(left)
    if left:
        raise click.exceptions.Exit(NOT_ALL_UPLOADED)


def say_what_is_left(left: list[dict[str, Any]]) -> None:
    """One line for each file, those first that wait for somebody; not more than fit a screen."""
    waiting = {"failed": 0, "interrupted": 1}
    for upload in sorted(left, key=lambda one: waiting.get(one["state"], 2))[:MOST_LINES]:
        state = "waits for its name" if upload["waits_for_name"] else upload["state"]
        reason = f": {upload['error']}" if upload["error"] else ""
        say(f"{shown.plain(upload['name'])} is not uploaded, it {_is(state)}{reason}")
    if len(left) > MOST_LINES:
        say(f"and {len(left) - MOST_LINES:,} more")


def say_where_it_stays(left: list[dict[str, Any]], spool: str) -> None:
    """One line that says that nothing is lost."""
    stay, resume = ("stays", "resumes") if len(left) == 1 else ("stay", "resume")
    say(f"{shown.count(len(left), 'file')} {stay} in {spool} and {resume} at the next mount")


def _is(state: str) -> str:
    return state if state.startswith("waits") else f"is {state}"


@click.command()
@words.mountpoint_argument()
def refresh(mountpoint: Path | None) -> None:
    """Ask the service for its listing now.

    \b
    Examples:
      artifactfs refresh
      artifactfs refresh ~/artifacts
    """
    running = Running.at(mountpoint)
    running.order(running.mountpoint, "refresh")


@click.command()
@click.argument(
    "paths", nargs=-1, type=click.Path(path_type=Path, readable=False), metavar="[MOUNTPOINT|FILE]…"
)
def retry(paths: tuple[Path, ...]) -> None:
    """Upload again what has failed or was interrupted.

    All of it, or only the files in drop/ that are named.

    \b
    Examples:
      artifactfs retry
      artifactfs retry ~/artifacts/drop/model.safetensors
    """
    for path in paths or (None,):
        running = Running.at(path)
        target = running.mountpoint / "drop"
        if path is not None and Path.cwd() / path != running.mountpoint:
            target = path
        running.order(target, "retry")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
def pin(files: tuple[Path, ...]) -> None:
    """Fetch files whole and keep them cached.

    \b
    Examples:
      artifactfs pin ~/artifacts/artifacts/model.safetensors
    """
    for path in files:
        Running.at(path).order(path, "pin", b"1")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
def unpin(files: tuple[Path, ...]) -> None:
    """Let pinned files leave the cache again when room is needed.

    \b
    Examples:
      artifactfs unpin ~/artifacts/artifacts/model.safetensors
    """
    for path in files:
        Running.at(path).order(path, "pin", b"0")
