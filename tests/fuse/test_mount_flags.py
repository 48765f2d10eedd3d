"""``ro`` and ``noexec`` in the kernel's mount table, by each binding and each way to mount."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import StartMount
from tests.fuse.mounted import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.xdist_group("ordinary users")]

NOBODY = 65534
ALWAYS = {"nosuid", "nodev"}

if os.getuid() != 0:
    pytest.skip("only root can be somebody else", allow_module_level=True)


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A directory that every user can reach."""
    path = Path(tempfile.mkdtemp(prefix="artifactfs-flags-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def flags_of(mount: Mount) -> set[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        parts = line.split()
        if parts[4] == str(mount.path):
            return set(parts[5].split(","))
    raise AssertionError(f"{mount.path} is not mounted")


@pytest.mark.parametrize("user", [None, NOBODY], ids=["mount(2)", "fusermount"])
@pytest.mark.parametrize("noexec", [False, True])
@pytest.mark.parametrize("read_only", [False, True])
def test_the_mount_table_has_the_flags(
    open_device: None,
    everybodys: Path,
    start_mount: StartMount,
    *,
    user: int | None,
    read_only: bool,
    noexec: bool,
) -> None:
    mount = start_mount(directory=everybodys, user=user, read_only=read_only, noexec=noexec)
    flags = flags_of(mount)
    assert flags >= ALWAYS
    assert ("ro" in flags) is read_only
    assert ("rw" in flags) is not read_only
    assert ("noexec" in flags) is noexec
