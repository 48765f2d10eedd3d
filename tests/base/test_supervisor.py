"""What a service manager hears, on a real datagram socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.config import load
from artifactfs.systemd import (
    NOBODY,
    SystemdNotifier,
    SystemdSession,
    systemd_notifier,
)


class Manager:
    """Listens as systemd does."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(30)

    def hears(self) -> list[str]:
        return self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    listening = Manager(tmp_path / "notify")
    yield listening
    listening.close()


def test_it_hears_that_the_mount_is_there_lives_and_ends(manager: Manager) -> None:
    beats = iter(("3 artifacts", "4 artifacts", *("5 artifacts" for _ in range(1000))))
    watch = SystemdSession(SystemdNotifier(manager.path, 0.04), lambda: True, lambda: next(beats))
    watch.ready()
    assert manager.hears() == ["READY=1", "STATUS=3 artifacts", "WATCHDOG=1"]
    assert manager.hears() == ["STATUS=4 artifacts", "WATCHDOG=1"]
    watch.stopping("2 files are still being uploaded", 300)
    heard = manager.hears()
    while heard[0].startswith("STATUS"):
        heard = manager.hears()
    assert heard == [
        "STOPPING=1",
        "STATUS=2 files are still being uploaded",
        "EXTEND_TIMEOUT_USEC=300000000",
    ]
    watch.close()


def test_a_mount_that_does_not_answer_is_not_said_to_live(manager: Manager) -> None:
    watch = SystemdSession(SystemdNotifier(manager.path, 0.04), lambda: False, lambda: "well")
    watch.ready()
    assert "READY=1" in manager.hears()
    for _ in range(3):
        assert manager.hears() == ["STATUS=the mount does not answer"]
    watch.close()


def test_nobody_who_listens_is_no_trouble_and_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    watch = SystemdSession(NOBODY, lambda: True, lambda: "well")
    watch.ready()
    assert threading.active_count() == before
    watch.stopping("unmounted", 1)
    watch.close()
    SystemdNotifier(str(tmp_path / "nobody")).tell("READY=1")


def test_an_abstract_address_is_reached() -> None:
    name = f"artifactfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.settimeout(30)
        SystemdNotifier("@" + name).tell("READY=1")
        assert listening.recv(100) == b"READY=1"


def test_the_environment_says_who_listens_and_how_often() -> None:
    said = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "1500000", "JOURNAL_STREAM": "1:2"}
    assert systemd_notifier(said, 7) == SystemdNotifier("/run/n", 1.5, "1:2")
    assert systemd_notifier({**said, "WATCHDOG_PID": "7"}, 7).watchdog_s == 1.5
    assert systemd_notifier({**said, "WATCHDOG_PID": "8"}, 7).watchdog_s is None
    nonsense = {"NOTIFY_SOCKET": "vsock:1", "WATCHDOG_USEC": "soon"}
    assert systemd_notifier(nonsense, 7) == NOBODY
    assert load(environ=said, files=()).supervisor.notify_socket == "/run/n"


def test_a_stream_that_leads_to_the_journal_is_known_by_its_inode(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        journal = f"{found.st_dev}:{found.st_ino}"
        assert SystemdNotifier(journal=journal).reads(stream)
        assert not SystemdNotifier(journal="0:0").reads(stream)
        assert not NOBODY.reads(stream)
    assert not SystemdNotifier(journal=journal).reads(stream)  # closed
