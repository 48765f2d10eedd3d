"""Rows about the outbox: copying into drop/, and bringing it to the service.

    drop     cp of 1 GiB into drop/ until close has returned, beside cp to the same disk and sync
    upload   from close to uploaded, 1 GiB in parts, beside curl -T of it to the object store
    small    1,000 files of 10 KiB into drop/ until all are uploaded, beside 1,000 POSTs
    pending  artifactfs mount with 10,000 files waiting for their upload, until it returns

The service is part of both sides of `upload` and `small`, and hashes and syncs in both. A content
that it knows would be sent by neither, so each round makes bytes of its own before the clock runs.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from artifactfs.config import DropConfig, SpoolConfig, UploadConfig
from artifactfs.drop import Outbox
from benchmarks.row import Row, Sample
from benchmarks.stage import CHUNK, Stage, seconds, touch_memory

FILES = 1000
FILE_BYTES = 10 << 10
PENDING = 10_000
MIB = 1 << 20


def drop(stage: Stage) -> Iterator[Sample]:
    local = stage.random_file("data.bin", stage.size_bytes)
    target = stage.directory / "copy.bin"
    with stage.mount("drop", **{"upload.max_rate": "1M"}) as mount:
        for number in range(stage.rounds):
            _settle_disk()
            touch_memory(2 * stage.size_bytes)
            theirs = seconds(lambda: _copy_and_sync(local, target))
            target.unlink()
            _settle_disk()
            touch_memory(2 * stage.size_bytes)
            entry = mount / "drop" / f"{number}.tmp"  # the name waits: nothing is uploaded
            ours = seconds(lambda entry=entry: _run("cp", local, entry))
            entry.unlink()
            yield _slower(ours, theirs, stage.size_bytes)


def _copy_and_sync(source: Path, target: Path) -> None:
    _run("cp", source, target)
    _run("sync", target)


def upload(stage: Stage) -> Iterator[Sample]:
    with stage.mount("upload", **{"drop.linger": "0"}) as mount:
        for number in range(stage.rounds):
            theirs = _curl(stage, _fresh(stage, number, "curl", stage.size_bytes))
            local = _fresh(stage, number, "ours", stage.size_bytes)
            waiting = mount / "drop" / f"up-{number}.tmp"
            _run("cp", local, waiting)
            _settle_disk()
            touch_memory(stage.size_bytes)
            begun = time.perf_counter()
            waiting.rename(waiting.with_suffix(".bin"))  # its own name: as if closed now
            _until_uploaded(mount)
            yield _slower(time.perf_counter() - begun, theirs, stage.size_bytes)
            _forget(mount, local)


def _curl(stage: Stage, local: Path) -> float:
    """Seconds for one PUT to the object store, and its completion."""
    digest = _run("sha256sum", local).split()[0]
    size_bytes = local.stat().st_size
    wanted = {"sha256": digest, "size": size_bytes, "filename": local.name}
    ticket = _call(stage, "artifacts/direct", wanted)
    headers = [word for pair in ticket["headers"].items() for word in ("-H", ": ".join(pair))]
    _settle_disk()
    touch_memory(size_bytes)
    begun = time.perf_counter()
    _run("curl", "-sSf", "-o", os.devnull, *headers, "-T", local, ticket["upload_url"])
    done = _call(stage, ticket["complete_url"].removeprefix("/api/v1/"), wanted)
    took = time.perf_counter() - begun
    assert done["sha256"] == digest
    local.unlink()
    return took


def small(stage: Stage) -> Iterator[Sample]:
    with stage.mount("small", **{"drop.linger": "0"}) as mount:
        for number in range(stage.rounds):
            theirs = _posts(stage, number)
            source = _many(stage, f"ours-{number}")
            _settle_disk()
            begun = time.perf_counter()
            _run("cp", "-r", source, mount / "drop")
            _until_uploaded(mount)
            ours = time.perf_counter() - begun
            yield Sample(ours / theirs, f"{ours:.2f} s", f"{theirs:.2f} s")


def _posts(stage: Stage, number: int) -> float:
    """Seconds for the files as POSTs, one after the other over one kept-alive connection."""
    files = sorted(_many(stage, f"posts-{number}").iterdir())
    address = urlsplit(stage.url)
    headers = {
        "Authorization": f"Bearer {stage.service.token}",
        "Content-Type": "application/octet-stream",
    }
    _settle_disk()
    begun = time.perf_counter()
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    for path in files:
        named = {**headers, "X-Artifact-Filename": f"posts-{number}/{path.name}"}
        connection.request("POST", "/api/v1/artifacts", path.read_bytes(), named)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
    connection.close()
    return time.perf_counter() - begun


def pending(stage: Stage) -> Iterator[Sample]:
    home = stage.directory / "pending"
    mount = home / "mnt"
    mount.mkdir(parents=True)
    # One byte a second: what waits goes on waiting.
    words = stage.options(home, {"upload.max_rate": "1"})
    _fill_spool(stage, home / "state" / "spool")
    for _ in range(stage.rounds):
        ours = seconds(lambda: stage.artifactfs("mount", *words, mount))
        listed = len(list((mount / "drop").iterdir()))
        pid = json.loads((mount / ".artifactfs" / "status.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)  # so that all of it goes on waiting, for the next round
        _run(sys.executable, "-m", "artifactfs", "unmount", mount)
        assert listed > _pending_files(stage) - stage.rounds, listed
        yield Sample(ours, f"{ours:.2f} s", "")


def _pending_files(stage: Stage) -> int:
    return PENDING // 4 if stage.quick else PENDING


def _fill_spool(stage: Stage, directory: Path) -> None:
    """What a mount leaves that had no service: files that wait."""
    url = urlsplit(stage.url)
    outbox = Outbox(
        directory,
        NoService(),
        origin=f"http://{url.hostname}:{url.port}",
        upload=UploadConfig(),
        drop=DropConfig(temporary_names=("*",)),
        spool=SpoolConfig(),
        known=lambda _: None,
        on_uploaded=lambda *_: None,
    )
    outbox.start()
    with ThreadPoolExecutor(8) as pool:
        for done in pool.map(lambda number: _write(outbox, number), range(_pending_files(stage))):
            assert done is None
    outbox.close()


def _write(outbox: Outbox, number: int) -> None:
    file = outbox.create(f"{number:05}.bin", 0o644)
    file.write(0, b"%d" % number)
    file.flush(0)
    file.release()


class NoService:
    """Nothing is called: every name waits."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


def _slower(ours_s: float, theirs_s: float, size_bytes: int) -> Sample:
    """How many times as long as the other side ours takes."""
    speed = [f"{size_bytes / took / 1e6:,.0f} MB/s" for took in (ours_s, theirs_s)]
    return Sample(ours_s / theirs_s, *speed)


def _until_uploaded(mount: Path) -> None:
    status = mount / ".artifactfs" / "status.json"
    while True:
        uploads = json.loads(status.read_text())["uploads"]
        assert not uploads["failed"], uploads
        if not uploads["pending_files"]:
            return
        time.sleep(0.01)


def _fresh(stage: Stage, number: int, side: str, size_bytes: int) -> Path:
    """A file that the service has never seen."""
    path = stage.directory / f"{side}-{number}.bin"
    with path.open("wb") as file:
        for start in range(0, size_bytes, CHUNK):
            file.write(os.urandom(min(CHUNK, size_bytes - start)))
    return path


def _many(stage: Stage, name: str) -> Path:
    directory = stage.directory / name
    directory.mkdir()
    for index in range(FILES // 4 if stage.quick else FILES):
        (directory / f"{index:04}.bin").write_bytes(os.urandom(FILE_BYTES))
    return directory


def _forget(mount: Path, local: Path) -> None:
    """Make room: what was uploaded is not needed any more."""
    local.unlink()
    shutil.rmtree(mount.parent / "cache", ignore_errors=True)


def _settle_disk() -> None:
    """Nothing of what was before is still being written."""
    _run("sync")


def _call(stage: Stage, path: str, body: dict[str, object]) -> dict[str, object]:
    address = urlsplit(stage.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    headers = {
        "Authorization": f"Bearer {stage.service.token}",
        "Content-Type": "application/json",
    }
    connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
    answer = connection.getresponse()
    document: dict[str, object] = json.loads(answer.read())
    assert answer.status < 300, document
    connection.close()
    return document


def _run(*words: object) -> str:
    shown = [str(word) for word in words]
    return subprocess.run(shown, check=True, capture_output=True, text=True).stdout


ROWS = (
    Row("drop", "cp into drop/ until close returns", "cp, then sync", "<=", 1.3, drop),
    Row("upload", "from close to uploaded, in parts", "curl -T", "<=", 1.25, upload),
    Row("small", f"{FILES:,} files of 10 KiB, uploaded", "POSTs", "<=", 1.0, small),
    Row("pending", f"mount with {PENDING:,} files waiting, s", "", "<=", 0.5, pending),
)
