"""Rows about what is not cached yet: the mount beside curl and rclone, at one origin."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.origin import Origin, SlowLine
from benchmarks.row import PeerAbsent, Row, Sample, absent
from benchmarks.stage import (
    Stage,
    drop_caches,
    peak_memory_bytes,
    read_through,
    seconds,
    touch_memory,
)

MIB = 1 << 20
PAGE = 4096
DELAY_S = 0.05
LISTED = 100_000
LISTED_AT_A_TIME = 10_000
HELD = 3  # times its size: the origin's file, the cache's, and what the kernel keeps of the mount


Rounds = Callable[[Stage], Iterator[tuple[Sample, int]]]


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
        yield from _whole(wire, wire.curl)


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


def cold_rclone(mode: str) -> Callable[[Stage], Iterator[Sample]]:
    def measure(stage: Stage) -> Iterator[Sample]:
        if shutil.which("rclone") is None:
            raise absent("rclone")
        with _wire(stage) as wire:
            yield from _whole(wire, lambda: _rclone_cold(wire, mode))

    return measure


def _rclone_cold(wire: Wire, mode: str) -> float:
    home = wire.stage.directory / "rclone"
    mount = home / "mnt"
    mount.mkdir(parents=True)
    folder, _, name = wire.path_at_origin.rpartition("/")
    run(
        "rclone", "mount", f":http:{folder}/", mount, "--http-url", wire.base, "--daemon",
        "--read-only", "--vfs-cache-mode", mode, "--cache-dir", home / "c",
        "--config", "/dev/null",
    )  # fmt: skip
    try:
        return seconds(read_through(mount / name))
    finally:
        run("umount", "-l", mount)
        shutil.rmtree(home, ignore_errors=True)


def cold_fsspec(stage: Stage) -> Iterator[Sample]:
    """fsspec's own FUSE takes every URL for a file, the root too: its mount answers EIO (tried)."""
    _ = stage
    raise PeerAbsent("fsspec's FUSE cannot mount HTTP")


def wan(stage: Stage) -> Iterator[Sample]:
    with _wire(stage, slow=True) as wire:
        yield from _whole(wire, wire.curl)


def ttfb(stage: Stage) -> Iterator[Sample]:
    with _wire(stage) as wire:
        for number in range(stage.rounds if stage.quick else 3 * stage.rounds):
            theirs = wire.curl("-r", "0-4095")
            with wire.fresh(number) as path:
                ours = seconds(lambda path=path: run("head", "-c", "4096", path))
            yield Sample(ours / theirs, f"{ours * 1000:.1f} ms", f"{theirs * 1000:.1f} ms")


def cold_rand(stage: Stage) -> Iterator[Sample]:
    yield from (one for one, _ in _once(_random_reads, stage))


def cold_rand_bytes(stage: Stage) -> Iterator[Sample]:
    for _, fetched in _once(_random_reads, stage):
        asked = 200 * PAGE
        yield Sample(fetched / asked, f"{fetched:,} B", f"{asked:,} B")


_measured: dict[Rounds, list[tuple[Sample, int]]] = {}


def _once(rounds: Rounds, stage: Stage) -> list[tuple[Sample, int]]:
    """What was measured for two rows at once: the second takes what the first has found."""
    if rounds not in _measured:
        _measured[rounds] = list(rounds(stage))
    return _measured[rounds]


def _random_reads(stage: Stage) -> Iterator[tuple[Sample, int]]:
    """At offsets that are multiples of a page, as fio takes them."""
    dice = random.Random(7)
    with _wire(stage) as wire:
        for number in range(stage.rounds):
            starts = [dice.randrange(wire.size_bytes // PAGE) * PAGE for _ in range(200)]
            theirs = _curl_ranges(wire, [(start, start + PAGE) for start in starts])
            with wire.fresh(number) as path:
                wire.origin.mark()
                ours = _read_at(path, starts, PAGE)
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
        for number in range(stage.rounds):
            theirs = _curl_ranges(wire, [(start, start + MIB) for start in starts])
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


def mmap_load(*, cached: bool) -> Callable[[Stage], Iterator[Sample]]:
    """Load every tensor of a model; cold beside curl and a local load, cached beside the latter."""

    def measure(stage: Stage) -> Iterator[Sample]:
        local = stage.directory / "files" / "model.safetensors"
        local.parent.mkdir(exist_ok=True)
        run(sys.executable, "-c", _MAKE_MODEL, local, stage.size_bytes // MODEL_TENSORS)
        size_bytes = local.stat().st_size
        stage.artifactfs("put", "--name", local.name, local)
        with _origin(stage, slow=False) as (origin, base):
            wire = _found(stage, origin, base, local.name, size_bytes)
            yield from _mmap_cached(wire, local) if cached else _mmap_cold(wire)

    return measure


def _mmap_cold(wire: Wire) -> Iterator[Sample]:
    out = wire.stage.directory / "curl.safetensors"
    for number in range(wire.stage.rounds):
        touch_memory(HELD * wire.size_bytes)
        theirs = seconds(lambda: run("curl", "-sSf", "-o", out, wire.url)) + _load(out)
        out.unlink()
        with wire.fresh(number) as path:
            touch_memory(HELD * wire.size_bytes)
            ours = _load(path)
        yield Sample.of_seconds(ours, theirs, wire.size_bytes)


def _mmap_cached(wire: Wire, local: Path) -> Iterator[Sample]:
    with wire.fresh(0) as path:
        read_through(path)()
        _until_verified(path, wire.size_bytes)
        for _ in range(wire.stage.rounds):
            drop_caches()
            theirs = _load(local)
            drop_caches()
            yield Sample.of_seconds(_load(path), theirs, wire.size_bytes)


MODEL_TENSORS = 64
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
    """Seconds in which safetensors maps a model and hands out every tensor of it."""
    return float(run(sys.executable, "-c", _LOAD_MODEL, path))


def memory(stage: Stage) -> Iterator[Sample]:
    """The driver's peak over a cold read of a large file and the upload of another one."""
    size_bytes = (256 << 20) if stage.quick else (4 << 30)
    with _wire(stage, size_bytes=size_bytes) as wire:
        other = stage.directory / "files" / "upload.bin"
        shutil.copyfile(stage.directory / "files" / "data.bin", other)
        for number in range(1 if stage.quick else stage.rounds):
            with other.open("r+b") as file:
                file.write(os.urandom(16))  # the service must not know it
            with wire.fresh(number) as path:
                read_through(path)()
                mount = path.parent.parent
                run("cp", other, mount / "drop" / f"upload-{number}.bin")
                stage.artifactfs("flush", mount)
                peak = peak_memory_bytes(mount)
            yield Sample(peak / 1e6, f"{peak / 1e6:.0f} MB", "")


def list_100k(stage: Stage) -> Iterator[Sample]:
    yield from (one for one, _ in _once(_long_lists, stage))


def list_100k_memory(stage: Stage) -> Iterator[Sample]:
    for _, peak in _once(_long_lists, stage):
        yield Sample(peak / 1e6, f"{peak / 1e6:.0f} MB", "")


def _long_lists(stage: Stage) -> Iterator[tuple[Sample, int]]:
    """The first ls beside the transfer of the list, and the driver's peak memory after it."""
    stage.service.dev("artifacts", {"count": LISTED, "filename": "file-{n}.txt"})
    for number in range(1 if stage.quick else stage.rounds):
        theirs = seconds(lambda: _transfer_list(stage))
        with stage.mount(f"list-{number}", **{"list.ttl": "1h"}) as mount:
            ours = seconds(lambda mount=mount: run("ls", mount / "artifacts"))
            peak = peak_memory_bytes(mount)
        yield Sample(ours / theirs, f"{ours:.2f} s", f"{theirs:.2f} s"), peak


def _transfer_list(stage: Stage) -> None:
    """Every page of the list, over one connection, and nothing made of it."""
    connection = http.client.HTTPConnection(stage.url.rpartition("/")[2])
    cursor: str | None = ""
    while cursor is not None:
        query = f"limit={LISTED_AT_A_TIME}" + (f"&cursor={cursor}" if cursor else "")
        named = {"Authorization": f"Bearer {stage.service.token}"}
        connection.request("GET", f"/api/v1/artifacts?{query}", headers=named)
        answer = connection.getresponse().read()
        found = re.search(rb'"next_cursor": ?"([^"]*)"', answer)
        cursor = found[1].decode() if found else None
    connection.close()


ROWS = (
    Row("cold", "whole, uncached, verified", "curl -o", ">=", 0.90, cold),
    Row("cold-rclone", "the same", "rclone full", ">=", 2.0, cold_rclone("full")),
    Row("cold-off", "the same", "rclone off", ">=", 1.0, cold_rclone("off")),
    Row("cold-fsspec", "the same", "fsspec FUSE", ">=", 1.0, cold_fsspec),
    Row("wan", "cold, 50 ms, 50 MB/s a line", "one curl", ">=", 8.0, wan),
    Row("ttfb", "first byte, uncached", "curl range", "<=", 1.5, ttfb),
    Row("cold-rand", "200 random 4 KiB, uncached", "curl ranges", "<=", 1.5, cold_rand),
    Row("rand-bytes", "bytes fetched for these", "asked", "<=", 16, cold_rand_bytes),
    Row("skip", "1 MiB in every 17, wan", "curl ranges", ">=", 4.0, skip),
    Row("parquet", "bytes for 1 column of 100", "the column", "<=", 1.3, parquet),
    Row("mmap", "safetensors, uncached", "curl + load", ">=", 0.8, mmap_load(cached=False)),
    Row("mmap-cached", "safetensors, cached", "local load", ">=", 0.9, mmap_load(cached=True)),
    Row("list-100k", f"first ls of {LISTED:,}", "its transfer", "<=", 2.0, list_100k),
    Row("list-memory", "driver's peak by then, MB", "", "<=", 200, list_100k_memory),
    Row("memory", "peak, cold + upload, MB", "", "<=", 150, memory),
)
