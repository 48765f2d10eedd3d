"""A service that accepts and never answers holds up who waits for it, and nobody else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy

from .conftest import ServiceClient, UserMount, wait_until

pytestmark = pytest.mark.fuse

STUCK_S = 10


READING = "import sys; open(sys.argv[1], 'rb').read()"
MAPPED = (
    "import mmap, sys\n"
    "with open(sys.argv[1], 'rb') as file:\n"
    "    print(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[70000])\n"
)


class Stuck:
    """A mount with a cached file, and a reader who waits for one that never comes."""

    def __init__(self, user: UserMount, proxy: FaultProxy, ids: dict[str, str]) -> None:
        self.user = user
        self.path = user.path
        self._proxy = proxy
        self._ids = ids
        self.uncached = user.path / "artifacts" / "uncached.bin"
        self.reader = read_by("cat", self.uncached)
        wait_until(lambda: self.is_asked_for("uncached"), 10, "the reader waits")

    def is_asked_for(self, name: str) -> bool:
        """Whether the driver has asked the service for these bytes."""
        return self._proxy.count("GET", self._ids[name]) > 0


def read_by(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip


def unkillable(path: Path) -> list[str]:
    """The processes with this path among their words that nothing can end now: state D."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if state == "D" and os.fsencode(path) in words:
                found.append(f"{process.name} {words!r}")
    return found


@pytest.fixture
def stuck(user: UserMount, controller: LocalController, service: ServiceClient) -> Iterator[Stuck]:
    with FaultProxy(controller.url) as proxy:
        user.url = proxy.url
        user.settings = {"read.timeout": "60", "drop.linger": "0"}
        ids = {
            name: service.upload(f"{name}.bin", name.encode() * 100_000)["id"]
            for name in ("cached", "uncached", "other")
        }
        user.mount()
        assert (user.path / "artifacts" / "cached.bin").read_bytes() == b"cached" * 100_000
        for path in (user.path / "artifacts").iterdir():
            path.stat()
        proxy.break_with(delay_s=600, times=100_000)
        made = Stuck(user, proxy, ids)
        yield made
        made.reader.kill()
        user.command("unmount", "--force", user.path, check=False)
        made.reader.communicate(timeout=STUCK_S)


def quick(*words: object) -> str:
    """What another process gets, and soon."""
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True, text=True, timeout=STUCK_S, check=True,
    ).stdout  # fmt: skip


def test_others_list_stat_read_and_drop_meanwhile(stuck: Stuck) -> None:
    assert quick("ls", stuck.path / "artifacts").split() == [
        "cached.bin", "other.bin", "uncached.bin"
    ]  # fmt: skip
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


def ends_by(number: signal.Signals, program: str, stuck: Stuck) -> None:
    """A Python program that gets stuck in other.bin ends by that signal, once it waits."""
    reader = read_by(sys.executable, "-c", program, stuck.path / "artifacts" / "other.bin")
    try:
        wait_until(lambda: stuck.is_asked_for("other"), 10, "it waits for its bytes")
        reader.send_signal(number)
        assert reader.wait(STUCK_S) == -number
    finally:
        reader.kill()
        reader.communicate()


def test_ctrl_c_ends_a_stuck_reader_who_handles_it(stuck: Stuck) -> None:
    """As Python does; the kernel interrupts no read of a page for that."""
    ends_by(signal.SIGINT, READING, stuck)


def test_a_signal_ends_a_reader_who_is_stuck_in_a_mapping(stuck: Stuck) -> None:
    """One without a handler: with one the processor tries the same instruction again after it."""
    ends_by(signal.SIGTERM, MAPPED, stuck)


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
    wait_until(lambda: not unkillable(stuck.path), STUCK_S, "nobody is in state D")


def test_a_killed_driver_frees_its_readers_and_can_be_mounted_again(
    stuck: Stuck, controller: LocalController
) -> None:
    stuck.user.kill()
    _, said = stuck.reader.communicate(timeout=STUCK_S)
    assert stuck.reader.returncode == 1
    assert "not connected" in said or "abort" in said, said
    assert not unkillable(stuck.path)
    stuck.user.url = controller.url
    stuck.user.mount()
    assert stuck.uncached.read_bytes() == b"uncached" * 100_000


def test_a_service_that_is_stopped_holds_up_nobody_else_and_may_go_on(
    user: UserMount, controller: LocalController, service: ServiceClient
) -> None:
    service.upload("cached.bin", b"cached" * 100_000)
    service.upload("uncached.bin", b"uncached" * 100_000)
    user.settings = {"read.timeout": "60", "list.ttl": "0"}
    user.mount()
    artifacts = user.path / "artifacts"
    assert (artifacts / "cached.bin").read_bytes() == b"cached" * 100_000
    assert controller.pid is not None
    os.kill(controller.pid, signal.SIGSTOP)
    try:
        reader = subprocess.Popen(["cat", artifacts / "uncached.bin"], stdout=subprocess.PIPE)
        assert quick("ls", artifacts).split() == ["cached.bin", "uncached.bin"]
        assert quick("cat", artifacts / "cached.bin").startswith("cached")
        quick("cp", "/etc/hostname", user.path / "drop" / "meanwhile")
        assert reader.poll() is None
    finally:
        os.kill(controller.pid, signal.SIGCONT)
    said, _ = reader.communicate(timeout=60)
    assert said == b"uncached" * 100_000
    user.settle()
    assert service.named("meanwhile")


def test_an_unmount_while_somebody_reads_is_refused_and_harms_nobody(
    mounted: UserMount, service: ServiceClient
) -> None:
    service.upload("open.bin", b"open" * 100_000)
    with (mounted.path / "artifacts" / "open.bin").open("rb", buffering=0) as file:
        assert file.read(4) == b"open"
        done = mounted.command("unmount", mounted.path, check=False)
        assert done.returncode == 1
        assert "in use" in done.stderr
        assert f"({os.getpid()})" in done.stderr
        assert file.read(4) == b"open"
        assert mounted.status()["listing"]["artifacts"] == 1
    mounted.unmount()


def test_a_second_mount_in_one_place_is_refused_and_harms_nobody(mounted: UserMount) -> None:
    done = mounted.command("mount", mounted.path, check=False)
    assert done.returncode == 1
    assert "mounted already" in done.stderr
    (mounted.path / "drop" / "still.part").write_bytes(b"well")
    assert (mounted.path / "drop" / "still.part").read_bytes() == b"well"


def test_a_directory_with_something_in_it_is_not_mounted_over(user: UserMount) -> None:
    user.path.mkdir()
    (user.path / "mine").write_text("mine")
    done = user.command("mount", user.path, check=False)
    assert done.returncode == 1
    assert "empty" in done.stderr
    assert (user.path / "mine").read_text() == "mine"
