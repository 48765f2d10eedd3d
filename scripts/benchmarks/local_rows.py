"""Rows about what is cached: the mount beside a local file or directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.row import Row, Sample, absent
from benchmarks.stage import Stage, drop_caches, fio_iops, read_through, seconds

LISTED = 10_000


@contextlib.contextmanager
def _cached(stage: Stage, **settings: str) -> Iterator[tuple[Path, Path]]:
    """A local file, and the same bytes wholly cached and verified in a mount."""
    local = stage.random_file("data.bin", stage.size_bytes)
    stage.artifactfs("put", "--name", "data.bin", local)
    with stage.mount("cached", **settings) as mount:
        path = mount / "artifacts" / "data.bin"
        for _ in range(2):
            seconds(read_through(path))
        yield local, path


def page(stage: Stage) -> Iterator[Sample]:
    with _cached(stage) as (local, path):
        for one in (local, path):
            seconds(read_through(one))
        for _ in range(stage.rounds):
            theirs = seconds(read_through(local))
            ours = seconds(read_through(path))
            yield Sample.of_seconds(ours, theirs, stage.size_bytes)


def disk(stage: Stage) -> Iterator[Sample]:
    with _cached(stage) as (local, path):
        for _ in range(stage.rounds):
            drop_caches()
            theirs = seconds(read_through(local))
            drop_caches()
            ours = seconds(read_through(path))
            yield Sample.of_seconds(ours, theirs, stage.size_bytes)


def disk_rand(jobs: int) -> Callable[[Stage], Iterator[Sample]]:
    def measure(stage: Stage) -> Iterator[Sample]:
        runtime_s = 1 if stage.quick else 5
        with _cached(stage) as (local, path):
            for _ in range(stage.rounds):
                drop_caches()
                theirs = fio_iops(local, jobs, runtime_s)
                drop_caches()
                ours = fio_iops(path, jobs, runtime_s)
                yield Sample(ours / theirs, f"{ours:,.0f} IOPS", f"{theirs:,.0f} IOPS")

    return measure


def listing(stage: Stage) -> Iterator[Sample]:
    local = stage.directory / "local-list"
    local.mkdir()
    names = [f"file-{index:05}.bin" for index in range(LISTED)]
    for name in names:
        (local / name).write_bytes(b"x")
    stage.service.dev(
        "artifacts", {"artifacts": [{"filename": name, "text": name} for name in names]}
    )
    with stage.mount("listing", **{"list.ttl": "1h"}) as mount:

        def look(path: Path) -> float:
            return seconds(
                lambda: subprocess.run(["ls", "-l", path], stdout=subprocess.DEVNULL, check=True)
            )

        for path in (local, mount / "artifacts"):
            look(path)
        for _ in range(stage.rounds):
            theirs, ours = look(local), look(mount / "artifacts")
            yield Sample(ours / theirs, f"{ours:.3f} s", f"{theirs:.3f} s")
    shutil.rmtree(local)


def mounting(stage: Stage) -> Iterator[Sample]:
    home = stage.directory / "mounting"
    path = home / "mnt"
    path.mkdir(parents=True)
    for _ in range(stage.rounds):
        took = seconds(lambda: stage.artifactfs("mount", *stage.options(home, {}), path))
        stage.artifactfs("unmount", path)
        yield Sample(took, f"{took:.2f} s", "")


def disk_user(stage: Stage) -> Iterator[Sample]:
    """Without CAP_SYS_ADMIN the kernel takes no backing files: reads go through the driver."""
    if shutil.which("rclone") is None:
        raise absent("rclone")
    local = stage.random_file("data.bin", stage.size_bytes)
    with _rclone(local, stage.directory / "rclone") as mount, _as_user(stage, local) as path:
        copy = mount / local.name
        seconds(read_through(copy))
        for _ in range(stage.rounds):
            drop_caches()
            theirs = seconds(read_through(copy))
            drop_caches()
            ours = seconds(read_through(path))
            yield Sample.of_seconds(ours, theirs, stage.size_bytes)


@contextlib.contextmanager
def _as_user(stage: Stage, local: Path) -> Iterator[Path]:
    """The mount of a user namespace, seen from here through its process's root."""
    stage.artifactfs("put", "--name", "data.bin", local)
    home = stage.directory / "user"
    (home / "mnt").mkdir(parents=True)
    driver = stage.start(
        "mount", "--foreground", *stage.options(home, {}), home / "mnt", before=["unshare", "-Urm"]
    )
    try:
        path = Path(f"/proc/{driver.pid}/root{home}/mnt/artifacts/data.bin")
        deadline_s = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        for _ in range(2):
            seconds(read_through(path))
        yield path
    finally:
        driver.terminate()
        driver.wait()


@contextlib.contextmanager
def _rclone(served: Path, home: Path) -> Iterator[Path]:
    mount = home / "mnt"
    mount.mkdir(parents=True)
    subprocess.run(
        [
            "rclone", "mount", served.parent, mount, "--daemon", "--read-only",
            "--vfs-cache-mode", "full", "--cache-dir", home / "cache", "--dir-cache-time", "1h",
        ],
        check=True, env=os.environ | {"RCLONE_CONFIG": "/dev/null"},
    )  # fmt: skip
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=False)


ROWS = (
    Row("page", "whole, page cache warm", "local file", ">=", 0.95, page),
    Row("disk", "whole, page cache dropped", "local file", ">=", 0.90, disk),
    Row("disk-rand", "random 4 KiB, 1 reader", "local file", ">=", 0.80, disk_rand(1)),
    Row("disk-rand-4", "random 4 KiB, 4 readers", "local file", ">=", 0.80, disk_rand(4)),
    Row("disk-user", "as disk, no passthrough", "rclone full", ">=", 2.0, disk_user),
    Row("list", f"ls -l of {LISTED:,}", "local folder", "<=", 3.0, listing),
    Row("mount", "artifactfs mount, seconds", "", "<=", 0.5, mounting),
)
