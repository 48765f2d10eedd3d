"""Rows about what is not cached yet, over loopback: time, CPU time, bytes and memory."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

from benchmarks.context import COPIES, Context, Remote, remote_file
from benchmarks.measure import GIB, MIB, memory_bytes, read_whole, run, seconds, touch_memory
from benchmarks.peers import curl_whole, missing, rclone_remote
from benchmarks.row import Absent, Figure, Sample, row
from benchmarks.rows_cached import speeds
from benchmarks.synthetic import artifact_name

COLUMNS = 100
COLUMN = 42


@row(
    "cold",
    "sequential read of an uncached file, cache filled (judge by cold-cpu: this row scatters)",
    Figure("curl", "curl -o", ">=", 0.95),
    Figure("rclone", "rclone full", ">=", 2.0),
    Figure("rclone off", "rclone off", ">=", 1.0),
)
def cold(context: Context) -> Iterator[Sample | Absent]:
    with remote_file(context, context.random_file("data.bin", context.size_bytes)) as remote:
        peers = {"curl": curl_whole}
        if reason := missing("rclone"):
            yield from (Absent(figure, reason) for figure in ("rclone", "rclone off"))
        else:
            peers["rclone"] = lambda remote: _rclone_whole(remote, "full")
            peers["rclone off"] = lambda remote: _rclone_whole(remote, "off")
        for _ in range(context.rounds):
            ours_s, _ = read_cold(remote)
            for figure, peer in peers.items():
                remote.prepare()
                yield speeds(figure, ours_s, peer(remote), remote.size_bytes)


def read_cold(remote: Remote, **settings: object) -> tuple[float, float]:
    """Read the whole in a fresh mount until it is verified: seconds, the driver's CPU seconds."""
    remote.prepare()
    with remote.context.fresh_file(remote.name, **settings) as (mount, path):
        touch_memory(COPIES * remote.size_bytes)
        before_s = mount.cpu_seconds()

        def act() -> None:
            read_whole(path)
            mount.wait_verified(remote.size_bytes, interval_s=0.01)

        return seconds(act), mount.cpu_seconds() - before_s


def _rclone_whole(remote: Remote, mode: str) -> float:
    with rclone_remote(remote, mode) as (_, path):
        touch_memory(COPIES * remote.size_bytes)
        return seconds(lambda: read_whole(path))


@row(
    "cold-cpu",
    "CPU seconds of cold, hashing included",
    Figure("rclone", "rclone full's process", "<=", 0.5),
    Figure("a GiB", "", "<=", 1.5),
)
def cold_cpu(context: Context) -> Iterator[Sample | Absent]:
    reason = missing("rclone")
    if reason:
        yield Absent("rclone", reason)
    with remote_file(context, context.random_file("data.bin", context.size_bytes)) as remote:
        for _ in range(context.rounds):
            _, ours_s = read_cold(remote)
            a_gib_s = ours_s * GIB / remote.size_bytes
            yield Sample("a GiB", a_gib_s, f"{a_gib_s:.2f} s")
            if not reason:
                remote.prepare()
                with rclone_remote(remote, "full") as (rclone, path):
                    before_s = rclone.cpu_seconds()
                    read_whole(path)
                    theirs_s = max(0.01, rclone.cpu_seconds() - before_s)
                yield Sample("rclone", ours_s / theirs_s, f"{ours_s:.2f} s", f"{theirs_s:.2f} s")


@row(
    "parquet",
    "bytes fetched for one column of a 1 GiB, 100-column file",
    Figure("", "bytes of that column", "<=", 1.3),
)
def parquet(context: Context) -> Iterator[Sample]:
    local = context.directory / "files" / "table.parquet"
    local.parent.mkdir()
    run(sys.executable, "-c", _MAKE_TABLE, local, COLUMNS, context.size_bytes // (8 * COLUMNS))
    column_bytes = int(run(sys.executable, "-c", _COLUMN_BYTES, local, COLUMN))
    with remote_file(context, local) as remote:
        for _ in range(context.rounds):
            with context.fresh_file(remote.name) as (_, path):
                remote.origin.mark()
                run(sys.executable, "-c", _READ_COLUMN, path, COLUMN)
            fetched = remote.origin.sent_bytes()
            yield Sample("", fetched / column_bytes, f"{fetched:,} B", f"{column_bytes:,} B")


_MAKE_TABLE = (
    "import sys, numpy as n, pyarrow as a, pyarrow.parquet as q\n"
    "path, columns, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])\n"
    "dice = n.random.default_rng(1)\n"
    "t = a.table({f'c{i:03}': dice.random(rows) for i in range(columns)})\n"
    "q.write_table(t, path, row_group_size=rows // 4, compression='none', use_dictionary=False)\n"
)
_COLUMN_BYTES = (
    "import sys, pyarrow.parquet as q; m = q.read_metadata(sys.argv[1])\n"
    "print(sum(m.row_group(g).column(int(sys.argv[2])).total_compressed_size"
    " for g in range(m.num_row_groups)))"
)
_READ_COLUMN = (
    "import sys, pyarrow.parquet as q\n"
    "assert q.read_table(sys.argv[1], columns=[f'c{int(sys.argv[2]):03}']).num_rows"
)


@row(
    "huge",
    "open of a 1 TiB file; memory that it adds",
    Figure("open", "the clock, s", "<=", 0.02),
    Figure("memory", "MB", "<=", 20),
)
def huge(context: Context) -> Iterator[Sample]:
    """The memory is the driver's peak after an open and a 4 KiB read, less what it had before."""
    context.serve_synthetic(2, 1024 * GIB)
    for _ in range(context.rounds):
        with context.fresh_file(artifact_name(1)) as (mount, path):
            before = memory_bytes(mount.pid, "VmRSS")
            took_s = float(run(sys.executable, "-c", _OPEN, path))
            added = (mount.peak_bytes() - before) / 1e6
        yield Sample("open", took_s, f"{took_s * 1000:.1f} ms")
        yield Sample("memory", added, f"{added:.1f} MB")


_OPEN = (
    "import os, sys, time\n"
    "began = time.perf_counter()\n"
    "at = os.open(sys.argv[1], os.O_RDONLY)\n"
    "print(time.perf_counter() - began)\n"
    "assert len(os.pread(at, 4096, 1 << 39)) == 4096\n"
)


@row(
    "memory",
    "peak of the driver during cold + upload of 4 GiB, MB",
    Figure("", "", "<=", 100),
)
def memory(context: Context) -> Iterator[Sample]:
    local = context.random_file("data.bin", context.pick(4 * GIB, 256 * MIB))
    with remote_file(context, local) as remote:
        blobs = context.service.data / "blobs"
        kept = set(blobs.rglob("*"))
        for number in range(context.rounds):
            with context.fresh_file(remote.name) as (mount, path):
                read_whole(path)
                # The service must not know the content: the first bytes differ.
                entry = mount.drop / f"upload-{number}.tmp"
                run("sh", "-c", _CHANGED_COPY, "sh", local, entry)
                entry.rename(entry.with_suffix(".bin"))
                mount.wait_uploaded(interval_s=0.1)
                peak = mount.peak_bytes() / 1e6
            for blob in set(blobs.rglob("*")) - kept:
                shutil.rmtree(blob) if blob.is_dir() else blob.unlink(missing_ok=True)
            yield Sample("", peak, f"{peak:.0f} MB")


_CHANGED_COPY = '{ head -c 16 /dev/urandom; tail -c +17 "$1"; } > "$2"'
