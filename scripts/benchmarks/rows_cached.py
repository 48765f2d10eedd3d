"""Rows about what is cached: the mount beside a local file."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.context import COPIES, Context, remote_file
from benchmarks.measure import (
    drop_caches,
    fio_iops,
    rate,
    read_whole,
    run,
    seconds,
    touch_memory,
)
from benchmarks.peers import rclone_mount, require
from benchmarks.row import Figure, Sample, row

MODEL_TENSORS = 64


def speeds(figure: str, ours_s: float, theirs_s: float, size_bytes: int) -> Sample:
    """The ratio of two speeds: above 1, ours is faster."""
    return Sample(figure, theirs_s / ours_s, rate(size_bytes, ours_s), rate(size_bytes, theirs_s))


def times(figure: str, ours_s: float, theirs_s: float) -> Sample:
    """The ratio of two times: above 1, ours takes longer."""
    return Sample(figure, ours_s / theirs_s, f"{ours_s:.3f} s", f"{theirs_s:.3f} s")


@contextlib.contextmanager
def cached_file(context: Context) -> Iterator[tuple[Path, Path]]:
    """A local file, and the same bytes wholly cached and verified in a mount."""
    context.serve()
    local = context.random_file("data.bin", context.size_bytes)
    context.publish(local)
    with context.mount() as mount:
        path = mount.artifacts / local.name
        read_whole(path)
        mount.wait_verified(context.size_bytes)
        read_whole(path)
        yield local, path


@row(
    "page",
    "sequential read, page cache warm",
    Figure("", "local file", ">=", 0.95),
)
def page(context: Context) -> Iterator[Sample]:
    with cached_file(context) as (local, path):
        touch_memory(2 * context.size_bytes)
        for one in (local, path):
            read_whole(one)
        for _ in range(context.rounds):
            theirs_s = seconds(lambda: read_whole(local))
            ours_s = seconds(lambda: read_whole(path))
            yield speeds("", ours_s, theirs_s, context.size_bytes)


@row(
    "disk",
    "sequential, fully cached, page cache dropped, passthrough",
    Figure("", "local file, dropped", ">=", 0.95),
)
def disk(context: Context) -> Iterator[Sample]:
    with cached_file(context) as (local, path):
        for _ in range(context.rounds):
            yield dropped(context, "", path, local)


def dropped(context: Context, figure: str, ours: Path, theirs: Path) -> Sample:
    """A round of reading both sides whole with the page cache dropped before each."""
    took_s = []
    for one in (theirs, ours):
        touch_memory(context.size_bytes)
        drop_caches()
        took_s.append(seconds(lambda one=one: read_whole(one)))
    return speeds(figure, took_s[1], took_s[0], context.size_bytes)


@row(
    "disk-rand",
    "random 4 KiB, 1 and 4 readers, cached, dropped",
    Figure("1 reader", "local file", ">=", 0.95),
    Figure("4 readers", "local file", ">=", 0.95),
)
def disk_rand(context: Context) -> Iterator[Sample]:
    with cached_file(context) as (local, path):
        for _ in range(context.rounds):
            yield random_reads(context, "1 reader", path, local, 1)
            yield random_reads(context, "4 readers", path, local, 4)


def random_reads(context: Context, figure: str, ours: Path, theirs: Path, jobs: int) -> Sample:
    """A round of random 4 KiB reads of both sides, the page cache dropped before each."""
    iops = []
    for one in (theirs, ours):
        drop_caches()
        iops.append(fio_iops(one, jobs, context.pick(5.0, 0.4)))
    return Sample(figure, iops[1] / iops[0], f"{iops[1]:,.0f} IOPS", f"{iops[0]:,.0f} IOPS")


@row(
    "disk-user",
    "as disk, without passthrough",
    Figure("", "rclone full", ">=", 3.0),
)
def disk_user(context: Context) -> Iterator[Sample]:
    """Without CAP_SYS_ADMIN the kernel takes no backing files: reads go through the driver."""
    require("rclone")
    context.serve()
    local = context.random_file("data.bin", context.size_bytes)
    context.publish(local)
    with (
        rclone_mount(context.directory / "rclone", str(local.parent), mode="full") as rclone,
        unprivileged_file(context, local.name) as path,
    ):
        copy = rclone.path / local.name
        read_whole(copy)
        for _ in range(context.rounds):
            yield dropped(context, "", path, copy)


@contextlib.contextmanager
def unprivileged_file(context: Context, name: str) -> Iterator[Path]:
    """A cached file in the mount of a user namespace, seen through its process's root."""
    home = context.directory / "user"
    (home / "mnt").mkdir(parents=True)
    words = ("mount", "--foreground", *context.options(home, {}), home / "mnt")
    driver = context.start("unshare", "-Urm", sys.executable, "-m", "artifactfs", *words)
    try:
        path = Path(f"/proc/{driver.pid}/root{home}/mnt/artifacts/{name}")
        deadline_s = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        for _ in range(2):
            read_whole(path)
        yield path
    finally:
        driver.terminate()
        driver.wait()


@row(
    "mmap",
    "safetensors load of 1 GiB",
    Figure("cold", "curl -o + local load", ">=", 0.95),
    Figure("cached", "local load, dropped", ">=", 0.95),
)
def mmap(context: Context) -> Iterator[Sample]:
    local = context.directory / "files" / "model.safetensors"
    local.parent.mkdir()
    run(sys.executable, "-c", _MAKE_MODEL, local, context.size_bytes // MODEL_TENSORS)
    out = context.directory / "curl.safetensors"
    curl = require("curl")
    with remote_file(context, local) as remote:
        for _ in range(context.rounds):
            remote.prepare()
            theirs_s = seconds(lambda: run(curl, "-sSf", "-o", out, remote.url)) + _load(out)
            out.unlink()
            with context.fresh_file(remote.name) as (_, path):
                touch_memory(COPIES * remote.size_bytes)
                ours_s = _load(path)
            yield speeds("cold", ours_s, theirs_s, remote.size_bytes)
        with context.fresh_file(remote.name) as (mount, path):
            read_whole(path)
            mount.wait_verified(remote.size_bytes)
            for _ in range(context.rounds):
                drop_caches()
                theirs_s = _load(local)
                drop_caches()
                yield speeds("cached", _load(path), theirs_s, remote.size_bytes)


_MAKE_MODEL = (
    "import sys, numpy, safetensors.numpy\n"
    "dice = numpy.random.default_rng(1)\n"
    "tensors = {f'layer.{n}': numpy.frombuffer(dice.bytes(int(sys.argv[2])), 'u1')"
    f" for n in range({MODEL_TENSORS})}}\n"
    "safetensors.numpy.save_file(tensors, sys.argv[1])\n"
)
_LOAD_MODEL = (
    "import sys, time, safetensors\n"
    "began = time.perf_counter()\n"
    "with safetensors.safe_open(sys.argv[1], 'numpy') as model:\n"
    "    for name in model.keys():\n"
    "        model.get_tensor(name)[::4096].sum()\n"
    "print(time.perf_counter() - began)\n"
)


def _load(path: Path) -> float:
    """Return the seconds in which safetensors maps a model and reads every tensor of it."""
    return float(run(sys.executable, "-c", _LOAD_MODEL, path))
