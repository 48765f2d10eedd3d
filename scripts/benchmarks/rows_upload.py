"""Rows about the outbox: copying into drop/, and uploading.

The service is part of both sides of `upload` and `small`, and hashes and syncs in both. A content
that it knows would be sent by neither, so each round makes bytes of its own before the clock runs.
"""

from __future__ import annotations

import http.client
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.context import Context, Mount, driver_of, fill_random, kill_mount
from benchmarks.measure import GIB, MIB, rate, run, seconds, settle_disk, touch_memory
from benchmarks.peers import require
from benchmarks.row import Figure, Sample, row
from benchmarks.rows_line import SMALL_BYTES, WAN_LATENCY_S, WAN_RATE


def _slower(ours_s: float, theirs_s: float, size_bytes: int) -> Sample:
    """How many times as long as the other side ours takes."""
    return Sample("", ours_s / theirs_s, rate(size_bytes, ours_s), rate(size_bytes, theirs_s))


@row(
    "drop",
    "cp of 1 GiB into drop/ until close returns",
    Figure("", "cp, then sync", "<=", 1.15),
)
def drop(context: Context) -> Iterator[Sample]:
    context.serve()
    local = context.random_file("data.bin", context.size_bytes)
    copy = context.directory / "copy.bin"
    with context.mount(upload__max_rate="1M") as mount:
        for number in range(context.rounds):
            settle_disk()
            touch_memory(2 * context.size_bytes)
            theirs_s = seconds(lambda: (run("cp", local, copy), run("sync", copy)))
            copy.unlink()
            settle_disk()
            touch_memory(2 * context.size_bytes)
            entry = mount.drop / f"{number}.tmp"  # the name waits: it is not uploaded
            ours_s = seconds(lambda entry=entry: run("cp", local, entry))
            entry.unlink()
            yield _slower(ours_s, theirs_s, context.size_bytes)


@row(
    "upload",
    "from close to uploaded, 1 GiB multipart, loopback",
    Figure("", "curl -T", "<=", 1.25),
)
def upload(context: Context) -> Iterator[Sample]:
    context.serve()
    with context.mount(drop__linger="0") as mount:
        for number in range(context.rounds):
            theirs_s = _curl_upload(context, f"curl-{number}.bin", context.size_bytes)
            ours_s = _upload(context, mount, number, context.size_bytes)
            yield _slower(ours_s, theirs_s, context.size_bytes)


@row(
    "upload-wan",
    "1 GiB, line(50 ms, 20 MB/s)",
    Figure("", "one curl -T, times the connections used", ">=", 0.9),
)
def upload_wan(context: Context) -> Iterator[Sample]:
    """curl sends a fourth of it: its rate is the line's from the first second on."""
    context.serve()
    size_bytes = context.pick(GIB, 96 * MIB)
    with context.line(WAN_LATENCY_S, WAN_RATE) as line, context.mount(drop__linger="0") as mount:
        for number in range(context.rounds):
            theirs_s = 4 * _curl_upload(context, f"curl-{number}.bin", size_bytes // 4)
            line.counters()
            ours_s = _upload(context, mount, number, size_bytes)
            used = max(1, context.check_line(line)["max_sending"])
            yield Sample(
                "",
                theirs_s / ours_s / used,
                f"{rate(size_bytes, ours_s)} on {used}",
                rate(size_bytes, theirs_s),
            )


def _upload(context: Context, mount: Mount, number: int, size_bytes: int) -> float:
    """Return the seconds from close to uploaded of new bytes."""
    local = context.directory / "ours.bin"
    fill_random(local, size_bytes)
    waiting = mount.drop / f"up-{number}.tmp"
    run("cp", local, waiting)
    local.unlink()
    settle_disk()
    touch_memory(size_bytes)
    began_s = time.perf_counter()
    waiting.rename(waiting.with_suffix(".bin"))  # its own name: as if closed now
    mount.wait_uploaded()
    return time.perf_counter() - began_s


def _curl_upload(context: Context, name: str, size_bytes: int) -> float:
    """Return the seconds for one PUT of new bytes to the object store, and its completion."""
    local = context.directory / name
    fill_random(local, size_bytes)
    digest = run("sha256sum", local).split()[0]
    wanted = {"sha256": digest, "size": size_bytes, "filename": name}
    ticket = context.call("POST", "artifacts/direct", wanted)
    headers = [word for pair in ticket["headers"].items() for word in ("-H", ": ".join(pair))]
    settle_disk()
    touch_memory(size_bytes)
    curl = require("curl")
    began_s = time.perf_counter()
    run(curl, "-sSf", "-o", os.devnull, *headers, "-T", local, ticket["upload_url"])
    done = context.call("POST", ticket["complete_url"].removeprefix("/api/v1/"), wanted)
    took_s = time.perf_counter() - began_s
    assert done["sha256"] == digest
    local.unlink()
    return took_s


@row(
    "small",
    "1 000 files of 10 KiB into drop/ until all are uploaded, line(50 ms)",
    Figure("", "POSTs over one connection", ">=", 8),
)
def small(context: Context) -> Iterator[Sample]:
    context.serve()
    if context.quick:
        context.note(f"{_small_count(context)} files in place of 1,000")
    with context.line(WAN_LATENCY_S), context.mount(drop__linger="0") as mount:
        for number in range(context.rounds):
            theirs_s = _post_all(context, f"posts-{number}")
            source = _small_files(context, f"ours-{number}")
            settle_disk()
            began_s = time.perf_counter()
            run("cp", "-r", source, mount.drop)
            mount.wait_uploaded()
            ours_s = time.perf_counter() - began_s
            yield Sample("", theirs_s / ours_s, f"{ours_s:.2f} s", f"{theirs_s:.2f} s")


@row(
    "small-cpu",
    "CPU seconds of 1 000 files of 10 KiB into drop/ until all are uploaded",
    Figure("", "", "<=", 1.5),
)
def small_cpu(context: Context) -> Iterator[Sample]:
    context.serve()
    count = _small_count(context)
    with context.mount(drop__linger="0") as mount:
        for number in range(context.rounds):
            source = _small_files(context, f"ours-{number}")
            settle_disk()
            before_s = mount.cpu_seconds()
            run("cp", "-r", source, mount.drop)
            mount.wait_uploaded(interval_s=0.1)
            took_s = (mount.cpu_seconds() - before_s) * 1000 / count
            yield Sample("", took_s, f"{took_s:.2f} s")


def _small_count(context: Context) -> int:
    return context.pick(1000, 40)


def _small_files(context: Context, name: str) -> Path:
    directory = context.directory / name
    directory.mkdir()
    for number in range(_small_count(context)):
        (directory / f"{number:04}.bin").write_bytes(os.urandom(SMALL_BYTES))
    return directory


def _post_all(context: Context, name: str) -> float:
    """Return the seconds for files as POSTs, one after the other over one connection."""
    files = sorted(_small_files(context, name).iterdir())
    headers = {**context.authorization, "Content-Type": "application/octet-stream"}
    settle_disk()
    began_s = time.perf_counter()
    connection = http.client.HTTPConnection(urlsplit(context.url).netloc)
    for path in files:
        named = {**headers, "X-Artifact-Filename": f"{name}/{path.name}"}
        connection.request("POST", "/api/v1/artifacts", path.read_bytes(), named)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
    connection.close()
    return time.perf_counter() - began_s


@row(
    "pending",
    "mount with 10 000 pending, s",
    Figure("", "", "<=", 0.5),
)
def pending(context: Context) -> Iterator[Sample]:
    """One byte a second is uploaded, and each driver is killed, so what waits goes on waiting."""
    context.serve()
    count = context.pick(10_000, 500)
    settings: dict[str, object] = {"upload.max_rate": "1"}
    with context.mount("pending", upload__max_rate="1") as mount:

        def write(number: int) -> None:
            (mount.drop / f"{number:05}.bin").write_bytes(b"%d" % number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(count)))
        kill_mount(mount)
    for _ in range(context.rounds):
        took_s = seconds(lambda: context.start_mount("pending", settings))
        mount = Mount(mount.path, driver_of(mount.path))
        listed = len(list(mount.drop.iterdir()))
        kill_mount(mount)
        assert listed > 0.9 * count, f"only {listed} of {count} entries are in drop/"
        yield Sample("", took_s, f"{took_s:.2f} s")
    shutil.rmtree(context.directory / "pending")
