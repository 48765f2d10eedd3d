"""stress-ng and fio loose on a mount: the errors are those of a file system, the driver stays well.

What stress-ng leaves behind for a moment (a name that it created and closed, and removes later) may
be uploaded or not; whatever happens, nothing of it stays pending.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ServiceClient, UserMount, sha256, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

STRESS_S = 4
SOME_MB = "4m"

NAMES = (
    "--access 1 --chdir 1 --chdir-dirs 100 --chmod 1 --dentry 1 --dentries 100 --dir 1 "
    "--dir-dirs 100 --dirdeep 1 --dirdeep-inodes 200 --dirmany 1 --filename 1 --mknod 1 --rename 1 "
    "--touch 1 --utime 1"
)
BYTES = (
    f"--copy-file 1 --copy-file-bytes 128m --fallocate 1 --fallocate-bytes {SOME_MB} --fpunch 1 "
    f"--fsize 1 --hdd 1 --hdd-bytes {SOME_MB} --iomix 1 --iomix-bytes {SOME_MB} --mmap 1 "
    f"--mmap-file --mmap-bytes {SOME_MB} --readahead 1 --readahead-bytes {SOME_MB} --seek 1 "
    f"--seek-size {SOME_MB} --sendfile 1 --sync-file 1 --sync-file-bytes {SOME_MB}"
)
LOOKS_AND_LOCKS = (
    "--fcntl 1 --flock 1 --fstat 1 --getdent 1 --locka 1 --lockf 1 --open 1 --open-max 200"
)


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def stress(directory: Path, words: str) -> subprocess.CompletedProcess[str]:
    """Run stressors side by side in `directory`, each for `STRESS_S` seconds."""
    return subprocess.run(
        [
            program("stress-ng"), *words.split(), "--timeout", str(STRESS_S), "--verify",
            "--no-rand-seed", "--temp-path", directory,
        ],
        cwd=directory.parent.parent, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def troubles(log: str) -> list[str]:
    """What is wrong by the log, but for what stressors ask for that a spool does not give.

    A sparse file larger than the disk is refused (ENOSPC), and so is opening a removed file anew by
    way of /proc (ESTALE). Some stressors end their children by a signal while they have files open.
    """
    asked_for = ("[ENOSPC]", "[ESTALE]", "its writer was killed before it closed the file")
    lines = [line for line in log.splitlines() if " ERROR " in line or " WARNING " in line]
    return [line for line in lines if not line.endswith(asked_for)]


@pytest.fixture
def well(mounted: UserMount, service: ServiceClient) -> Callable[[], None]:
    """Says whether the driver that was there before is still there, and does everything."""
    data = os.urandom(300_000)
    service.upload("kept.bin", data)
    pid = mounted.pid

    def check() -> None:
        assert mounted.pid == pid
        assert (mounted.path / "artifacts" / "kept.bin").read_bytes() == data
        assert "kept.bin" in os.listdir(mounted.path / "artifacts")
        (mounted.path / "drop" / "after.bin").write_bytes(data[:1000])
        mounted.settle()
        assert [one["sha256"] for one in service.named("after.bin")] == [sha256(data[:1000])]
        wait_until(lambda: os.listdir(mounted.path / "drop") == [], 10, "drop/ is empty")
        uploads = mounted.status()["uploads"]
        assert not any(uploads.values()), uploads
        assert "Traceback" not in mounted.log()
        assert not troubles(mounted.log()), mounted.log()

    return check


@pytest.mark.parametrize("words", [NAMES, BYTES, LOOKS_AND_LOCKS], ids=["names", "bytes", "looks"])
def test_stressors_find_a_file_system_in_drop(
    mounted: UserMount, well: Callable[[], None], words: str
) -> None:
    done = stress(mounted.path / "drop", words)
    assert done.returncode == 0, done.stdout + done.stderr
    well()


def test_stressors_that_look_find_one_in_what_is_read_only(
    mounted: UserMount, well: Callable[[], None], service: ServiceClient
) -> None:
    for number in range(20):
        service.upload(f"some/{number}.bin", bytes(number))
    artifacts = mounted.path / "artifacts"
    for directory in (artifacts, artifacts / "some", mounted.path / "by-id"):
        done = stress(mounted.path / "drop", f"--fstat 2 --fstat-dir {directory}")
        assert done.returncode == 0, done.stdout + done.stderr
    well()


def test_stressors_that_write_are_refused_by_what_is_read_only(
    mounted: UserMount, well: Callable[[], None]
) -> None:
    for directory in ("artifacts", "by-id", "by-sha256", ".artifactfs", "."):
        done = stress(mounted.path / directory, NAMES)
        assert done.returncode == 1
        assert "must be readable and writeable" in done.stdout + done.stderr
    well()


FIO = {
    "in order": "--rw=write --bs=128k",
    "out of order": "--rw=randwrite --bs=4k",
    "read in between": "--rw=randwrite --bs=16k --verify_backlog=64",
    "mapped": "--rw=randwrite --bs=4k --ioengine=mmap",
    "past the page cache": "--rw=randwrite --bs=64k --direct=1 --ioengine=libaio --iodepth=8",
}


def fio(*words: object) -> None:
    done = subprocess.run(
        [
            program("fio"), "--name=verified", "--size=8m", "--verify=crc32c", "--verify_fatal=1",
            "--verify_state_save=0", *map(str, words),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("way", FIO)
def test_fio_finds_again_what_it_wrote(
    mounted: UserMount, service: ServiceClient, way: str
) -> None:
    # fio closes the file once it has made room for it: under a temporary name that uploads nothing.
    written = mounted.path / "drop" / "verified.part"
    block = FIO[way].split("--bs=")[1].split()[0]
    fio(*FIO[way].split(), f"--filename={written}", "--end_fsync=1")
    written.rename(written.with_suffix(".bin"))
    mounted.settle()
    (artifact,) = service.named("verified.bin")
    assert artifact["sha256"] == sha256(service.content(artifact["id"]))
    for directory in ("artifacts", "by-id"):
        name = "verified.bin" if directory == "artifacts" else artifact["id"]
        fio(
            "--rw=read",
            f"--bs={block}",
            "--readonly",
            f"--filename={mounted.path / directory / name}",
        )
    assert "Traceback" not in mounted.log()
