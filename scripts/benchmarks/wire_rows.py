"""Rows about what is not cached yet: the mount beside curl and rclone, at one origin."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.origin import Origin, SlowLine
from benchmarks.row import Row, Sample, absent
from benchmarks.stage import Stage, read_through, seconds, touch_memory

MIB = 1 << 20
DELAY_S = 0.05
LISTED = 100_000
HELD = 3  # times its size: the origin's file, the cache's, and what the kernel keeps of the mount


@dataclass
class Wire:
    """An artifact at the origin, and the URL by which a peer fetches the same bytes."""

    stage: Stage
    origin: Origin
    path_at_origin: str
    name: str
    size_bytes: int
    base: str

    @property
    def url(self) -> str:
        """Where curl finds it."""
        return f"{self.base}/{self.path_at_origin}"

    @contextlib.contextmanager
    def fresh(self, number: int, **settings: str) -> Iterator[Path]:
        """A mount that has cached nothing; its listing is known. Gone with its cache afterwards."""
        with self.stage.mount(f"cold-{number}", **settings) as mount:
            path = mount / "artifacts" / self.name
            path.stat()
            yield path
        shutil.rmtree(self.stage.directory / f"cold-{number}")

    def curl(self, *words: str) -> float:
        """Seconds that curl takes for the whole, into a file."""
        out = self.stage.directory / "curl.out"
        out.unlink(missing_ok=True)
        took = seconds(lambda: run("curl", "-sSf", *words, "-o", out, self.url))
        out.unlink()
        return took


@contextlib.contextmanager
def _wire(stage: Stage, *, slow: bool = False, size_bytes: int = 0) -> Iterator[Wire]:
    size_bytes = size_bytes or stage.size_bytes
    local = stage.random_file("data.bin", size_bytes)
    stage.artifactfs("put", "--name", "data.bin", local)
    with _origin(stage, slow=slow) as (origin, base):
        yield _found(stage, origin, base, "data.bin", size_bytes)


@contextlib.contextmanager
def _origin(stage: Stage, *, slow: bool) -> Iterator[tuple[Origin, str]]:
    blobs = stage.service.data / "blobs"
    with contextlib.ExitStack() as lines:
        origin = lines.enter_context(Origin(stage.directory / "nginx", blobs))
        base = origin.url
        if slow:
            base = lines.enter_context(SlowLine(origin.limited_url, DELAY_S)).url
        stage.serve(download_base=base)
        if slow:
            stage.url = lines.enter_context(SlowLine(stage.service.url, DELAY_S)).url
        yield origin, base


def _found(stage: Stage, origin: Origin, base: str, name: str, size_bytes: int) -> Wire:
    listed = json.loads(stage.artifactfs("ls", "--json"))
    sha256 = next(one["sha256"] for one in listed if one["filename"] == name)
    return Wire(stage, origin, f"{sha256[:2]}/{sha256}", name, size_bytes, base)


def run(*words: object) -> str:
    """A program's output. Raises if it fails."""
    return subprocess.run(
        [str(word) for word in words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    ).stdout


def _until_verified(path: Path, size_bytes: int) -> None:
    """Return when the driver has compared the whole with its SHA-256."""
    said = path.parent.parent / ".artifactfs" / "cache.json"
    while json.loads(said.read_text())["verified_bytes"] < size_bytes:
        time.sleep(0.002)


def cold(stage: Stage) -> Iterator[Sample]:
    with _wire(stage) as wire:
        yield from _whole(wire, lambda: wire.curl())


def _whole(wire: Wire, peer: Callable[[], float]) -> Iterator[Sample]:
    for number in range(wire.stage.rounds):
        touch_memory(HELD * wire.size_bytes)
        theirs = peer()
        with wire.fresh(number) as path:
            touch_memory(HELD * wire.size_bytes)

            def act(path: Path = path) -> None:
                read_through(path)()
                _until_verified(path, wire.size_bytes)

            yield Sample.of_seconds(seconds(act), theirs, wire.size_bytes)


def cold_rclone(stage: Stage) -> Iterator[Sample]:
    if shutil.which("rclone") is None:
        raise absent("rclone")
    with _wire(stage) as wire:
        yield from _whole(wire, lambda: _rclone_cold(wire))


def _rclone_cold(wire: Wire) -> float:
    home = wire.stage.directory / "rclone"
    mount = home / "mnt"
    mount.mkdir(parents=True)
    folder, _, name = wire.path_at_origin.rpartition("/")
    subprocess.run(
        ["rclone", "mount", f":http:{folder}/", mount, "--http-url", wire.base, "--daemon",
         "--read-only", "--vfs-cache-mode", "full", "--cache-dir", home / "c"],
        check=True, env=os.environ | {"RCLONE_CONFIG": "/dev/null"},
    )  # fmt: skip
    try:
        return seconds(read_through(mount / name))
    finally:
        subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(home / "c", ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def wan(stage: Stage) -> Iterator[Sample]:
    with _wire(stage, slow=True) as wire:
        theirs = wire.curl()
        yield from _whole(wire, lambda: theirs)


def ttfb(stage: Stage) -> Iterator[Sample]:
    with _wire(stage) as wire:
        for number in range(3 * stage.rounds):
            theirs = wire.curl("-r", "0-4095")
            with wire.fresh(number) as path:
                ours = seconds(lambda path=path: run("head", "-c", "4096", path))
            yield Sample(ours / theirs, f"{ours * 1000:.1f} ms", f"{theirs * 1000:.1f} ms")


def cold_rand(stage: Stage) -> Iterator[Sample]:
    with _wire(stage) as wire:
        yield from (one for one, _ in _random_reads(wire))


def cold_rand_bytes(stage: Stage) -> Iterator[Sample]:
    with _wire(stage) as wire:
        for _, fetched in _random_reads(wire):
            asked = 200 * 4096
            yield Sample(fetched / asked, f"{fetched:,} B", f"{asked:,} B")


def _random_reads(wire: Wire) -> Iterator[tuple[Sample, int]]:
    dice = random.Random(7)
    for number in range(wire.stage.rounds):
        starts = [dice.randrange(wire.size_bytes - 4096) for _ in range(200)]
        theirs = _curl_ranges(wire, [(start, start + 4096) for start in starts])
        with wire.fresh(number) as path:
            wire.origin.mark()
            ours = _read_at(path, starts, 4096)
        sample = Sample(ours / theirs, f"{ours:.2f} s", f"{theirs:.2f} s")
        yield sample, wire.origin.sent_bytes()


def _curl_ranges(wire: Wire, spans: list[tuple[int, int]]) -> float:
    """Seconds for ranged requests, one after the other on one connection of one curl."""
    config = wire.stage.directory / "curl.conf"
    one = f'url = "{wire.url}"\noutput = "/dev/null"\nrange = "{{}}-{{}}"\n'
    config.write_text("next\n".join(one.format(start, stop - 1) for start, stop in spans))
    return seconds(lambda: run("curl", "-sSf", "-K", config))


def _read_at(path: Path, starts: list[int], count: int) -> float:
    """Seconds for preads, in a process of its own."""
    program = (
        "import os, sys, time\n"
        "at = os.open(sys.argv[1], os.O_RDONLY); count = int(sys.argv[2])\n"
        "os.posix_fadvise(at, 0, 0, os.POSIX_FADV_RANDOM) if count < 65536 else None\n"
        "began = time.perf_counter()\n"
        "for start in map(int, sys.argv[3:]):\n"
        "    assert len(os.pread(at, count, start)) == count\n"
        "print(time.perf_counter() - began)\n"
    )
    return float(run(sys.executable, "-c", program, path, count, *starts))


def skip(stage: Stage) -> Iterator[Sample]:
    with _wire(stage, slow=True) as wire:
        starts = list(range(0, wire.size_bytes - MIB, 17 * MIB))
        theirs = _curl_ranges(wire, [(start, start + MIB) for start in starts])
        for number in range(stage.rounds):
            with wire.fresh(number) as path:
                ours = _read_at(path, starts, MIB)
            yield Sample(theirs / ours, f"{ours:.2f} s", f"{theirs:.2f} s")


def parquet(stage: Stage) -> Iterator[Sample]:
    local = stage.directory / "files" / "table.parquet"
    local.parent.mkdir(exist_ok=True)
    columns = 100
    run(
        sys.executable, "-c",
        "import sys, numpy as n, pyarrow as a, pyarrow.parquet as q\n"
        "path, columns, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])\n"
        "dice = n.random.default_rng(1)\n"
        "t = a.table({f'c{i:03}': dice.random(rows) for i in range(columns)})\n"
        "q.write_table(t, path, row_group_size=rows // 4, compression='none',"
        " use_dictionary=False)\n",
        local, columns, stage.size_bytes // (8 * columns),
    )  # fmt: skip
    size_bytes = local.stat().st_size
    stage.artifactfs("put", "--name", "table.parquet", local)
    with _origin(stage, slow=False) as (origin, base):
        wire = _found(stage, origin, base, "table.parquet", size_bytes)
        column_bytes = int(
            run(
                sys.executable, "-c",
                "import sys, pyarrow.parquet as q; m = q.read_metadata(sys.argv[1])\n"
                "print(sum(m.row_group(g).column(42).total_compressed_size"
                " for g in range(m.num_row_groups)))",
                local,
            )
        )  # fmt: skip
        for number in range(stage.rounds):
            with wire.fresh(number) as path:
                origin.mark()
                run(
                    sys.executable, "-c",
                    "import sys, pyarrow.parquet as q\n"
                    "assert q.read_table(sys.argv[1], columns=['c042']).num_rows",
                    path,
                )  # fmt: skip
            fetched = origin.sent_bytes()
            yield Sample(fetched / column_bytes, f"{fetched:,} B", f"{column_bytes:,} B")


def list_100k(stage: Stage) -> Iterator[Sample]:
    stage.service.dev("artifacts", {"count": LISTED, "filename": "file-{n}.txt"})
    for number in range(stage.rounds):
        theirs = seconds(lambda: _transfer_list(stage))
        with stage.mount(f"list-{number}", **{"list.ttl": "1h"}) as mount:
            ours = seconds(lambda mount=mount: run("ls", mount / "artifacts"))
        yield Sample(ours / theirs, f"{ours:.2f} s", f"{theirs:.2f} s")


def _transfer_list(stage: Stage) -> None:
    run(
        "curl", "-sSf", "-H", f"Authorization: Bearer {stage.service.token}", "-o", "/dev/null",
        f"{stage.url}/api/v1/artifacts?limit={LISTED}",
    )  # fmt: skip


ROWS = (
    Row("cold", "sequential, not cached, verified", "curl -o", ">=", 0.90, cold),
    Row("cold-rclone", "the same", "rclone full", ">=", 2.0, cold_rclone),
    Row("wan", "cold, 50 ms, 50 MB/s a connection", "one curl", ">=", 8.0, wan),
    Row("ttfb", "first byte, not cached", "curl, one range", "<=", 1.5, ttfb),
    Row("cold-rand", "200 random 4 KiB, not cached", "curl, ranges", "<=", 1.5, cold_rand),
    Row("cold-rand-bytes", "bytes fetched for them", "asked", "<=", 16, cold_rand_bytes),
    Row("skip", "1 MiB in every 17, wan", "curl, ranges", ">=", 4.0, skip),
    Row("parquet", "bytes fetched for 1 of 100 columns", "the column", "<=", 1.3, parquet),
    Row("list-100k", f"first ls of {LISTED:,}", "curl of the list", "<=", 2.0, list_100k),
)
