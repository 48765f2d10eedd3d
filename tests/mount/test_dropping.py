"""What is copied into drop/ arrives once, under its name, with its hash."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from .conftest import ServiceClient, UserMount, sha256, wait_until

pytestmark = pytest.mark.fuse


def arrived(mounted: UserMount, service: ServiceClient, expected: dict[str, bytes]) -> None:
    """Everything expected is on the service, once, and nothing else is; drop/ is empty again."""
    mounted.settle()
    found = service.artifacts()
    assert sorted(one["filename"] for one in found) == sorted(expected)
    for one in found:
        data = expected[one["filename"]]
        assert one["sha256"] == sha256(data), one["filename"]
        assert one["size"] == len(data)
    wait_until(lambda: os.listdir(mounted.path / "drop") == [], 10, "drop/ is empty")
    for name, data in expected.items():
        assert (mounted.path / "artifacts" / name).read_bytes() == data


def run(*words: str | Path, **more: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, **more)  # type: ignore[call-overload]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "sub").mkdir(parents=True)
    (directory / "one.bin").write_bytes(os.urandom(100_000))
    (directory / "sub" / "two.bin").write_bytes(os.urandom(5_000))
    (directory / "sub" / "empty").write_bytes(b"")
    return directory


def contents(directory: Path, under: str = "") -> dict[str, bytes]:
    return {
        under + str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_cp(mounted: UserMount, service: ServiceClient, source: Path) -> None:
    run("cp", source / "one.bin", mounted.path / "drop")
    arrived(mounted, service, {"one.bin": (source / "one.bin").read_bytes()})


def test_cp_keeping_times_and_modes(
    mounted: UserMount, service: ServiceClient, source: Path
) -> None:
    run("cp", "-p", source / "one.bin", mounted.path / "drop")
    arrived(mounted, service, {"one.bin": (source / "one.bin").read_bytes()})


def test_cp_of_a_directory(mounted: UserMount, service: ServiceClient, source: Path) -> None:
    run("cp", "-r", source, mounted.path / "drop")
    arrived(mounted, service, contents(source, "source/"))


def test_mv_from_another_file_system(
    mounted: UserMount, service: ServiceClient, source: Path
) -> None:
    data = (source / "one.bin").read_bytes()
    run("mv", source / "one.bin", mounted.path / "drop")
    assert not (source / "one.bin").exists()
    arrived(mounted, service, {"one.bin": data})


def test_rsync(mounted: UserMount, service: ServiceClient, source: Path) -> None:
    run("rsync", "-a", f"{source}/", mounted.path / "drop")
    arrived(mounted, service, contents(source))


def test_tar(mounted: UserMount, service: ServiceClient, source: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(source, "packed")
    run("tar", "xf", tmp_path / "a.tar", "-C", mounted.path / "drop")
    arrived(mounted, service, contents(source, "packed/"))


def test_dd_with_fsync(mounted: UserMount, service: ServiceClient, source: Path) -> None:
    run(
        "dd", f"if={source / 'one.bin'}", f"of={mounted.path / 'drop' / 'dd.bin'}", "bs=7000",
        "conv=fsync",
    )  # fmt: skip
    arrived(mounted, service, {"dd.bin": (source / "one.bin").read_bytes()})


def test_install(mounted: UserMount, service: ServiceClient, source: Path) -> None:
    run("install", "-m", "600", source / "one.bin", mounted.path / "drop" / "installed.bin")
    arrived(mounted, service, {"installed.bin": (source / "one.bin").read_bytes()})


def test_shutil_copy2(mounted: UserMount, service: ServiceClient, source: Path) -> None:
    shutil.copy2(source / "one.bin", mounted.path / "drop")
    arrived(mounted, service, {"one.bin": (source / "one.bin").read_bytes()})


def test_shell_redirection_and_appending(mounted: UserMount, service: ServiceClient) -> None:
    target = mounted.path / "drop" / "redirected.tmp"
    run("sh", "-c", f"echo one > '{target}' && echo two >> '{target}'")
    run("mv", target, mounted.path / "drop" / "redirected.txt")
    arrived(mounted, service, {"redirected.txt": b"one\ntwo\n"})


OUT_OF_ORDER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.pwrite(descriptor, b"end", 100_000)
os.pwrite(descriptor, b"middle", 50_000)
os.pwrite(descriptor, b"start", 0)
os.ftruncate(descriptor, 200_000)
os.ftruncate(descriptor, 100_003)
assert os.pread(descriptor, 6, 50_000) == b"middle"
os.close(descriptor)
"""


def test_a_program_that_writes_out_of_order(mounted: UserMount, service: ServiceClient) -> None:
    run(sys.executable, "-c", OUT_OF_ORDER, mounted.path / "drop" / "scattered.bin")
    expected = bytearray(100_003)
    expected[0:5], expected[50_000:50_006], expected[100_000:] = b"start", b"middle", b"end"
    arrived(mounted, service, {"scattered.bin": bytes(expected)})


def test_who_has_a_file_mapped_sees_what_another_writes(mounted: UserMount) -> None:
    path = mounted.path / "drop" / "shared.tmp"
    path.write_bytes(b"a" * 300_000)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[150_000] == ord("a")
        with path.open("r+b", buffering=0) as other:
            descriptor = os.open(path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, b"b" * 100_000, 100_000)
            finally:
                os.close(descriptor)
            assert os.pread(other.fileno(), 2, 99_999) == b"ab"
        assert bytes(mapped[99_999:100_001]) == b"ab"
        assert mapped[150_000] == ord("b")


def test_programs_are_told_to_write_by_the_mebibyte(mounted: UserMount) -> None:
    path = mounted.path / "drop" / "unit.tmp"
    path.write_bytes(b"")
    assert path.stat().st_blksize == 1 << 20


@pytest.mark.parametrize("size", [0, 1, 5 << 20, (5 << 20) + 1, 12_000_000])
def test_sizes_around_a_part(
    user: UserMount, controller: object, service: ServiceClient, size: int
) -> None:
    user.settings = {
        "list.ttl": "0",
        "drop.linger": "0",
        "upload.controller_max": "1M",
        "upload.multipart_min": "5M",
    }
    user.mount()
    data = os.urandom(size)
    (user.path / "drop" / "sized.bin").write_bytes(data)
    arrived(user, service, {"sized.bin": data})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sparse_file_of_two_gigabytes(mounted: UserMount, service: ServiceClient) -> None:
    size = (2 << 30) + (1 << 20)
    target = mounted.path / "drop" / "sparse.bin"
    with target.open("wb") as file:
        file.seek(1 << 30)
        file.write(b"in the middle")
        file.truncate(size)
    mounted.settle(500)
    (found,) = service.artifacts()
    assert found["size"] == size
    with (mounted.path / "artifacts" / "sparse.bin").open("rb") as file:
        file.seek(1 << 30)
        assert file.read(16) == b"in the middle\0\0\0"
        file.seek(-10, os.SEEK_END)
        assert file.read() == bytes(10)


def test_a_temporary_name_waits_for_its_own(mounted: UserMount, service: ServiceClient) -> None:
    temporary = mounted.path / "drop" / ".model.bin.Ab3dEf"
    temporary.write_bytes(b"model")
    (mounted.path / "drop" / "other.bin").write_bytes(b"other")
    wait_until(lambda: service.named("other.bin"), 20)
    assert [one["filename"] for one in service.artifacts()] == ["other.bin"]
    temporary.rename(mounted.path / "drop" / "model.bin")
    arrived(mounted, service, {"model.bin": b"model", "other.bin": b"other"})


def test_a_killed_writer_uploads_nothing(mounted: UserMount, service: ServiceClient) -> None:
    target = mounted.path / "drop" / "torso.bin"
    code = (
        "import os, signal, sys\n"
        "file = open(sys.argv[1], 'wb', buffering=0)\n"
        "file.write(b'half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    wait_until(lambda: os.getxattr(target, "user.artifactfs.state") == b"interrupted", 10)
    assert target.read_bytes() == b"half"
    assert service.artifacts() == []
    assert mounted.command("flush", mounted.path, check=False).returncode == 3
    mounted.command("retry", target)
    arrived(mounted, service, {"torso.bin": b"half"})


def test_what_the_service_knows_is_not_sent_again(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = os.urandom(1_000_000)
    service.upload("known.bin", data)
    os.listdir(mounted.path / "artifacts")
    (mounted.path / "drop" / "known.bin").write_bytes(data)
    mounted.settle()
    assert len(service.named("known.bin")) == 2, "each closed file is an artifact of its own"
    line = (mounted.home / ".local/state/artifactfs/uploads.log").read_text()
    assert json.loads(line)["how"] == "exists"


def test_an_uploaded_file_is_read_without_a_download(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = os.urandom(2_000_000)
    (mounted.path / "drop" / "own.bin").write_bytes(data)
    mounted.settle()
    assert (mounted.path / "artifacts" / "own.bin").read_bytes() == data
    assert mounted.status()["cache"]["fetched_bytes"] == 0


def test_a_full_spool_refuses_the_write_and_keeps_what_was_closed(
    user: UserMount, service: ServiceClient
) -> None:
    user.settings = {"list.ttl": "0", "drop.linger": "0", "spool.max_size": "1M"}
    user.mount()
    (user.path / "drop" / "first.bin").write_bytes(b"first")
    target = user.path / "drop" / "big.bin"
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(OSError, match="No space left"):
            for _ in range(40):
                os.write(descriptor, bytes(100_000))
        target.unlink()
    finally:
        os.close(descriptor)
    arrived(user, service, {"first.bin": b"first"})


def test_close_waits_for_the_service_where_asked_to(
    user: UserMount, service: ServiceClient
) -> None:
    user.settings = {"drop.sync": "true"}
    user.mount()
    (user.path / "drop" / "now.bin").write_bytes(b"now")
    assert service.named("now.bin")


def test_flush_of_files_waits_for_those_alone(
    mounted: UserMount, service: ServiceClient, tmp_path: Path
) -> None:
    drop = mounted.path / "drop"
    (drop / "waits.tmp").write_bytes(b"temporary")
    (drop / "folder").mkdir()
    for name in ("one", "folder/two"):
        (drop / name).write_bytes(name.encode())
    mounted.command("flush", drop / "one")
    assert service.named("one")
    mounted.command("flush", drop / "folder")
    assert service.named("folder/two")
    mounted.command("flush", drop / "one", drop / "folder/two", drop / "never-there")
    done = mounted.command("flush", drop / "one", drop / "waits.tmp", check=False)
    assert done.returncode == 3
    assert "waits.tmp is not uploaded, it waits for its name" in done.stderr
    assert mounted.command("flush", mounted.path, check=False).returncode == 3
    assert mounted.command("flush", drop, check=False).returncode == 3
    assert mounted.command("flush", mounted.path / "artifacts/one", check=False).returncode == 1


@pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR], ids=["r", "w", "rw"])
def test_opening_with_o_trunc_empties_a_file_however_it_is_opened(
    mounted: UserMount, service: ServiceClient, mode: int
) -> None:
    path = mounted.path / "drop" / "emptied.tmp"  # not uploaded before it has its name
    path.write_bytes(b"before")
    os.close(os.open(path, mode | os.O_TRUNC))
    assert path.stat().st_size == 0
    assert path.read_bytes() == b""
    path.rename(path.with_suffix(""))
    mounted.settle()
    (found,) = service.named("emptied")
    assert service.content(found["id"]) == b""
