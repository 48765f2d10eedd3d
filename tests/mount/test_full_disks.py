"""Disks that are full: a clear word at the mount, ENOSPC at the write, reading without caching."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from io import RawIOBase
from pathlib import Path

import pytest

from artifactfs.server.testing import LocalController

from .conftest import ServiceClient, UserMount, sha256, wait_until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.getuid() != 0, reason="only root makes a small disk"),
]


@pytest.fixture
def binding() -> str:
    return "native"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC


def fill_by(file: RawIOBase) -> None:
    with pytest.raises(OSError, match="No space left"):
        for _ in range(100):
            file.write(bytes(100_000))


def take_inodes(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=16", disk], check=True)
    with pytest.raises(OSError, match="No space left"):
        for number in range(100):
            (disk / f"filler-{number}").touch()


def write_protect(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


def give_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw,nr_inodes=1000", disk], check=True)
    for path in disk.glob("filler*"):
        path.unlink()


@pytest.mark.parametrize("spoil", [fill, take_inodes, write_protect])
@pytest.mark.parametrize("was_used", [False, True])
def test_a_cache_disk_that_takes_nothing_does_not_keep_a_mount_from_starting(
    user: UserMount,
    service: ServiceClient,
    small_disk: Path,
    spoil: Callable[[Path], None],
    was_used: bool,
) -> None:
    cache = small_disk / "cache"
    user.settings = {"list.ttl": "0", "drop.linger": "0", "cache.dir": str(cache)}
    user.settings |= {"cache.min_free": "0"}
    known, other = os.urandom(300_000), os.urandom(700_000)
    service.upload("known.bin", known)
    service.upload("other.bin", other)
    if was_used:
        user.mount()
        assert (user.path / "artifacts" / "known.bin").read_bytes() == known
        user.unmount()
    spoil(small_disk)
    user.mount()
    for _ in range(2):
        assert (user.path / "artifacts" / "known.bin").read_bytes() == known
        assert (user.path / "artifacts" / "other.bin").read_bytes() == other
    (user.path / "drop" / "new.bin").write_bytes(b"new")
    user.settle()
    assert (user.path / "artifacts" / "new.bin").read_bytes() == b"new"
    assert os.listdir(user.path / "jobs") == []
    warnings = [line for line in user.log().splitlines() if "cache directory" in line]
    assert len(warnings) == 1, user.log()
    assert "cache.dir" in warnings[0]
    assert str(cache) in warnings[0]
    give_room(small_disk)

    late = os.urandom(800_000)
    service.upload("late.bin", late)
    assert (user.path / "artifacts" / "late.bin").read_bytes() == late

    def is_on_disk() -> bool:
        blocks = [path.stat().st_blocks for path in cache.rglob("*") if path.is_file()]
        return max(blocks, default=0) * 512 >= len(late)

    wait_until(is_on_disk)
    assert cache.stat().st_mode & 0o077 == 0


def test_a_cache_directory_in_whose_place_a_file_is_stays_an_error(
    user: UserMount, small_disk: Path
) -> None:
    (small_disk / "file").touch()
    user.path.mkdir()
    done = user.command("mount", "-o", f"cache.dir={small_disk}/file", user.path, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "--cache-dir" in done.stderr
    assert str(user.path) not in Path("/proc/self/mountinfo").read_text()


def mount_and_hear(user: UserMount) -> str:
    """Mount; what the command writes to standard error."""
    user.path.mkdir(exist_ok=True)
    options = ",".join(f"{key}={value}" for key, value in user.settings.items())
    return user.command("mount", "-o", options, user.path).stderr


@pytest.mark.parametrize("spoil", [fill, take_inodes, write_protect])
@pytest.mark.parametrize("was_used", ["new", "unmounted", "killed"])
@pytest.mark.parametrize("shared", [False, True], ids=["state alone", "state and cache"])
def test_a_state_disk_that_takes_nothing_does_not_keep_a_mount_from_starting(
    user: UserMount,
    controller: LocalController,
    service: ServiceClient,
    small_disk: Path,
    spoil: Callable[[Path], None],
    was_used: str,
    shared: bool,
) -> None:
    user.settings = {"list.ttl": "0", "drop.linger": "0", "state.dir": f"{small_disk}/state"}
    user.settings |= {"unmount.timeout": "0"}
    if shared:
        user.settings |= {"cache.dir": f"{small_disk}/cache", "cache.min_free": "0"}
    service.upload("known.bin", b"known")
    drop = user.path / "drop"
    if was_used != "new":
        user.mount()
        controller.stop()
        (drop / "folder").mkdir()
        (drop / "folder" / "waiting.bin").write_bytes(b"waiting")
        if was_used == "unmounted":
            user.command("unmount", "--timeout", "0", user.path, check=False)
        else:
            user.kill()
        for ballast in small_disk.rglob("ballast"):
            ballast.unlink()
    controller.start()
    spoil(small_disk)
    said = mount_and_hear(user)
    assert (user.path / "artifacts" / "known.bin").read_bytes() == b"known"
    number = errno.EROFS if spoil is write_protect else errno.ENOSPC
    if user.status()["uploads"]["error"]:
        warnings = [line for line in said.splitlines() if "spool" in line]
        assert len(warnings) == 1, said
        assert "state.dir" in warnings[0]
        assert str(small_disk) in warnings[0]
        expected = {"folder"} if was_used != "new" else set()
        assert set(os.listdir(drop)) == expected
        for change in (
            lambda: (drop / "new.bin").write_bytes(b"new"),
            lambda: (drop / "new").mkdir(),
        ):
            with pytest.raises(OSError) as raised:
                change()
            assert raised.value.errno == number
        if was_used != "new":
            assert (drop / "folder" / "waiting.bin").stat().st_size == len(b"waiting")
            with pytest.raises(OSError) as raised:
                (drop / "folder" / "waiting.bin").unlink()
            assert raised.value.errno == number
            done = user.command("flush", user.path, check=False)
            assert done.returncode == 3
            assert "spool" in done.stderr
    else:  # a used journal still takes what it has to
        assert spoil is not write_protect
        assert was_used != "new"
        with pytest.raises(OSError, match="No space left"):
            (drop / "new.bin").write_bytes(bytes(4_000_000))
        (drop / "new.bin").unlink(missing_ok=True)
    give_room(small_disk)
    wait_until(lambda: user.status()["uploads"]["error"] is None)
    if was_used != "new":
        wait_until(lambda: service.named("folder/waiting.bin"), 30)
    (drop / "late.bin").write_bytes(b"late")
    user.settle()
    (found,) = service.named("late.bin")
    assert found["sha256"] == sha256(b"late")
    assert len(service.artifacts()) == (2 if was_used == "new" else 3)


def test_a_mount_without_its_spool_ends_without_waiting(
    user: UserMount, controller: LocalController, service: ServiceClient, small_disk: Path
) -> None:
    user.settings = {"list.ttl": "0", "state.dir": f"{small_disk}/state"}
    user.mount()
    controller.stop()
    (user.path / "drop" / "waiting.bin").write_bytes(b"waiting")
    user.kill()
    controller.start()
    write_protect(small_disk)
    user.mount()
    assert os.listdir(user.path / "drop") == ["waiting.bin"]
    done = user.command("unmount", user.path, check=False)
    assert done.returncode == 3
    assert "waiting.bin is not uploaded" in done.stderr
    give_room(small_disk)
    user.mount()
    wait_until(lambda: service.named("waiting.bin"), 30)
    (found,) = service.artifacts()
    assert found["sha256"] == sha256(b"waiting")


def test_a_cache_disk_that_fills_up_is_read_past(
    user: UserMount, service: ServiceClient, small_disk: Path
) -> None:
    user.settings = {"list.ttl": "0", "cache.dir": f"{small_disk}/cache", "cache.min_free": "0"}
    user.mount()
    data = os.urandom(6_000_000)
    service.upload("big.bin", data)
    path = user.path / "artifacts" / "big.bin"
    assert path.read_bytes() == data
    with path.open("rb") as file:
        file.seek(5_000_000)
        assert file.read(1000) == data[5_000_000:5_001_000]


def test_a_spool_disk_that_fills_up_refuses_the_write_and_keeps_what_was_closed(
    user: UserMount, service: ServiceClient, small_disk: Path
) -> None:
    user.settings = {"list.ttl": "0", "drop.linger": "0", "spool.dir": f"{small_disk}/spool"}
    user.mount()
    (user.path / "drop" / "first.bin").write_bytes(b"first")
    with (user.path / "drop" / "big.bin").open("wb", buffering=0) as file:
        fill_by(file)
        (user.path / "drop" / "big.bin").unlink()
    user.settle()
    (found,) = service.artifacts()
    assert found["sha256"] == sha256(b"first")


def test_a_disk_that_others_have_filled_does_not_keep_a_mount_from_starting(
    user: UserMount, controller: LocalController, service: ServiceClient, small_disk: Path
) -> None:
    user.settings = {"list.ttl": "0", "drop.linger": "0", "spool.dir": f"{small_disk}/spool"}
    user.mount()
    controller.stop()
    (user.path / "drop" / "waiting.bin").write_bytes(b"waiting")
    user.kill()
    fill(small_disk)
    controller.start()
    user.mount()
    wait_until(lambda: service.named("waiting.bin"), 30)
    (found,) = service.artifacts()
    assert found["sha256"] == sha256(b"waiting")
