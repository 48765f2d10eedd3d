"""kill -9 of the driver, and a service that goes away: nothing is lost, nothing is wrong."""

from __future__ import annotations

import errno
import os
import time
from io import RawIOBase
from pathlib import Path

import pytest
import requests

from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy

from .conftest import ServiceClient, UserMount, sha256, wait_until

pytestmark = pytest.mark.fuse


def is_stale(path: Path) -> bool:
    try:
        os.listdir(path)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def test_a_killed_driver_leaves_a_stale_mount_that_the_next_one_cleans(
    mounted: UserMount, service: ServiceClient
) -> None:
    service.upload("a.txt", b"a")
    mounted.kill()
    assert wait_until(lambda: is_stale(mounted.path), 10, "the mount is stale")
    mounted.mount()
    assert (mounted.path / "artifacts" / "a.txt").read_bytes() == b"a"


def test_what_was_closed_before_a_kill_arrives_after_the_next_mount(
    mounted: UserMount, controller: LocalController, service: ServiceClient
) -> None:
    controller.stop()
    files = {f"file{index}": os.urandom(10_000 * index) for index in range(5)}
    for name, data in files.items():
        (mounted.path / "drop" / name).write_bytes(data)
    mounted.kill()
    controller.start()
    mounted.mount()
    mounted.settle()
    assert {one["filename"]: one["sha256"] for one in service.artifacts()} == {
        name: sha256(data) for name, data in files.items()
    }


def test_the_service_stopped_and_back(
    user: UserMount, controller: LocalController, service: ServiceClient
) -> None:
    user.settings = {
        "list.ttl": "0",
        "drop.linger": "0",
        "read.timeout": "2",
        "http.retry_for": "2",
        "http.connect_timeout": "1",
    }
    user.mount()
    cached, uncached = os.urandom(100_000), os.urandom(100_000)
    service.upload("cached.bin", cached)
    service.upload("uncached.bin", uncached)
    artifacts = user.path / "artifacts"
    assert (artifacts / "cached.bin").read_bytes() == cached
    controller.stop()
    started = time.monotonic()
    assert sorted(os.listdir(artifacts)) == ["cached.bin", "uncached.bin"]
    assert (artifacts / "cached.bin").read_bytes() == cached
    with pytest.raises(OSError) as caught:
        (artifacts / "uncached.bin").read_bytes()
    assert caught.value.errno in (errno.EHOSTUNREACH, errno.ETIMEDOUT)
    assert time.monotonic() - started < 20
    (user.path / "drop" / "kept.bin").write_bytes(b"kept")
    assert wait_until(lambda: user.status()["listing"]["stale"], 10)
    controller.start()
    assert wait_until(lambda: service.named("kept.bin"), 60)
    assert (artifacts / "uncached.bin").read_bytes() == uncached


def test_a_multipart_upload_resumes_where_the_kill_found_it(
    user: UserMount, controller: LocalController, service: ServiceClient, tmp_path: Path
) -> None:
    user.settings = {
        "list.ttl": "0",
        "drop.linger": "0",
        "upload.multipart_min": "5M",
        "upload.connections": "1",
        "upload.max_rate": "8M",
    }
    controller.stop()
    with (
        LocalController(tmp_path / "parts", part_size=5 << 20) as service_in_parts,
        FaultProxy(service_in_parts.url) as proxy,
    ):
        client = ServiceClient(service_in_parts.url, service_in_parts.token)
        user.url, user.token = proxy.url, service_in_parts.token
        user.mount()
        data = os.urandom(60 << 20)
        (user.path / "drop" / "big.bin").write_bytes(data)
        wait_until(
            lambda: user.uploads().get("big.bin", {}).get("progress", 0) > 0.3, 60, "a third"
        )
        user.kill()
        assert _parts_put(proxy) >= 3
        user.settings["upload.max_rate"] = "0"
        user.mount()
        user.settle()
        (found,) = client.artifacts()
        assert found["sha256"] == sha256(data)
        assert found["filename"] == "big.bin"
        parts = 12
        assert _parts_put(proxy) <= parts + 1, "parts already there were sent again"
        user.unmount()


def _parts_put(proxy: FaultProxy) -> int:
    return proxy.count("PUT", "/objects/parts/")


def read_exactly(file: RawIOBase, size_bytes: int) -> bytes:
    pieces = []
    while size_bytes > 0 and (piece := file.read(size_bytes)):
        pieces.append(piece)
        size_bytes -= len(piece)
    return b"".join(pieces)


def test_cached_grains_survive_a_kill_in_mid_download(
    user: UserMount, controller: LocalController, service: ServiceClient
) -> None:
    user.settings = {"list.ttl": "0", "read.window_max": "1M"}
    user.mount()
    data = os.urandom(40_000_000)
    service.upload("big.bin", data)
    path = user.path / "artifacts" / "big.bin"
    with path.open("rb", buffering=0) as file:
        assert read_exactly(file, 10_000_000) == data[:10_000_000]
        sidecar = (
            user.home / f".cache/artifactfs/v2/sha256/{sha256(data)[:2]}/{sha256(data)}.grains"
        )
        wait_until(sidecar.exists, 10, "what is cached is written down")
    user.kill()
    user.mount()
    assert path.read_bytes() == data
    assert user.status()["cache"]["fetched_bytes"] < len(data)


def test_the_service_killed_in_mid_upload(
    mounted: UserMount, controller: LocalController, service: ServiceClient
) -> None:
    files = {f"part{index}": os.urandom(3_000_000) for index in range(8)}
    for name, data in files.items():
        (mounted.path / "drop" / name).write_bytes(data)
    controller.kill()
    controller.start()
    mounted.settle()
    assert {one["filename"]: one["sha256"] for one in service.artifacts()} == {
        name: sha256(data) for name, data in files.items()
    }
    assert requests.get(f"{controller.url}/health", timeout=5).ok
