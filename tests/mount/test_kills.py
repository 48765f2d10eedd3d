"""kill -9 of the driver at random moments of a mixed workload, again and again.

Every file whose close has returned arrives exactly once with the right bytes; none whose close was
never called arrives. ``ARTIFACTFS_LONG=1`` kills two hundred times and writes up to 300 MB at once.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from artifactfs.server.testing import LocalController
from tests.long import LONG

from .conftest import ServiceClient, UserMount, alive, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

KILLS = 200 if LONG else 6
FILES = 200 if LONG else 40
SMALL = (0, 1, 10_000, 100_000, 900_000, 7_000_000)
SIZES = (*SMALL * 6, 60_000_000, 300_000_000) if LONG else SMALL
WRITER = Path(__file__).with_name("writer.py")


@dataclass
class Events:
    """What the writers have said."""

    closing: dict[str, str] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, logs: list[Path]) -> Events:
        found = cls()
        for log in logs:
            for line in log.read_text().splitlines():
                words = line.split()
                if words[0] == "closing":
                    found.closing[words[1]] = words[2]
                elif words[0] == "closed":
                    found.closed.add(words[1])
        return found


@pytest.fixture
def controller(tmp_path: Path):
    with LocalController(tmp_path / "service", part_size=5 << 20, no_sync=True) as running:
        yield running


@pytest.mark.timeout(7200 if LONG else 300)
def test_whatever_was_closed_arrives_once_after_any_number_of_kills(
    user: UserMount, service: ServiceClient, tmp_path: Path
) -> None:
    user.settings = {
        "list.ttl": "0",
        "cache.size": "1G",
        "drop.linger": "0",
        "upload.controller_max": "64K",
        "upload.multipart_min": "5M",
    }
    dice = random.Random(time.time_ns() if LONG else 7)
    user.mount()
    logs = [tmp_path / f"events-{number}" for number in range(2)]
    writers = [
        subprocess.Popen(
            [
                sys.executable, WRITER, user.path / "drop", log, str(number),
                ",".join(map(str, SIZES)), str(FILES // 2),
            ]
        )
        for number, log in enumerate(logs)
    ]  # fmt: skip
    try:
        for _ in range(KILLS):
            pid = user.pid
            time.sleep(dice.expovariate(1 / (1.0 if LONG else 0.4)))
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not alive(pid), 10, "the driver is dead")
            user.mount()
        for log in logs:
            log.with_name(log.name + ".stop").touch()
        for writer in writers:
            assert writer.wait(600) == 0
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    wait_until(lambda: not user.status()["uploads"]["pending_files"], 600, "all is uploaded")
    check(Events.of(logs), service, user)


def check(events: Events, service: ServiceClient, user: UserMount) -> None:
    assert len(events.closed) >= FILES // 2
    arrived = service.artifacts()
    counts = Counter(one["filename"] for one in arrived)
    twice = [name for name, count in counts.items() if count > 1]
    assert not twice, f"arrived more than once: {twice}"
    hashes = {one["filename"]: one["sha256"] for one in arrived}
    left = user.uploads()
    lost = [name for name in events.closed if name not in hashes]
    assert not lost, f"closed and not arrived: {[(name, left.get(name)) for name in lost]}"
    never = [name for name in hashes if name not in events.closing]
    assert not never, f"arrived and never closed: {never}"
    wrong = [name for name, digest in hashes.items() if events.closing[name] != digest]
    assert not wrong, f"arrived with other bytes: {wrong}"
    assert {one["state"] for one in left.values()} <= {"interrupted", "queued", "uploaded"}
