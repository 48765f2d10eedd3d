"""Programs that look for holes by ``st_blocks`` copy what is not on the local disk, too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.fuse.memory_tree import FETCHED
from tests.fuse.mounted import Mount

pytestmark = pytest.mark.fuse


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


def test_no_file_with_content_has_no_blocks(mount: Mount) -> None:
    (mount / "drop/dropped").write_bytes(b"dropped")
    with (mount / "drop/sparse").open("wb") as file:
        file.truncate(10_000_000)
    (mount / "drop/empty").touch()
    seen = 0
    for directory, _, names in os.walk(mount.path):
        for name in names:
            shown = os.lstat(os.path.join(directory, name))
            if os.path.islink(os.path.join(directory, name)):
                continue
            seen += 1
            assert bool(shown.st_blocks) == bool(shown.st_size), (directory, name, shown)
    assert seen > 1000


@pytest.mark.parametrize("tar", [["tar", "-S"], ["tar", "-S", "--hole-detection=raw"], ["tar"]])
def test_tar_of_what_is_not_cached_archives_it(
    mount: Mount, tmp_path: Path, tar: list[str]
) -> None:
    (mount / "drop/dropped").write_bytes(b"dropped" * 10_000)
    run(*tar, "-cf", tmp_path / "a.tar", "-C", mount.path, "fixed/fetched.bin", "drop/dropped")
    run("tar", "-xf", tmp_path / "a.tar", "-C", tmp_path)
    assert (tmp_path / "fixed/fetched.bin").read_bytes() == FETCHED
    assert (tmp_path / "drop/dropped").read_bytes() == b"dropped" * 10_000


@pytest.mark.parametrize("sparse", ["always", "auto", "never"])
def test_cp_copies_what_is_not_cached(mount: Mount, tmp_path: Path, sparse: str) -> None:
    run("cp", f"--sparse={sparse}", mount / "fixed/fetched.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == FETCHED


def test_du_knows_both_sizes(mount: Mount) -> None:
    path = mount / "fixed/fetched.bin"
    assert int(run("du", "--block-size=1", "--apparent-size", path).split()[0]) == len(FETCHED)
    assert int(run("du", "--block-size=1", path).split()[0]) > 0
