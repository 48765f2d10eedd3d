"""``artifactfs status --watch`` on a terminal, while a mount uploads and downloads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from artifactfs.server.testing import LocalController

from .conftest import ServiceClient, UserMount, wait_until
from .terminal import Terminal

pytestmark = pytest.mark.fuse

SIZE_BYTES = 6_000_000


@pytest.fixture
def binding() -> str:
    return "native"


def watching(user: UserMount) -> Terminal:
    return Terminal(
        [sys.executable, "-m", "artifactfs", "status", "--watch", user.path], user.environment
    )


def test_an_upload_under_way_is_shown_with_name_part_and_rate_until_ctrl_c(
    user: UserMount,
) -> None:
    user.settings = {"upload.max_rate": "200k"}
    user.mount()
    (user.path / "drop" / "model.bin").write_bytes(os.urandom(SIZE_BYTES))
    (user.path / "drop" / "later.tmp").write_bytes(b"later")
    wait_until(lambda: user.uploads()["model.bin"]["progress"] > 0, what="it is under way")
    with watching(user) as terminal:
        row = terminal.wait_for(r"model\.bin +uploading +6\.0 MB +[━╸╺╸ ]+ (\d+)%")
        assert 0 < int(row[1]) < 100
        later = terminal.wait_for(rf"model\.bin +uploading +6\.0 MB +[━╸╺╸ ]+ (?!{row[1]}%)(\d+)%")
        assert int(row[1]) < int(later[1]) < 100
        terminal.wait_for(r"up [1-9]\d*\.\d kB/s")
        terminal.wait_for(r"uploads +1 file, 6\.0 MB pending")
        terminal.wait_for(r"later\.tmp +waits for its name +5 B")
        assert "\x1b[?25l" in terminal.written, "it is drawn in place"
        terminal.type("\x03")
        assert terminal.end() == 130
        assert terminal.is_as_before
        assert terminal.text.rstrip().endswith("artifactfs: interrupted")
        assert "Traceback" not in terminal.text
    user.command("unmount", "--force", user.path)


def test_a_download_under_way_is_shown_by_its_rate(
    user: UserMount, controller: LocalController, service: ServiceClient
) -> None:
    service.upload("big.bin", os.urandom(50_000_000))
    user.mount()
    with watching(user) as terminal:
        terminal.wait_for(r"down 0 B/s")
        reader = subprocess.Popen(
            ["cat", user.path / "artifacts" / "big.bin"], stdout=subprocess.DEVNULL
        )
        terminal.wait_for(r"down [1-9]\d*\.\d MB/s")
        terminal.wait_for(r"50\.0 MB fetched since the mount")
        assert reader.wait(60) == 0
        terminal.type("\x03")
        assert terminal.end() == 130
        assert terminal.is_as_before
