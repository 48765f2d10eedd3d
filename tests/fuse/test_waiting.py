"""Who waits holds up nobody else, and can be interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.fuse.memory_tree import BIG, FETCHED
from tests.fuse.mounted import Mount, wait_until

pytestmark = pytest.mark.fuse

PROMPTLY_S = 5.0


@contextmanager
def program(*command: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs meanwhile; killed at the end if it still does."""
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def everything_else_works(mount: Mount, folder: str = "drop") -> None:
    """Listing, stat, reading and writing answer promptly. From another process: it may hang.

    While something is made in a directory the kernel lets nothing else be made in that `folder`.
    """
    script = """
import os, sys
root, drop = sys.argv[1], f"{sys.argv[1]}/{sys.argv[2]}"
assert len(os.listdir(root + "/many")) == 1000
for name in os.listdir(root):
    os.stat(f"{root}/{name}")
os.statvfs(root)
assert open(root + "/fixed/hello.txt", "rb").read() == b"hello\\n"
assert len(open(root + "/fixed/big.bin", "rb").read()) > 4_000_000
with open(drop + "/meanwhile", "wb") as file:
    file.write(bytes(100_000))
os.rename(drop + "/meanwhile", drop + "/after")
os.unlink(drop + "/after")
"""
    command = [sys.executable, "-c", script, str(mount.path), folder]
    subprocess.run(command, check=True, timeout=PROMPTLY_S * 2)


def test_a_reader_that_waits_for_bytes_holds_up_nobody(mount: Mount) -> None:
    mount.hold("arrive", name="fetched.bin")
    with program("cat", mount / "fixed/fetched.bin") as reader:
        mount.wait_held("arrive")
        everything_else_works(mount)
        mount.let_go()
        assert reader.stdout is not None
        assert reader.stdout.read() == FETCHED
        assert reader.wait(PROMPTLY_S) == 0


@pytest.mark.parametrize(
    ("operation", "path", "command"),
    [
        ("read", "fixed/slow.txt", ("cat",)),
        ("open", "fixed/slow.txt", ("cat",)),
        ("look_up", "jobs/job-1", ("ls",)),
        ("freshen", "stale", ("ls",)),
        ("flush", "drop/there", ("dd", "if=/dev/null", "conv=notrunc", "of=")),
        ("write", "drop/there", ("dd", "if=/dev/zero", "count=1", "of=")),
        ("create", "drop/new", ("dd", "if=/dev/null", "of=")),
        ("set_xattr", "fixed/hello.txt", ("setfattr", "-n", "user.artifactfs.pin", "-v", "1")),
        ("make_directory", "drop/new", ("mkdir",)),
    ],
)
def test_whoever_waits_in_the_tree_holds_up_nobody(
    mount: Mount, operation: str, path: str, command: tuple[str, ...]
) -> None:
    (mount / "drop/there").write_bytes(b"there")
    os.mkdir(mount / "drop/other")
    mount.hold(operation, name=path.rpartition("/")[2])
    *words, last = command
    full = [*words, last + str(mount / path)] if last.endswith("=") else [*command, mount / path]
    with program(*full) as waiting:
        mount.wait_held(operation)
        everything_else_works(mount, "drop/other")
        assert waiting.poll() is None
        mount.let_go()
        assert waiting.wait(PROMPTLY_S) == 0


def test_thirty_waiting_readers_hold_up_nobody(mount: Mount) -> None:
    mount.hold("arrive", name="fetched.bin")
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                program("dd", f"if={mount / 'fixed/fetched.bin'}", "bs=1", "count=1", f"skip={at}")
            )
            for at in range(0, 30 * 30_000, 30_000)
        ]
        mount.wait_held("arrive")
        everything_else_works(mount)
        mount.let_go()
        for reader in readers:
            assert reader.wait(PROMPTLY_S) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_reader_that_waits_can_be_interrupted(mount: Mount, number: signal.Signals) -> None:
    mount.hold("arrive", name="fetched.bin")
    with program("cat", mount / "fixed/fetched.bin") as reader:
        mount.wait_held("arrive")
        reader.send_signal(number)
        assert reader.wait(PROMPTLY_S) == -number
    mount.let_go()
    assert (mount / "fixed/fetched.bin").read_bytes() == FETCHED
    everything_else_works(mount)


def test_a_signal_that_is_no_wish_to_stop_interrupts_nothing(mount: Mount) -> None:
    """A profiler's timer must not make reads fail that a local disk would carry out."""
    script = """
import os, signal, sys
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, True)
fd = os.open(sys.argv[1], os.O_RDONLY)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
sys.stdout.buffer.write(os.pread(fd, 1000, 0))
"""
    mount.hold("arrive", name="fetched.bin")
    with program(sys.executable, "-c", script, mount / "fixed/fetched.bin") as reader:
        mount.wait_held("arrive")
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(0.5)
        counts = mount.command("counts")
        mount.let_go()
        assert reader.stdout is not None
        assert reader.stdout.read() == FETCHED[:1000]
    assert counts["request"] <= 2


def test_a_writer_that_is_killed_has_its_file_released(mount: Mount) -> None:
    script = "import sys, time; file = open(sys.argv[1], 'wb'); file.write(b'x'); file.flush();"
    with program(sys.executable, "-c", script + "time.sleep(60)", mount / "drop/a") as writer:
        wait_until(lambda: os.path.exists(mount / "drop/a") and os.stat(mount / "drop/a").st_size)
        writer.kill()
        writer.wait(PROMPTLY_S)
    wait_until(lambda: mount.dropped()["a"]["handles"] == 0)
    assert mount.command("detail", operation="flush") == writer.pid


def test_a_page_fault_waits_too(mount: Mount) -> None:
    script = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sys.stdout.buffer.write(mapped[:])
"""
    mount.hold("arrive", name="fetched.bin")
    with program(sys.executable, "-c", script, mount / "fixed/fetched.bin") as reader:
        mount.wait_held("arrive")
        everything_else_works(mount)
        mount.let_go()
        assert reader.stdout is not None
        assert reader.stdout.read() == FETCHED


def test_an_evicted_page_is_asked_for_again(mount: Mount) -> None:
    path = mount / "fixed/big.bin"
    for _ in range(3):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read() == BIG
