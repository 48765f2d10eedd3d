"""Rows about listings: of ten thousand, a hundred thousand and a million artifacts."""

from __future__ import annotations

import http.client
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.context import Context, Mount
from benchmarks.measure import run, seconds
from benchmarks.row import Figure, Sample, row
from benchmarks.rows_cached import times

LISTED_PER_PAGE = 10_000


def _list(path: Path, *words: str) -> float:
    return seconds(lambda: run("ls", *words, path))


def local_directory(context: Context, count: int) -> Path:
    """A directory of so many small files."""
    path = context.directory / "local-list"
    path.mkdir()
    for number in range(count):
        (path / f"file-{number:07}.bin").touch()
    return path


@row(
    "list",
    "ls -l of 10 000 artifacts, cached listing, nothing cached on disk",
    Figure("", "local directory", "<=", 1.0),
)
def listing(context: Context) -> Iterator[Sample]:
    count = context.pick(10_000, 5_000)
    context.serve_synthetic(count, 1)
    local = local_directory(context, count)
    with context.mount(list__ttl="1h") as mount:
        _wait_listed(mount, count)
        for path in (local, mount.artifacts):
            _list(path, "-l")
        for _ in range(context.rounds):
            theirs_s = _list(local, "-l")
            yield times("", _list(mount.artifacts, "-l"), theirs_s)


@row(
    "list-100k",
    "first ls of 100 000 artifacts, first mount ever",
    Figure("", "transfer of the list", "<=", 4),
)
def list_100k(context: Context) -> Iterator[Sample]:
    service = context.serve()
    count = context.pick(100_000, 10_000)
    service.dev("artifacts", {"count": count, "filename": "file-{n}.txt"})
    for _ in range(context.rounds):
        theirs_s = seconds(lambda: _transfer_list(context))
        with context.fresh_mount(list__ttl="1h") as mount:
            yield times("", _list(mount.artifacts), theirs_s)


def _transfer_list(context: Context) -> None:
    """Receive every page of the list, over one connection, and make nothing of it."""
    connection = http.client.HTTPConnection(urlsplit(context.url).netloc)
    cursor: str | None = ""
    while cursor is not None:
        query = f"limit={LISTED_PER_PAGE}" + (f"&cursor={cursor}" if cursor else "")
        connection.request("GET", f"/api/v1/artifacts?{query}", headers=context.authorization)
        answer = connection.getresponse().read()
        found = re.search(rb'"next_cursor": ?"([^"]*)"', answer)
        cursor = found[1].decode() if found else None
    connection.close()


def _wait_listed(mount: Mount, count: int) -> None:
    """List until the listing is complete. The row's time limit ends it otherwise."""
    while run("ls", "-U", mount.artifacts).count("\n") < count:
        time.sleep(0.2)


@row(
    "list-again",
    "mount and first ls of 100 000 known artifacts",
    Figure("mount + ls", "the clock, s", "<=", 1.0),
    Figure("ls", "local ls of as many", "<=", 4),
)
def list_again(context: Context) -> Iterator[Sample]:
    count = context.pick(100_000, 10_000)
    context.serve_synthetic(count, 1)
    local = local_directory(context, count)
    with context.mount(list__ttl="10s") as mount:
        _wait_listed(mount, count)
    _list(local)
    for _ in range(context.rounds):
        local_s = _list(local)
        began_s = time.perf_counter()
        with context.mount(list__ttl="10s") as mount:
            ls_s = _list(mount.artifacts)
            whole_s = time.perf_counter() - began_s
        yield Sample("mount + ls", whole_s, f"{whole_s:.2f} s")
        yield times("ls", ls_s, local_s)


@row(
    "list-memory",
    "peak of the driver with 100 000, 1 000 000 artifacts, MB",
    Figure("100 000", "", "<=", 120),
    Figure("1 000 000", "", "<=", 600),
)
def list_memory(context: Context) -> Iterator[Sample]:
    if context.quick:
        context.note("10,000 and 50,000 in place of 100,000 and 1,000,000")
    for figure, count in (
        ("100 000", context.pick(100_000, 10_000)),
        ("1 000 000", context.pick(1_000_000, 50_000)),
    ):
        context.serve_synthetic(count, 1)
        for _ in range(context.rounds):
            with context.fresh_mount(list__ttl="1h") as mount:
                _wait_listed(mount, count)
                peak = mount.peak_bytes() / 1e6
            yield Sample(figure, peak, f"{peak:.0f} MB")
    shutil.rmtree(context.directory / "fresh", ignore_errors=True)
