"""Artifacts are files: listed, read in ranges, mapped, opened by the programs people use."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .conftest import ServiceClient, UserMount, sha256, wait_until

pytestmark = pytest.mark.fuse


def test_a_listed_artifact_shows_under_its_name_its_id_and_its_hash(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = os.urandom(300_000)
    artifact = service.upload("dataset.bin", data)
    by_name = mounted.path / "artifacts" / "dataset.bin"
    by_id = mounted.path / "by-id" / artifact["id"]
    by_hash = mounted.path / "by-sha256" / sha256(data)
    assert "dataset.bin" in os.listdir(mounted.path / "artifacts")
    for path in (by_name, by_id, by_hash):
        assert path.read_bytes() == data
        stat = path.stat()
        assert stat.st_size == len(data)
        assert stat.st_mode & 0o777 == 0o444
        assert stat.st_uid == os.getuid()
        assert stat.st_ino == by_name.stat().st_ino
        assert stat.st_nlink == 3


def test_a_slash_in_a_name_is_a_directory(mounted: UserMount, service: ServiceClient) -> None:
    service.upload("results/run 1/a.csv", b"a,b\n1,2\n")
    service.upload("results/b.csv", b"c\n")
    assert sorted(os.listdir(mounted.path / "artifacts" / "results")) == ["b.csv", "run 1"]
    assert (mounted.path / "artifacts/results/run 1/a.csv").read_text() == "a,b\n1,2\n"


def test_extended_attributes_tell_what_the_service_knows(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = b"hello"
    artifact = service.upload("x.txt", data)
    path = mounted.path / "artifacts" / "x.txt"
    path.read_bytes()
    values = {
        name.removeprefix("user.artifactfs."): os.getxattr(path, name).decode()
        for name in os.listxattr(path)
    }
    assert values["id"] == artifact["id"]
    assert values["sha256"] == sha256(data)
    assert values["status"] == "ready"
    assert values["cached"] == "100"
    assert values["created_at"].startswith(artifact["created_at"][:19])
    assert set(values) >= {"expires_at", "metadata"}
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(path, "user.artifactfs.nothing")


@pytest.mark.parametrize("size", [0, 1, 131_072, 131_073, 5_000_001])
def test_dd_reads_any_piece_of_any_size(
    mounted: UserMount, service: ServiceClient, size: int
) -> None:
    data = random.Random(size).randbytes(size)
    service.upload("piece.bin", data)
    path = mounted.path / "artifacts" / "piece.bin"
    for skip in (0, 1, 31, size // 4096):
        piece = subprocess.run(
            ["dd", f"if={path}", "bs=4k", f"skip={skip}", "count=3", "status=none"],
            capture_output=True,
            check=True,
        ).stdout
        assert piece == data[skip * 4096 : skip * 4096 + 3 * 4096]
    assert subprocess.run(["cat", path], capture_output=True, check=True).stdout == data


MAPPED = """
import hashlib, sys, numpy
mapped = numpy.memmap(sys.argv[1], dtype="uint8", mode="r")
print(hashlib.sha256(mapped[7_000_001:].tobytes() + mapped[:7_000_001].tobytes()).hexdigest())
"""


def test_numpy_maps_an_artifact(mounted: UserMount, service: ServiceClient) -> None:
    data = os.urandom(9_000_000)
    service.upload("array.bin", data)
    path = mounted.path / "artifacts" / "array.bin"
    shown = subprocess.run(
        [sys.executable, "-c", MAPPED, path], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == sha256(data[7_000_001:] + data[:7_000_001])


def test_zipfile_reads_one_member(
    mounted: UserMount, service: ServiceClient, tmp_path: Path
) -> None:
    archive = tmp_path / "a.zip"
    members = {f"member{index}": os.urandom(200_000) for index in range(10)}
    with zipfile.ZipFile(archive, "w") as writing:
        for name, data in members.items():
            writing.writestr(name, data)
    service.upload("a.zip", archive.read_bytes())
    with zipfile.ZipFile(mounted.path / "artifacts" / "a.zip") as reading:
        assert reading.read("member7") == members["member7"]
        assert reading.testzip() is None


def test_pyarrow_reads_one_column(
    mounted: UserMount, service: ServiceClient, tmp_path: Path
) -> None:
    table = pa.table({f"c{index}": list(range(index, 20_000 + index)) for index in range(20)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2000)
    service.upload("t.parquet", (tmp_path / "t.parquet").read_bytes())
    read = pq.read_table(mounted.path / "artifacts" / "t.parquet", columns=["c7"])
    assert read.column("c7").to_pylist() == list(range(7, 20_007))


def test_sixteen_readers_of_one_uncached_file_download_it_once(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = os.urandom(24_000_000)
    service.upload("shared.bin", data)
    path = mounted.path / "artifacts" / "shared.bin"

    def read(seed: int) -> bool:
        choice = random.Random(seed)
        with path.open("rb", buffering=0) as file:
            for _ in range(40):
                start = choice.randrange(len(data))
                size = choice.randrange(1, 300_000)
                if os.pread(file.fileno(), size, start) != data[start : start + size]:
                    return False
        return path.read_bytes() == data

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(16)))
    assert mounted.status()["cache"]["fetched_bytes"] == len(data)


def test_what_was_read_once_is_cached_and_du_shows_it(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = os.urandom(4_000_000)
    service.upload("cached.bin", data)
    path = mounted.path / "artifacts" / "cached.bin"
    assert path.stat().st_blocks == 1, "nothing is cached, but tar -S reads what is not empty"
    path.read_bytes()
    fetched = mounted.status()["cache"]["fetched_bytes"]
    mounted.unmount()
    mounted.mount()
    assert path.read_bytes() == data
    assert mounted.status()["cache"]["fetched_bytes"] == 0, fetched
    assert path.stat().st_blocks * 512 >= len(data)


def test_two_artifacts_of_one_name_and_one_name_of_one_content(
    mounted: UserMount, service: ServiceClient
) -> None:
    service.upload("same.txt", b"old")
    second = int(time.time())
    wait_until(lambda: int(time.time()) > second, 5, "times of the service count in seconds")
    service.upload("same.txt", b"new")
    service.upload("same.txt", b"new")
    directory = mounted.path / "artifacts"
    assert sorted(os.listdir(directory)) == ["same.txt", f"same~{sha256(b'old')[:8]}.txt"]
    assert (directory / "same.txt").read_bytes() == b"new"
    assert (directory / f"same~{sha256(b'old')[:8]}.txt").read_bytes() == b"old"


def test_a_name_that_is_not_listed_yet_is_asked_for(
    user: UserMount, service: ServiceClient
) -> None:
    user.settings = {"list.ttl": "1h"}
    user.mount()
    assert os.listdir(user.path / "artifacts") == []
    service.upload("later.txt", b"later")
    assert (user.path / "artifacts" / "later.txt").read_bytes() == b"later"


def test_nothing_can_be_written_outside_drop(mounted: UserMount, service: ServiceClient) -> None:
    service.upload("fixed.txt", b"fixed")
    artifacts = mounted.path / "artifacts"
    attempts = [
        lambda: (artifacts / "new.txt").write_text("x"),
        lambda: (artifacts / "fixed.txt").open("r+b"),
        lambda: (artifacts / "fixed.txt").unlink(),
        lambda: (artifacts / "fixed.txt").chmod(0o644),
        lambda: (artifacts / "fixed.txt").rename(artifacts / "other.txt"),
        lambda: (artifacts / "directory").mkdir(),
        lambda: (mounted.path / "drop").rmdir(),
        lambda: (mounted.path / "new").mkdir(),
        lambda: os.truncate(artifacts / "fixed.txt", 0),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match=r"Read-only file system|Permission denied") as caught:
            attempt()
        assert caught.value.errno in (30, 13)
    assert (artifacts / "fixed.txt").read_bytes() == b"fixed"


def test_statfs_shows_the_cache_budget(mounted: UserMount) -> None:
    space = os.statvfs(mounted.path)
    assert 0 < space.f_bavail * space.f_frsize <= space.f_blocks * space.f_frsize <= 20 << 30
