"""How fast a mount moves bytes, from what it says of itself time and again.

A mount counts; it keeps no clock. ``status --watch`` looks at it every second and hands what it saw
to `TransferRates`, which remembers the last `WINDOW_S`: a rate is what was added between the oldest
and the newest look, so that it neither jumps nor lags behind for long. What was uploaded is counted
per file of ``drop/``, by its progress; a file that leaves, or begins anew, takes nothing back.

What one says to a mount that runs: status, flush, refresh, retry, pin, unpin.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from artifactfs.cli import options, output
from artifactfs.cli.errors import (
    FAILED,
    NOT_ALL_UPLOADED,
    say,
)
from artifactfs.cli.mount_client import RunningMount
from artifactfs.cli.output import ProgressLine
from artifactfs.errors import MountError

WINDOW_S = 4.0


@dataclass(frozen=True, slots=True)
class RateSample:
    """What a mount said at one moment; `sent_bytes` counts from the first look on."""

    at_s: float
    fetched_bytes: int
    sent_bytes: float
    hits: int
    misses: int


class TransferRates:
    """For one thread. `look` first, then ask; with one look every rate is None."""

    def __init__(self) -> None:
        self._looks: deque[RateSample] = deque()
        self._files: dict[str, float] = {}

    def look(self, at_s: float, cache: dict[str, Any], uploads: Sequence[dict[str, Any]]) -> None:
        """Take down what ``status.json`` says of the cache, and ``uploads.json``."""
        files = {one["name"]: one["size"] * one["progress"] for one in uploads}
        sent_bytes = 0.0
        if self._looks:
            news = (size - self._files.get(name, 0.0) for name, size in files.items())
            sent_bytes = self._looks[-1].sent_bytes + sum(max(0.0, one) for one in news)
        self._files = files
        if self._looks and cache["fetched_bytes"] < self._looks[-1].fetched_bytes:
            self._looks.clear()  # it is another mount now
        self._looks.append(
            RateSample(at_s, cache["fetched_bytes"], sent_bytes, cache["hits"], cache["misses"])
        )
        while len(self._looks) > 2 and self._looks[1].at_s <= at_s - WINDOW_S:
            self._looks.popleft()

    @property
    def fetched_bytes_s(self) -> float | None:
        """Bytes a second from the service."""
        return self._rate(lambda look: look.fetched_bytes)

    @property
    def sent_bytes_s(self) -> float | None:
        """Bytes a second to the service."""
        return self._rate(lambda look: look.sent_bytes)

    @property
    def hit_part(self) -> float | None:
        """Which part of the reads of the last seconds needed nothing from the service, 0 to 1.

        None if there were none.
        """
        first, last = self._looks[0], self._looks[-1]
        hits, misses = last.hits - first.hits, last.misses - first.misses
        return hits / (hits + misses) if hits + misses else None

    def _rate(self, of: Callable[[RateSample], float]) -> float | None:
        first, last = self._looks[0], self._looks[-1]
        elapsed_s = last.at_s - first.at_s
        return (of(last) - of(first)) / elapsed_s if elapsed_s > 0 else None

    def document(self) -> dict[str, float | None]:
        """As JSON has it."""
        return {
            "fetched_bytes_s": self.fetched_bytes_s,
            "sent_bytes_s": self.sent_bytes_s,
            "hit_part": self.hit_part,
        }


POLL_S = 0.05
WATCH_S = 1.0
MOST_LINES = 20
BAR_WIDTH = 20
_ON_THEIR_WAY = frozenset({"queued", "hashing", "uploading"})
_ORDER = {"uploading": 0, "failed": 1, "interrupted": 2, "hashing": 3, "writing": 4}


@click.command()
@options.mountpoint_argument()
@options.json_option()
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
    running = RunningMount.at(mountpoint)
    if check:
        if running.status()["listing"]["fetched_at"] is None:
            raise click.exceptions.Exit(FAILED)
        return
    if watch:
        _watch(running, as_json=as_json)
        return
    if as_json:
        output.as_json(running.status() | {"files": running.uploads()})
        return
    output.console().print(_overview(running.status(), running.uploads()), soft_wrap=True)


def _watch(running: RunningMount, *, as_json: bool) -> None:
    """Show it until interrupted: a picture that is renewed on a terminal, else a line each time."""
    terminal = output.console()
    rates = TransferRates()
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


def _line(now: dict[str, Any], rates: TransferRates) -> str:
    uploads = now["uploads"]
    return (
        f"{datetime.now().astimezone():%H:%M:%S}  {_transfers(rates)}  "
        f"cached {output.size(now['cache']['cached_bytes'])}  "
        f"pending {output.count(uploads['pending_files'], 'file')}, "
        f"{output.size(uploads['pending_bytes'])}"
    )


def _transfers(rates: TransferRates) -> str:
    hits = rates.hit_part
    return (
        f"down {output.rate(rates.fetched_bytes_s)}  up {output.rate(rates.sent_bytes_s)}  "
        f"hits {'-' if hits is None else output.part(hits, 1)}"
    )


def _overview(
    now: dict[str, Any], entries: list[dict[str, Any]], rates: TransferRates | None = None
) -> RenderableType:
    listing, cache, uploads = now["listing"], now["cache"], now["uploads"]
    binding = now["binding"]
    reads = "passthrough"
    if not binding.get("passthrough"):
        reads = f"no passthrough: {binding.get('passthrough_reason') or 'not tried yet'}"
    listed = f"{output.count(listing['artifacts'], 'artifact')}, "
    listed += f"listed {output.age(listing['age_s'])} ago"
    if listing["stale"]:
        listed += f" (stale: {listing['error'] or 'the service does not answer'})"
    pending = output.count(uploads["pending_files"], "file")
    pending += f", {output.size(uploads['pending_bytes'])} pending"
    for state in ("failed", "interrupted"):
        if uploads[state]:
            pending += f", {uploads[state]} {state}"
    if now.get("read_only"):
        pending = "none, mounted read-only"
        if waiting := now.get("spool_files"):
            pending += f"; {output.count(waiting, 'file')} in {now['spool']}"
    if uploads.get("error"):
        pending += f" ({uploads['error']})"
    cached = f"{output.size(cache['cached_bytes'])} of {output.size(cache['size_bytes'])}"
    moving = [("now", _transfers(rates))] if rates is not None else []
    facts = [
        Text(f"{name:9}", "bold") + Text(output.for_output(text))
        for name, text in (
            ("mount", f"{now['mountpoint']} (pid {now['pid']}, {binding['name']}, {reads})"),
            ("service", f"{now['url']}, token from {now['token']}"),
            ("listing", listed),
            ("cache", f"{cached}, {output.size(cache['fetched_bytes'])} fetched since the mount"),
            ("uploads", pending),
            *moving,
        )
    ]
    files = [one for one in entries if one["state"] != "uploaded"]
    return Group(*facts, *([Text(""), *_files(files)] if files else []))


def _files(files: list[dict[str, Any]]) -> list[Text]:
    """What is in drop/, what moves and what needs somebody first, and not more than a screen."""
    files = sorted(files, key=lambda one: _ORDER.get(one["state"], len(_ORDER)))
    lines = output.rows(
        ("drop/", "state", "size", "sent", "", ""),
        [
            (
                one["name"],
                "waits for its name" if one["waits_for_name"] else one["state"],
                output.size(one["size"]),
                *_sent(one),
                one["error"] or "",
            )
            for one in files[:MOST_LINES]
        ],
        width=output.columns(),
    )
    if len(files) > MOST_LINES:
        lines.append(Text(f"and {len(files) - MOST_LINES:,} more"))
    return lines


def _sent(one: dict[str, Any]) -> tuple[Text, Text]:
    if one["state"] != "uploading":
        return Text(), Text()
    return output.bar(one["progress"], BAR_WIDTH), Text(output.part(one["progress"], 1.0))


def wait_for_uploads(
    running: RunningMount, timeout_s: float, enough: Callable[[], bool] = lambda: False
) -> list[dict[str, Any]]:
    """Wait with a progress bar until nothing is on its way, or it is `enough`.

    What is not uploaded then.
    """
    deadline_s = time.monotonic() + timeout_s
    pause_s = POLL_S
    with ProgressLine("uploading") as bar:
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


def wait_for_files(
    running: RunningMount, names: set[str], timeout_s: float
) -> list[dict[str, Any]]:
    """Wait until none of these files of drop/, or of these directories, is on its way.

    What of them is not uploaded then. One that is not there is uploaded, or was removed.
    """
    deadline_s = time.monotonic() + timeout_s
    pause_s = POLL_S
    with ProgressLine("uploading") as bar:
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
        mountpoint = RunningMount.at(path).mountpoint
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
    chosen = _chosen(paths) or {RunningMount.at(None).mountpoint: None}
    for mountpoint, names in chosen.items():
        left_s = max(0.0, deadline_s - time.monotonic())
        if names is None:
            left += wait_for_uploads(RunningMount(mountpoint), left_s)
        else:
            left += wait_for_files(RunningMount(mountpoint), names, left_s)
    say_what_is_left(left)
    if left:
        raise click.exceptions.Exit(NOT_ALL_UPLOADED)


def say_what_is_left(left: list[dict[str, Any]]) -> None:
    """One line for each file, those first that wait for somebody; not more than fit a screen."""
    waiting = {"failed": 0, "interrupted": 1}
    for upload in sorted(left, key=lambda one: waiting.get(one["state"], 2))[:MOST_LINES]:
        state = "waits for its name" if upload["waits_for_name"] else upload["state"]
        reason = f": {upload['error']}" if upload["error"] else ""
        say(f"{output.plain(upload['name'])} is not uploaded, it {_is(state)}{reason}")
    if len(left) > MOST_LINES:
        say(f"and {len(left) - MOST_LINES:,} more")


def say_where_it_stays(left: list[dict[str, Any]], spool: str) -> None:
    """One line that says that nothing is lost."""
    stay, resume = ("stays", "resumes") if len(left) == 1 else ("stay", "resume")
    say(f"{output.count(len(left), 'file')} {stay} in {spool} and {resume} at the next mount")


def _is(state: str) -> str:
    return state if state.startswith("waits") else f"is {state}"


@click.command()
@options.mountpoint_argument()
def refresh(mountpoint: Path | None) -> None:
    """Ask the service for its listing now.

    \b
    Examples:
      artifactfs refresh
      artifactfs refresh ~/artifacts
    """
    running = RunningMount.at(mountpoint)
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
        running = RunningMount.at(path)
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
        RunningMount.at(path).order(path, "pin", b"1")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
def unpin(files: tuple[Path, ...]) -> None:
    """Let pinned files leave the cache again when room is needed.

    \b
    Examples:
      artifactfs unpin ~/artifacts/artifacts/model.safetensors
    """
    for path in files:
        RunningMount.at(path).order(path, "pin", b"0")
