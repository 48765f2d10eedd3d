"""Rows that the network decides: over a line with latency and a rate per connection."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.context import Context, Mount, kill_mount, remote_file, remote_files
from benchmarks.line import UNLIMITED, Line
from benchmarks.measure import GIB, MIB, PAGE, read_whole, run, seconds, touch_memory
from benchmarks.peers import (
    curl_ranges,
    curl_urls,
    parallel,
    parallel_ranges,
    require,
    write_config,
)
from benchmarks.row import Figure, Sample, row
from benchmarks.rows_cached import speeds, times
from benchmarks.synthetic import artifact_name

WAN_LATENCY_S = 0.05
WAN_RATE = 20e6
SKIP_RATE = 50e6
NEAR_LATENCY_S = 0.005
RANDOM_READS = 200
SMALL_BYTES = 10 << 10
PROCESSES = 16


def _wan(context: Context, figure: str, size_bytes: int) -> Iterator[Sample]:
    local = context.random_file(f"{figure or 'data'}.bin".replace(" ", ""), size_bytes)
    with remote_file(context, local, WAN_LATENCY_S, WAN_RATE) as remote:
        for _ in range(context.rounds):
            remote.prepare()
            theirs_s = parallel_ranges(remote)
            remote.prepare()
            with context.fresh_file(remote.name) as (_, path):
                ours_s = seconds(lambda path=path: read_whole(path))
            yield speeds(figure, ours_s, theirs_s, size_bytes)


@row(
    "wan",
    "160 MiB, 1 GiB, fresh mount, line(50 ms, 20 MB/s)",
    Figure("160 MiB", "16 parallel ranged curls", ">=", 0.9),
    Figure("1 GiB", "16 parallel ranged curls", ">=", 0.9),
)
def wan(context: Context) -> Iterator[Sample]:
    if context.quick:
        context.note("64, 192 MiB in place of 160 MiB, 1 GiB")
    yield from _wan(context, "160 MiB", context.pick(160 * MIB, 64 * MIB))
    yield from _wan(context, "1 GiB", context.pick(GIB, 192 * MIB))


@row(
    "wan-small-file",
    "one 20 MiB file, fresh mount, line(50 ms, 20 MB/s)",
    Figure("", "16 parallel ranged curls", ">=", 0.7),
)
def wan_small_file(context: Context) -> Iterator[Sample]:
    yield from _wan(context, "", 20 * MIB)


@row(
    "wan-switch",
    "160 MiB, line(50 ms, 20 MB/s), after 1 GiB over loopback in the same mount",
    Figure("", "the fresh mount", ">=", 0.9),
)
def wan_switch(context: Context) -> Iterator[Sample]:
    files = [
        context.random_file("before.bin", context.pick(GIB, 128 * MIB)),
        context.random_file("data.bin", context.pick(160 * MIB, 64 * MIB)),
    ]
    with remote_files(context, files, WAN_LATENCY_S, WAN_RATE) as (before, remote):
        for _ in range(context.rounds):
            before.prepare()
            with context.fresh_file(remote.name) as (_, path):
                theirs_s = seconds(lambda path=path: read_whole(path))
            before.prepare()
            with context.fresh_file(remote.name) as (mount, path):
                remote.set_line(0.0, UNLIMITED)
                read_whole(mount.artifacts / before.name)
                remote.set_line(WAN_LATENCY_S, WAN_RATE)
                ours_s = seconds(lambda path=path: read_whole(path))
            yield speeds("", ours_s, theirs_s, remote.size_bytes)


@row(
    "ttfb",
    "first byte of an uncached 1 GiB file, line(50 ms)",
    Figure("", "one ranged curl", "<=", 1.1),
)
def ttfb(context: Context) -> Iterator[Sample]:
    """Both ask the service and follow its redirect: two round trips."""
    curl = require("curl")
    local = context.random_file("data.bin", context.size_bytes)
    with remote_file(context, local, WAN_LATENCY_S) as remote:
        url = f"{context.url}/api/v1/artifacts/{remote.artifact_id}"
        bearer = f"Authorization: Bearer {context.token}"
        words = (curl, "-sSfL", "-H", bearer, "-r", "0-4095", "-o", os.devnull, url)
        for _ in range(context.pick(3, 1) * context.rounds):
            theirs_s = seconds(lambda: run(*words))
            with context.fresh_file(remote.name) as (_, path):
                ours_s = seconds(lambda path=path: run("head", "-c", "4096", path))
            yield times("", ours_s, theirs_s)


@row(
    "cold-rand",
    "200 random 4 KiB reads, uncached, line(5 ms): time; bytes",
    Figure("time", "ranged curls on one connection", "<=", 1.15),
    Figure("bytes", "bytes asked for", "<=", 16),
)
def cold_rand(context: Context) -> Iterator[Sample]:
    dice = random.Random(7)
    local = context.random_file("data.bin", context.size_bytes)
    with remote_file(context, local, NEAR_LATENCY_S) as remote:
        for _ in range(context.rounds):
            starts = _random_pages(dice, remote.size_bytes, RANDOM_READS)
            theirs_s = curl_ranges(remote, [(start, start + PAGE) for start in starts])
            with context.fresh_file(remote.name) as (_, path):
                remote.origin.mark()
                ours_s = sum(read_at(path, starts, PAGE))
            fetched, asked = remote.origin.sent_bytes(), RANDOM_READS * PAGE
            yield times("time", ours_s, theirs_s)
            yield Sample("bytes", fetched / asked, f"{fetched:,} B", f"{asked:,} B")


def _random_pages(dice: random.Random, size_bytes: int, count: int) -> list[int]:
    """Offsets that are multiples of a page, as fio takes them."""
    return [dice.randrange(size_bytes // PAGE) * PAGE for _ in range(count)]


def read_at(path: Path, starts: Sequence[int], count: int, limit_s: float = 300.0) -> list[float]:
    """Return the seconds of each pread, in a process of its own.

    After `limit_s` it is ended, and the last time is how long the unfinished pread had taken.
    """
    words = [sys.executable, "-c", _READ_AT, path, count, *starts]
    began_s = time.perf_counter()
    reader = subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said, _ = reader.communicate(timeout=limit_s)
        took_s = [float(text) for text in said.split()]
        if reader.returncode:
            raise RuntimeError(f"reading {path} failed after {len(took_s)} of {len(starts)} reads")
    except subprocess.TimeoutExpired:
        reader.kill()
        said, _ = reader.communicate()
        took_s = [float(text) for text in said.split()]
        took_s.append(time.perf_counter() - began_s - sum(took_s))
    finally:
        reader.kill()
        reader.wait()
    return took_s


_READ_AT = (
    "import os, sys, time\n"
    "at = os.open(sys.argv[1], os.O_RDONLY); count = int(sys.argv[2])\n"
    "os.posix_fadvise(at, 0, 0, os.POSIX_FADV_RANDOM) if count < 65536 else None\n"
    "for start in map(int, sys.argv[3:]):\n"
    "    began = time.perf_counter()\n"
    "    assert len(os.pread(at, count, start)) == count\n"
    "    print(time.perf_counter() - began, flush=True)\n"
)


@row(
    "skip",
    "1 MiB reads with gaps of 16 MiB, line(50 ms, 50 MB/s)",
    Figure("", "curl ranges, one connection", ">=", 6.0),
)
def skip(context: Context) -> Iterator[Sample]:
    local = context.random_file("data.bin", context.pick(GIB, 160 * MIB))
    with remote_file(context, local, WAN_LATENCY_S, SKIP_RATE) as remote:
        starts = list(range(0, remote.size_bytes - MIB, 17 * MIB))
        for _ in range(context.rounds):
            theirs_s = curl_ranges(remote, [(start, start + MIB) for start in starts])
            with context.fresh_file(remote.name) as (_, path):
                ours_s = sum(read_at(path, starts, MIB))
            yield Sample("", theirs_s / ours_s, f"{ours_s:.2f} s", f"{theirs_s:.2f} s")


@contextlib.contextmanager
def _small_artifacts(context: Context) -> Iterator[tuple[Line, list[str]]]:
    """Small files that the service serves by itself, over a line; their URLs in name order."""
    service = context.serve()
    count = context.pick(1000, 40)
    if context.quick:
        context.note(f"{count} files in place of 1,000")
    made = service.dev(
        "artifacts",
        {
            "artifacts": [
                {
                    "filename": f"{number:04}.bin",
                    "content": base64.b64encode(os.urandom(SMALL_BYTES)).decode(),
                }
                for number in range(count)
            ]
        },
    )
    with context.line(WAN_LATENCY_S) as line:
        yield line, [f"{line.url}/api/v1/artifacts/{one}" for one in made["ids"]]


def _listed(mount: Mount) -> list[Path]:
    return sorted(mount.artifacts.iterdir())


@row(
    "many-cold",
    "1 000 files of 10 KiB read in name order, uncached, line(50 ms)",
    Figure("", "curl, one connection", ">=", 10),
)
def many_cold(context: Context) -> Iterator[Sample]:
    with _small_artifacts(context) as (_, urls):
        for _ in range(context.rounds):
            theirs_s = curl_urls(
                context.directory / "curl.conf",
                [(url, None) for url in urls],
                context.authorization,
            )
            with context.fresh_mount() as mount:
                files = _listed(mount)
                ours_s = seconds(lambda files=files: run("cat", *files))
            yield Sample("", theirs_s / ours_s, f"{ours_s:.2f} s", f"{theirs_s:.2f} s")


@row(
    "many-parallel",
    "1 000 files of 10 KiB read in random order by 16 processes, uncached, line(50 ms)",
    Figure("", "16 curls", ">=", 1.0),
)
def many_parallel(context: Context) -> Iterator[Sample]:
    dice = random.Random(7)
    curl = require("curl")
    with _small_artifacts(context) as (_, urls):
        for _ in range(context.rounds):
            order = dice.sample(range(len(urls)), len(urls))
            commands = []
            for number in range(PROCESSES):
                config = context.directory / f"curl-{number}.conf"
                mine = [(urls[n], None) for n in order[number::PROCESSES]]
                write_config(config, mine, context.authorization)
                commands.append([curl, "-K", config])
            theirs_s = parallel(commands)
            with context.fresh_mount() as mount:
                files = _listed(mount)
                ours_s = parallel(
                    [
                        ["cat", *(files[n] for n in order[number::PROCESSES])]
                        for number in range(PROCESSES)
                    ]
                )
            yield Sample("", theirs_s / ours_s, f"{ours_s:.2f} s", f"{theirs_s:.2f} s")


@row(
    "prefer",
    "worst of 100 uncached 4 KiB reads while 4 GiB are pinned and another file is read "
    "sequentially, line(5 ms, 20 MB/s)",
    Figure("", "worst of 100 alone", "<=", 3),
)
def prefer(context: Context) -> Iterator[Sample]:
    dice = random.Random(7)
    size_bytes = 4 * GIB
    context.serve_synthetic(3, size_bytes)
    count = context.pick(100, 20)
    with context.line(NEAR_LATENCY_S, WAN_RATE) as line:
        for _ in range(context.rounds):
            starts = _random_pages(dice, size_bytes, count)
            with context.fresh_file(artifact_name(2)) as (_, path):
                theirs_s = max(read_at(path, starts, PAGE))
            touch_memory(context.pick(4 * GIB, 512 * MIB))
            with context.fresh_file(artifact_name(2)) as (mount, path):
                line.counters()
                context.artifactfs("pin", mount.artifacts / artifact_name(0))
                reader = context.start(
                    "dd", f"if={mount.artifacts / artifact_name(1)}", "of=/dev/null", "bs=1M"
                )
                try:
                    _wait_received(line, 64 * MIB)
                    took_s = read_at(path, starts, PAGE, limit_s=context.pick(60, 3))
                finally:
                    reader.kill()
                    kill_mount(mount)
                    reader.wait()
            if len(took_s) < count:
                context.note(f"the time ended in read {len(took_s)} of {count}")
            yield times("", max(took_s), theirs_s)


def _wait_received(line: Line, size_bytes: int) -> None:
    while size_bytes > 0:
        size_bytes -= line.counters()["received_bytes"]
