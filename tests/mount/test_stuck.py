"""A service that accepts and never answers holds up who waits for it, and nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.controller.testing import LocalController
from tests.faults import FaultProxy

from .conftest import ServiceClient, UserMount, wait_until

pytestmark = pytest.mark.fuse

STUCK_S = 10


class Stuck:
    """A mount with a cached file, and a reader who waits for one that never comes."""

    def __init__(self, user: UserMount, proxy: FaultProxy) -> None:
        self.user = user
        self.path = user.path
        self.reader = subprocess.Popen(
            ["cat", user.path / "artifacts" / "uncached.bin"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: proxy.count("GET", "/artifacts/art_") > 1, 10, "the reader waits")


@pytest.fixture
def stuck(user: UserMount, controller: LocalController, service: ServiceClient) -> Iterator[Stuck]:
    with FaultProxy(controller.url) as proxy:
        user.url = proxy.url
        user.settings = {"read.timeout": "60", "drop.linger": "0"}
        service.upload("cached.bin", b"cached" * 100_000)
        service.upload("uncached.bin", b"uncached" * 100_000)
        user.mount()
        assert (user.path / "artifacts" / "cached.bin").read_bytes() == b"cached" * 100_000
        (user.path / "artifacts" / "uncached.bin").stat()
        proxy.break_with(delay_s=600, times=100_000)
        made = Stuck(user, proxy)
        yield made
        made.reader.kill()
        user.command("unmount", "--force", user.path, check=False)
        made.reader.wait(STUCK_S)


def quick(*words: object) -> str:
    """What another process gets, and soon."""
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True, text=True, timeout=STUCK_S, check=True,
    ).stdout  # fmt: skip


def test_others_list_stat_read_and_drop_meanwhile(stuck: Stuck) -> None:
    assert quick("ls", stuck.path / "artifacts").split() == ["cached.bin", "uncached.bin"]
    quick("stat", stuck.path / "artifacts" / "uncached.bin")
    assert quick("cat", stuck.path / "artifacts" / "cached.bin").startswith("cached")
    quick("cp", "/etc/hostname", stuck.path / "drop" / "dropped")
    quick("sh", "-c", f"echo more > '{stuck.path}/drop/other'")
    assert '"pid"' in quick("cat", stuck.path / ".artifactfs" / "status.json")
    quick("ls", "-l", stuck.path.parent)
    assert stuck.reader.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_stuck_reader(stuck: Stuck, number: signal.Signals) -> None:
    stuck.reader.send_signal(number)
    assert stuck.reader.wait(STUCK_S) == -number


def test_many_stuck_readers_leave_room_for_others(stuck: Stuck) -> None:
    more = [
        subprocess.Popen(
            ["dd", f"if={stuck.path}/artifacts/uncached.bin", f"skip={n}", "bs=4k"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for n in range(60)
    ]  # fmt: skip
    try:
        quick("ls", stuck.path / "artifacts")
        assert quick("cat", stuck.path / "artifacts" / "cached.bin").startswith("cached")
        quick("cp", "/etc/hostname", stuck.path / "drop" / "dropped")
    finally:
        for process in more:
            process.kill()
        for process in more:
            process.wait(STUCK_S)


def test_after_a_forced_unmount_nobody_hangs(stuck: Stuck) -> None:
    stuck.user.command("unmount", "--force", stuck.path, timeout_s=20)
    assert stuck.reader.wait(STUCK_S) != 0
    assert os.listdir(stuck.path) == []
    assert str(stuck.path) not in Path("/proc/self/mountinfo").read_text()
