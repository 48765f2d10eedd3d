"""The row of the portable binding (libfuse 2), beside rclone, which has libfuse 2 or 3 as well."""

from __future__ import annotations

import ctypes.util
from collections.abc import Iterator
from pathlib import Path

from benchmarks.context import Context, remote_file
from benchmarks.measure import drop_names, read_whole, run, seconds
from benchmarks.peers import rclone_mount, rclone_remote, require
from benchmarks.row import Figure, PeerAbsentError, Sample, row
from benchmarks.rows_cached import dropped, random_reads, speeds, times
from benchmarks.rows_fetch import read_cold
from benchmarks.rows_list import local_directory


@row(
    "fusepy",
    "the portable binding",
    Figure("random", "rclone full, 4 KiB, cached", ">=", 3),
    Figure("list", "rclone full, list + stat of 10 000", "<=", 0.6),
    Figure("sequential", "rclone full, cached, dropped", ">=", 1.5),
    Figure("cold", "rclone full", ">=", 1.5),
)
def fusepy(context: Context) -> Iterator[Sample]:
    require("rclone")
    if ctypes.util.find_library("fuse") is None:
        raise PeerAbsentError("libfuse2 is not installed")
    with remote_file(context, context.random_file("data.bin", context.size_bytes)) as remote:
        for _ in range(context.rounds):
            ours_s, _ = read_cold(remote, fuse="fusepy")
            remote.prepare()
            with rclone_remote(remote, "full") as (_, theirs):
                theirs_s = seconds(lambda theirs=theirs: read_whole(theirs))
            yield speeds("cold", ours_s, theirs_s, remote.size_bytes)
        with (
            context.fresh_file(remote.name, fuse="fusepy") as (mount, ours),
            rclone_remote(remote, "full") as (_, theirs),
        ):
            for path in (ours, theirs):
                read_whole(path)
            mount.wait_verified(remote.size_bytes)
            for _ in range(context.rounds):
                yield dropped(context, "sequential", ours, theirs)
                yield random_reads(context, "random", ours, theirs, 1)
    yield from _listing(context)


def _listing(context: Context) -> Iterator[Sample]:
    """Both know the listing, and the kernel has forgotten the names."""
    count = context.pick(10_000, 2_000)
    context.serve_synthetic(count, 1)
    local = local_directory(context, count)
    with (
        context.mount("listing", list__ttl="1h", fuse="fusepy") as mount,
        rclone_mount(context.directory / "rclone", str(local), mode="full") as rclone,
    ):
        for path in (mount.artifacts, rclone.path):
            _list_and_stat(path)
        for _ in range(context.rounds):
            took_s = []
            for path in (rclone.path, mount.artifacts):
                drop_names()
                took_s.append(seconds(lambda path=path: _list_and_stat(path)))
            yield times("list", took_s[1], took_s[0])


def _list_and_stat(path: Path) -> None:
    """What ls -l does less its questions for extended attributes."""
    run("find", path, "-printf", "%s")
