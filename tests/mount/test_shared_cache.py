"""Mounts that share a cache, die in mid-download, are read by many, and outlive what they show."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy

from .conftest import ServiceClient, UserMount, sha256, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

MB = 1_000_000
READER = """
import hashlib, mmap, os, sys
path, seed = sys.argv[1], int(sys.argv[2])
with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
    step, digest = 1 << 20, hashlib.sha256()
    pieces = list(range(0, len(view), step))
    turn = seed * len(pieces) // 8 % len(pieces)
    for start in pieces[turn:] + pieces[:turn]:
        view[start]
    for start in pieces:
        digest.update(view[start:start + step])
    print(digest.hexdigest())
"""


@pytest.fixture
def binding() -> str:
    return "native"


@pytest.fixture
def proxy(controller: LocalController) -> Iterator[FaultProxy]:
    with FaultProxy(controller.url) as running:
        yield running


def digest_of(path: Path) -> subprocess.Popen[str]:
    """``sha256sum FILE``, running."""
    return subprocess.Popen(["sha256sum", path], stdout=subprocess.PIPE, text=True)


def result(running: subprocess.Popen[str], within_s: float = 120) -> str:
    said, _ = running.communicate(timeout=within_s)
    assert running.returncode == 0
    return said.split()[0]


def downloads(proxy: FaultProxy, artifact_id: str) -> int:
    return proxy.count("GET", f"artifacts/{artifact_id}")


def test_two_mounts_of_one_cache_download_a_file_once_and_one_may_die(
    user: UserMount, neighbour: UserMount, service: ServiceClient, tmp_path: Path
) -> None:
    data, other = random.Random(1).randbytes(120 * MB), random.Random(2).randbytes(120 * MB)
    service.upload("both.bin", data)
    service.upload("dies.bin", other)
    for one in (user, neighbour):
        one.settings = {"cache.dir": str(tmp_path / "shared"), "list.ttl": "0"}
        one.mount()
    both = [digest_of(one.path / "artifacts" / "both.bin") for one in (user, neighbour)]
    assert [result(one) for one in both] == 2 * [sha256(data)]
    fetched = [one.status()["cache"]["fetched_bytes"] for one in (user, neighbour)]
    assert len(data) <= sum(fetched) <= len(data) * 1.01

    before = neighbour.status()["cache"]["fetched_bytes"]
    dying = digest_of(user.path / "artifacts" / "dies.bin")
    wait_until(lambda: user.status()["cache"]["fetched_bytes"] > fetched[0], 30, "it has begun")
    living = digest_of(neighbour.path / "artifacts" / "dies.bin")
    user.kill()
    dying.communicate()
    assert result(living) == sha256(other)
    assert neighbour.status()["cache"]["fetched_bytes"] - before <= len(other)


def test_what_was_read_is_never_asked_for_again_not_even_after_a_kill(
    user: UserMount, service: ServiceClient, proxy: FaultProxy
) -> None:
    data = random.Random(3).randbytes(40 * MB)
    artifact = service.upload("once.bin", data)
    user.url = proxy.url
    user.mount()
    path = user.path / "artifacts" / "once.bin"
    assert result(digest_of(path)) == sha256(data)
    asked = downloads(proxy, artifact["id"])
    assert asked > 0
    assert result(digest_of(path)) == sha256(data)
    user.kill()
    user.mount()
    assert result(digest_of(path)) == sha256(data)
    assert downloads(proxy, artifact["id"]) == asked
    assert user.status()["cache"]["fetched_bytes"] == 0


def test_many_handles_and_mappings_stall_nobody_and_cost_little_memory(
    user: UserMount, service: ServiceClient
) -> None:
    data = random.Random(4).randbytes(100 * MB)
    service.upload("many.bin", data)
    user.mount()
    path = user.path / "artifacts" / "many.bin"
    status = Path(f"/proc/{user.pid}/status")

    def peak_mb() -> float:
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024

    before_mb = peak_mb()
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, path, str(seed)], stdout=subprocess.PIPE, text=True
        )
        for seed in range(8)
    ]
    choice = random.Random(5)
    descriptors = [os.open(path, os.O_RDONLY) for _ in range(64)]
    try:
        for _ in range(4):
            for number, descriptor in enumerate(descriptors):
                start = (number * len(data) // 64 + choice.randrange(MB)) % (len(data) - 70_000)
                assert os.pread(descriptor, 70_000, start) == data[start : start + 70_000]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert [result(reader) for reader in readers] == 8 * [hashlib.sha256(data).hexdigest()]
    assert user.status()["cache"]["fetched_bytes"] <= len(data) * 1.01
    assert peak_mb() - before_mb < 150


def test_an_open_file_keeps_its_bytes_when_another_takes_its_name(
    user: UserMount, service: ServiceClient, controller: LocalController
) -> None:
    old, new = random.Random(6).randbytes(3 * MB), random.Random(7).randbytes(2 * MB)
    first = service.upload("name.bin", old)
    user.settings = {"list.ttl": "0"}
    user.mount()
    path = user.path / "artifacts" / "name.bin"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert file.read() == old
        controller.dev(f"artifacts/{first['id']}", {"expires_in_s": -1})
        wait_until(lambda: os.listdir(path.parent) == [], 30, "the listing has lost it")
        assert os.pread(file.fileno(), len(old), 0) == old
        service.upload("name.bin", new)
        wait_until(lambda: os.listdir(path.parent) == ["name.bin"], 30, "the new one is listed")
        assert path.read_bytes() == new
        assert os.pread(file.fileno(), len(old), 0) == old
        assert view[:] == old
    assert path.read_bytes() == new
