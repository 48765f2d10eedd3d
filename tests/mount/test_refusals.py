"""What goes wrong before a mount: one clear line, a status other than 0, nothing half-mounted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .conftest import UserMount

pytestmark = pytest.mark.fuse


def refused(user: UserMount, *words: str | Path, say: str, **environment: str) -> None:
    done = user.command("mount", *words, check=False, environment=environment)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert say.lower() in lines[0].lower(), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert str(user.path) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def target(user: UserMount) -> Path:
    user.path.mkdir()
    return user.path


def test_a_wrong_token(user: UserMount, target: Path) -> None:
    refused(user, target, say="token", ARTIFACTFS_TOKEN="flk_wrong")


def test_no_token(user: UserMount, target: Path) -> None:
    refused(user, target, say="ARTIFACTFS_TOKEN", ARTIFACTFS_TOKEN="")


def test_a_url_that_nobody_answers(user: UserMount, target: Path) -> None:
    refused(user, target, "--url", "http://127.0.0.1:9", say="127.0.0.1:9")


def test_a_mount_point_that_is_not_empty(user: UserMount, target: Path) -> None:
    (target / "file").write_text("mine")
    refused(user, target, say="not empty")
    assert (target / "file").read_text() == "mine"


def test_a_mount_point_that_is_a_file(user: UserMount) -> None:
    path = user.home / "file"
    path.write_text("mine")
    refused(user, path, say="not a directory")


def test_a_mount_point_that_is_mounted_already(user: UserMount) -> None:
    user.mount()
    done = user.command("mount", user.path, check=False)
    assert done.returncode != 0
    assert "mounted already" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "artifacts" in os.listdir(user.path)


def test_a_cache_directory_that_cannot_be_written(user: UserMount, target: Path) -> None:
    blocked = user.home / "blocked"
    blocked.write_text("a file where a directory should be")
    refused(user, "--cache-dir", blocked / "cache", target, say="cache")


def test_an_unknown_option(user: UserMount, target: Path) -> None:
    refused(user, "-o", "cache.siz=1G", target, say="cache.siz")


def without(user: UserMount, what: str) -> subprocess.CompletedProcess[str]:
    """Mount in a mount namespace of its own in which `what` is covered."""
    import sys

    return subprocess.run(
        [
            "unshare", "--mount", "sh", "-c",
            f'{what}; exec "$0" -m artifactfs mount "$1"', sys.executable, str(user.path),
        ],
        env=user.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.skipif(os.getuid() != 0, reason="only root covers a device in a namespace")
def test_no_fuse_device(user: UserMount, target: Path) -> None:
    done = without(
        user,
        "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod /dev/urandom c 1 9",
    )
    assert done.returncode != 0
    assert "/dev/fuse" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_no_libfuse(user: UserMount, target: Path, binding: str) -> None:
    if binding == "native":
        return  # it needs none
    done = user.command(
        "mount", target, check=False, environment={"FUSE_LIBRARY_PATH": "/nowhere/libfuse.so"}
    )
    assert done.returncode != 0
    assert "libfuse" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
