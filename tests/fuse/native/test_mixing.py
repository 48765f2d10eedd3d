"""Passthrough and page cache side by side, while files become complete and are evicted.

However that goes, no reader ever gets an error or a wrong byte. `ARTIFACTFS_STRESS_S` says how long
it is tried over the whole stack (``tests/mount/test_mixing.py``); over this tree it is a quarter of
that, and 5 seconds if it is not set.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.mounted import REPOSITORY, is_mounted

pytestmark = [pytest.mark.fuse]

READERS = 4
SECONDS = float(os.environ.get("ARTIFACTFS_STRESS_S", "20")) / 4


def part(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fuse.native.mixing", *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(SECONDS + 180)
def test_no_reader_ever_notices_how_a_file_is_read(tmp_path: Path) -> None:
    mountpoint, backing = tmp_path / "mnt", tmp_path / "backing"
    mountpoint.mkdir()
    backing.mkdir()
    driver = part("serve", mountpoint, backing)
    assert driver.stdout is not None
    try:
        assert driver.stdout.readline() == "ready\n"
        readers = [part("read", mountpoint, seed, SECONDS) for seed in range(READERS)]
        for reader in readers:
            said, troubles = reader.communicate(timeout=SECONDS + 60)
            assert reader.returncode == 0, troubles
            assert int(said) > SECONDS
        driver.send_signal(signal.SIGTERM)
        said, log = driver.communicate(timeout=60)
    finally:
        driver.kill()
        driver.communicate()
        if is_mounted(mountpoint):
            subprocess.run(["umount", "-l", mountpoint], check=False)
    assert driver.returncode == 0, log
    assert "Traceback" not in log
    facts = json.loads(said)
    assert (facts["open_files"], facts["passthrough_open"], facts["waiting"]) == (0, 0, 0)
