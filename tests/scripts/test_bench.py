"""``scripts/bench``: its rows, what it makes of a row that fails, and what it leaves behind."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.context import Context
from benchmarks.measure import cpu_seconds
from benchmarks.peers import missing
from benchmarks.report import save
from benchmarks.row import Absent, Figure, PeerAbsentError, Row, Sample
from benchmarks.runner import measure
from benchmarks.synthetic import Synthetic, artifact_name

ROOT = Path(__file__).parents[2]
BENCH = [sys.executable, str(ROOT / "scripts" / "bench")]
NAMES = {
    "page", "disk", "disk-rand", "disk-user", "cold", "cold-cpu", "wan", "wan-small-file",
    "wan-switch", "ttfb", "cold-rand", "many-cold", "many-parallel", "parquet", "skip", "mmap",
    "prefer", "list", "list-100k", "list-again", "list-memory", "drop", "upload", "upload-wan",
    "small", "small-cpu", "pending", "mount", "start", "huge", "memory", "fusepy",
}  # fmt: skip
FIGURES = (Figure("a", "peer", "<=", 1.0), Figure("b", "peer", ">=", 2.0))

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop the page cache")


def run_bench(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *map(str, words)],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_row_is_listed() -> None:
    shown = run_bench("--list")
    assert shown.returncode == 0, shown.stderr
    assert {line.split()[0] for line in shown.stdout.splitlines()} == NAMES


@as_root
@pytest.mark.fuse
def test_a_row_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "fio"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no fio today >&2\nexit 3\n")
    broken.chmod(0o755)
    at = tmp_path / "at"
    at.mkdir()
    done = run_bench(
        "--quick", "--row", "disk-rand", "--row", "start", "--results", tmp_path, "--at", at,
        PATH=f"{broken.parent}:{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    rows = {
        (one["row"], one["figure"]): one
        for one in json.loads((tmp_path / "results.json").read_text())["rows"]
    }
    assert "no fio today" in rows["disk-rand", "1 reader"]["failed"]
    assert "disk-rand 1 reader: failed: RuntimeError" in done.stdout
    for figure in ("--help", "TAB"):
        one = rows["start", figure]
        assert one["median"] in one["ratios"]
        assert one["met"] == (one["median"] <= 0.12)
    assert list(at.iterdir()) == []


@as_root
@pytest.mark.fuse
def test_an_interrupted_run_leaves_no_mount_no_process_and_no_directory(tmp_path: Path) -> None:
    at = tmp_path / "at"
    at.mkdir()
    bench = subprocess.Popen(
        [*BENCH, "--quick", "--row", "wan-switch", "--results", tmp_path, "--at", at],
        stdout=subprocess.DEVNULL,
    )
    try:
        while str(at) not in Path("/proc/self/mountinfo").read_text():
            assert bench.poll() is None
            time.sleep(0.05)
        bench.send_signal(signal.SIGINT)
        assert bench.wait(60) == 130
    finally:
        bench.kill()
        bench.wait()
    assert str(at) not in Path("/proc/self/mountinfo").read_text()
    assert list(at.iterdir()) == []
    assert processes_that_name(f"{at}/") == []


def processes_that_name(text: str) -> list[bytes]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(text) in words:
                found.append(words)
    return found


def test_what_was_measured_before_a_peer_was_missing_is_kept(tmp_path: Path) -> None:
    def rounds(context: Context) -> Iterator[Sample | Absent]:
        yield Sample("a", 0.5, "ours", "theirs")
        raise PeerAbsentError(missing("no-such-program"))

    result = measure(Row("r", "what", FIGURES, rounds), tmp_path / "r", quick=True)
    assert result.failed == ""
    first, second = save([result], tmp_path / "results.json", quick=True)["rows"]
    assert (first["met"], first["absent"]) == (True, None)
    assert (second["met"], second["absent"]) == (None, "no-such-program is not installed")


def test_a_row_ends_when_its_time_is_over(tmp_path: Path) -> None:
    def rounds(context: Context) -> Iterator[Sample | Absent]:
        yield Sample("a", 0.5, "ours", "theirs")
        time.sleep(60)

    result = measure(Row("r", "what", FIGURES, rounds), tmp_path / "r", quick=True, limit_s=0.2)
    assert "longer than 0.2 s" in result.failed
    assert not (tmp_path / "r").exists()


def test_the_median_of_an_even_number_is_the_one_nearer_to_missing_the_target(
    tmp_path: Path,
) -> None:
    def rounds(context: Context) -> Iterator[Sample | Absent]:
        for ratio in (0.5, 1.5):
            yield Sample("a", ratio, "", "")
        for ratio in (1.5, 2.5):
            yield Sample("b", ratio, "", "")

    result = measure(Row("r", "what", FIGURES, rounds), tmp_path / "r", quick=True)
    assert [(one.median.ratio, one.met) for one in result.outcomes()] == [
        (1.5, False),
        (1.5, False),
    ]


def test_the_cpu_time_of_a_process_counts_its_children() -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    program = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]);"
        "print(flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent, parent.stdin, parent.stdout:
        parent.stdout.readline()
        assert 0.25 < cpu_seconds(parent.pid) < 5


def get(url: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(url.rpartition("/")[2])
    connection.request("GET", f"/api/v1/{path}", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_the_synthetic_service_lists_every_artifact_once_and_serves_ranges() -> None:
    size_bytes = 1 << 40
    with Synthetic(25, size_bytes) as service:
        names: list[str] = []
        cursor: str | None = "0"
        while cursor is not None:
            _, body = get(service.url, f"artifacts?limit=10&cursor={cursor}")
            page = json.loads(body)
            names += [one["filename"] for one in page["artifacts"]]
            cursor = page["next_cursor"]
        assert names == [artifact_name(number) for number in range(25)]
        assert re.fullmatch("[0-9a-f]{64}", page["artifacts"][0]["sha256"])
        start = size_bytes - 3_000_000
        answer, body = get(service.url, "artifacts/art_7", Range=f"bytes={start}-")
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{size_bytes - 1}/{size_bytes}"
        assert body == bytes(3_000_000)
        answer, _ = get(service.url, "artifacts/art_7", Range=f"bytes={size_bytes}-")
        assert answer.status == 416
        answer, _ = get(service.url, "nothing")
        assert answer.status == 404
