"""What 100 000 artifacts cost the driver, and that it gives back what the kernel has forgotten.

The figures are printed: ``pytest -s tests/mount/test_memory.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs.server.testing import LocalController

from .conftest import UserMount, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

ARTIFACTS = {"native": 100_000, "fusepy": 30_000}
NAMES_EACH = 3  # its own, its id, its hash
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
DENTRIES_AND_INODES = "2\n"


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"{pid} has no memory")


def names_found(mount: UserMount) -> int:
    """``find MOUNT | wc -l``"""
    found = subprocess.run(["find", mount.path], stdout=subprocess.PIPE, check=True, timeout=120)
    return found.stdout.count(b"\n")


# What libfuse keeps of its table of paths is its own affair, and fusepy's binding remembers some.
MOST_KEPT = {"native": 1.2, "fusepy": 1.3}


@pytest.mark.skipif(not os.access(DROP_CACHES, os.W_OK), reason="only root drops caches")
def test_what_the_kernel_forgets_is_given_back(
    user: UserMount, controller: LocalController
) -> None:
    artifacts = ARTIFACTS[user.binding]
    controller.make_artifacts(artifacts, "file-{n}.bin")
    user.settings = {"list.ttl": "1h"}
    user.mount()
    wait_until(lambda: user.status()["listing"]["artifacts"] == artifacts, 60, "it is listed")
    pid = user.pid
    listed_mb = resident_mb(pid)
    assert len(os.listdir(user.path / "artifacts")) == artifacts
    before_mb = resident_mb(pid)
    for _ in range(2):
        assert names_found(user) > NAMES_EACH * artifacts
    found_mb = resident_mb(pid)
    os.sync()
    DROP_CACHES.write_text(DENTRIES_AND_INODES)
    if user.binding == "native":
        wait_until(lambda: user.status()["binding"]["inodes"] < 100, 30, "the kernel has forgotten")
    after_mb = resident_mb(pid)
    sys.stdout.write(
        f"\n{user.binding}: {listed_mb:.0f} MB with {artifacts:,} artifacts, {before_mb:.0f} after "
        f"ls, {found_mb:.0f} after find twice, {after_mb:.0f} when the kernel had forgotten\n"
    )
    assert after_mb <= MOST_KEPT[user.binding] * before_mb
