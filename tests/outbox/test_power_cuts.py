"""The machine's crash, as well as can be done: the spool on a file system that is cut off.

The spool lies on an ext4 of its own in a loop device. At a random moment of a running workload it
ends in one of two ways: ext4 is told to stop at once without writing its log
(``EXT4_IOC_SHUTDOWN``, what xfstests calls godown), so that all is lost that nobody has synced; or
its image is copied while the outbox is frozen. The outbox then starts from a copy of the image, and
must have all that was closed, and send nothing twice that had arrived before the crash.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from artifactfs.config import HttpConfig
from artifactfs.remote import Service
from artifactfs.server.testing import LocalController
from artifactfs.token import Secret, TokenSource
from tests.long import LONG
from tests.outbox.outbox_process import OutboxProcess, Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a loop device"),
]

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, fs/ext4/ext4.h
NO_LOG_FLUSH = 2
IMAGE_BYTES = 96 << 20
ROUNDS = 100 if LONG else 3
SIZES = (0, 1, 800, 3000, 50_000, 700_000)


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, at], check=True)
    try:
        yield at
    finally:
        if not _umount(at):
            subprocess.run(["umount", "-l", at], check=True)


def _umount(at: Path) -> bool:
    for _ in range(100):
        if subprocess.run(["umount", at], capture_output=True, check=False).returncode == 0:
            return True
        time.sleep(0.05)
    return False


def empty_image(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    return path


@dataclass
class Said:
    """What the outbox has answered. `closing` is noted before the close, `closed` after it."""

    closing: dict[str, str] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)


def work(outbox: OutboxProcess, said: Said, dice: random.Random) -> None:
    """Write files until the outbox does not answer any more."""
    number = 0
    with contextlib.suppress(Exception):  # the outbox is gone, or its disk is
        while True:
            number += 1
            name, data = f"{number}.bin", dice.randbytes(dice.choice(SIZES))
            first = f"{name}.tmp" if dice.random() < 0.3 else name
            file = outbox.call("create", first)
            if data:
                outbox.call("write", file, 0, data)
            said.closing[name] = hashlib.sha256(data).hexdigest()
            outbox.call("flush", file, os.getpid())
            outbox.call("release", file)
            if first != name:
                outbox.call("rename", first, name)
            said.closed.append(name)


def cut_off(disk: Path) -> None:
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(descriptor)


def crash(image: Path, disk: Path, outbox: OutboxProcess, copy: Path, *, godown: bool) -> None:
    if godown:
        cut_off(disk)
    else:
        os.kill(outbox.pid, signal.SIGSTOP)
        shutil.copyfile(image, copy)
    outbox.kill()


@pytest.mark.timeout(3600 if LONG else 300)
@pytest.mark.parametrize("godown", [True, False], ids=["cut off", "snapshot"])
def test_what_was_closed_survives_the_machine(tmp_path: Path, godown: bool) -> None:
    dice = random.Random(time.time_ns() if LONG else 5)
    with LocalController(tmp_path / "service", part_size=2000, no_sync=True) as controller:
        for number in range(ROUNDS):
            token = controller.add_token(account=f"round-{number}")
            _round(tmp_path, controller.url, token, dice, godown=godown)


def _round(tmp_path: Path, url: str, token: str, dice: random.Random, *, godown: bool) -> None:
    image, copy = empty_image(tmp_path / "image"), tmp_path / "copy"
    settings = Settings(tmp_path / "disk" / "spool", url, token)
    said = Said()
    with mounted(image, tmp_path / "disk") as disk:
        outbox = OutboxProcess(settings)
        worker = threading.Thread(target=work, args=(outbox, said, dice))
        worker.start()
        time.sleep(0.1 + dice.expovariate(3))
        closed = list(said.closed)
        crash(image, disk, outbox, copy, godown=godown)
        worker.join()
        if not godown:
            # What was answered between the look and the freeze counts as well, but need not.
            assert set(closed) <= set(said.closed)
    if godown:
        # Answers that came after the cut off were lies only if they came at all: they count.
        closed = list(said.closed)
        shutil.copyfile(image, copy)
    subprocess.run(["fsck.ext4", "-p", copy], check=False, capture_output=True)
    with mounted(copy, tmp_path / "disk"):
        again = OutboxProcess(settings)
        again.call("settle", [])
        left = {entry.path: entry for entry in again.call("entries")}
        again.close()
    _check(_listed(url, token), said, closed, left)
    image.unlink()
    copy.unlink()


def _listed(url: str, token: str) -> list[tuple[str, str | None]]:
    service = Service(url, TokenSource("test", value=Secret(token)), HttpConfig())
    try:
        return [(one.filename, one.sha256) for one in service.artifacts.list()]
    finally:
        service.close()


def _check(
    arrived: list[tuple[str, str | None]], said: Said, closed: list[str], left: dict[str, object]
) -> None:
    assert closed, "nothing was closed before the crash"
    counts = Counter(arrived)
    assert not [one for one, count in counts.items() if count > 1], "something arrived twice"
    lost = [name for name in closed if (name, said.closing[name]) not in counts]
    assert not lost, f"closed and not arrived: {[(name, left.get(name)) for name in lost]}"
    for name, digest in counts:
        assert said.closing.get(name) == digest, f"{name} was never closed as what has arrived"
