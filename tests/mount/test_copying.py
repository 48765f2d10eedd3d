"""Copies inside the mount, and room made beforehand: what arrives is right, whoever moved it."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
from pathlib import Path

import pytest

from .conftest import ServiceClient, UserMount, sha256, wait_until

pytestmark = pytest.mark.fuse

MB = 1 << 20

only_native = pytest.mark.parametrize("binding", ["native"])  # libfuse 2 knows neither call


@pytest.fixture
def cached(mounted: UserMount, service: ServiceClient) -> tuple[Path, bytes]:
    """An artifact that lies whole and verified in the cache, and its bytes."""
    data = os.urandom(MB) * 32
    service.upload("cached.bin", data)
    path = mounted.path / "artifacts" / "cached.bin"
    assert path.read_bytes() == data
    wait_until(lambda: mounted.status()["cache"]["verified_bytes"] >= len(data), 20, "verified")
    return path, data


def arrived(mounted: UserMount, service: ServiceClient, name: str, data: bytes) -> None:
    mounted.settle()
    (artifact,) = service.named(name)
    assert (artifact["size"], artifact["sha256"]) == (len(data), sha256(data))
    assert service.content(artifact["id"]) == data


def copy(source: int, target: int, size: int, start: int, offset: int) -> None:
    """copy_file_range(2), as often as it takes."""
    while size:
        count = os.copy_file_range(source, target, size, start, offset)
        assert count > 0
        size, start, offset = size - count, start + count, offset + count


def writes_of(pid: int) -> int:
    """How many system calls that write the driver has made."""
    counted = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(counted["syscw"])


def test_a_cached_artifact_is_copied_into_drop(
    mounted: UserMount, service: ServiceClient, cached: tuple[Path, bytes]
) -> None:
    path, data = cached
    drop = mounted.path / "drop"
    subprocess.run(["cp", path, drop / "first.part"], check=True)
    subprocess.run(["cp", drop / "first.part", drop / "second.bin"], check=True)
    (drop / "first.part").rename(drop / "first.bin")
    arrived(mounted, service, "first.bin", data)
    arrived(mounted, service, "second.bin", data)


@only_native
def test_its_bytes_do_not_pass_through_the_driver(
    mounted: UserMount, service: ServiceClient, cached: tuple[Path, bytes]
) -> None:
    path, data = cached
    pid = mounted.pid
    with path.open("rb") as source, (mounted.path / "drop" / "quick.bin").open("wb") as target:
        before = writes_of(pid)
        copy(source.fileno(), target.fileno(), len(data), 0, 0)
        assert writes_of(pid) - before < len(data) // MB
    arrived(mounted, service, "quick.bin", data)


def test_pieces_are_copied_between_what_is_written(
    mounted: UserMount, service: ServiceClient, cached: tuple[Path, bytes]
) -> None:
    path, data = cached
    with (
        path.open("rb") as source,
        (mounted.path / "drop" / "mixed.bin").open("wb", buffering=0) as target,
    ):
        target.write(b"head")
        copy(source.fileno(), target.fileno(), 3 * MB, 1000, 4)
        os.pwrite(target.fileno(), b"tail", 4 + 3 * MB)
        os.pwrite(target.fileno(), b"middle", 2 * MB)
        copy(source.fileno(), target.fileno(), 2, 0, 1)
    expected = bytearray(b"head" + data[1000 : 1000 + 3 * MB] + b"tail")
    expected[2 * MB : 2 * MB + 6] = b"middle"
    expected[1:3] = data[:2]
    arrived(mounted, service, "mixed.bin", bytes(expected))


def test_a_copy_ends_with_its_source(mounted: UserMount, cached: tuple[Path, bytes]) -> None:
    path, data = cached
    with path.open("rb") as source, (mounted.path / "drop" / "end.part").open("w+b") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), MB, len(data), 0) == 0
        assert os.copy_file_range(source.fileno(), target.fileno(), MB, len(data) - 10, 0) == 10
        assert target.read() == data[-10:]


def test_a_file_that_somebody_has_mapped_is_copied_as_he_sees_it(mounted: UserMount) -> None:
    drop = mounted.path / "drop"
    (drop / "mapped.part").write_bytes(bytes(MB))
    with (drop / "mapped.part").open("r+b") as source, (drop / "seen.part").open("w+b") as target:
        with mmap.mmap(source.fileno(), MB) as mapped:
            mapped[5000:5005] = b"fresh"
            copy(source.fileno(), target.fileno(), MB, 0, 0)
        assert target.read()[4999:5006] == b"\0fresh\0"


def test_an_uncached_artifact_is_copied_all_the_same(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = os.urandom(3 * MB)
    service.upload("far.bin", data)
    path = mounted.path / "artifacts" / "far.bin"
    with path.open("rb") as source, (mounted.path / "drop" / "near.bin").open("wb") as target:
        copy(source.fileno(), target.fileno(), len(data), 0, 0)
    arrived(mounted, service, "near.bin", data)


def test_a_copy_into_what_is_read_only_is_refused(
    mounted: UserMount, cached: tuple[Path, bytes]
) -> None:
    path, _ = cached
    with path.open("rb") as source, path.open("rb") as target:
        with pytest.raises(OSError) as refused:
            os.copy_file_range(source.fileno(), target.fileno(), 10, 0, 0)
        assert refused.value.errno == errno.EBADF


def fallocate(*words: object) -> None:
    subprocess.run(["fallocate", *map(str, words)], check=True, capture_output=True)


@only_native
def test_room_is_made_cleared_and_cut_out(mounted: UserMount, service: ServiceClient) -> None:
    path = mounted.path / "drop" / "room.part"
    data = os.urandom(MB)
    path.write_bytes(data)
    fallocate("--length", 2 * MB, path)
    fallocate("--keep-size", "--length", 3 * MB, path)
    assert path.stat().st_size == 2 * MB
    fallocate("--punch-hole", "--offset", 1000, "--length", 5000, path)
    fallocate("--zero-range", "--offset", 20_000, "--length", 100, path)
    expected = bytearray(data + bytes(MB))
    expected[1000:6000] = bytes(5000)
    expected[20_000:20_100] = bytes(100)
    assert path.read_bytes() == expected
    with pytest.raises(subprocess.CalledProcessError):
        fallocate("--collapse-range", "--length", 4096, path)
    path.rename(path.with_suffix(".bin"))
    arrived(mounted, service, "room.bin", bytes(expected))


def test_what_fills_room_that_was_made_beforehand_is_hashed(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = os.urandom(3 * MB)
    with (mounted.path / "drop" / "filled.bin").open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, len(data))
        file.write(data)
    arrived(mounted, service, "filled.bin", data)
