"""Which signals free a caller whose request waits: those that end it, and no other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.memory_tree import FETCHED
from tests.fuse.mounted import Mount, wait_until

pytestmark = pytest.mark.fuse

PROMPTLY_S = 5.0

READING = "fd = os.open(path, os.O_RDONLY); result = len(os.pread(fd, 1000, 0))"
OPENING = "result = os.open(path, os.O_RDONLY) > 0"
LOOKING_UP = "result = os.stat(path).st_ino > 0"
WAITS = {
    "read": ("arrive", "fixed/fetched.bin", READING),
    "open": ("open", "fixed/slow.txt", OPENING),
    "look_up": ("look_up", "jobs/job-1", LOOKING_UP),
}
CALLER = """
import ctypes, os, signal, sys, threading
path, handled, threads = sys.argv[1], [int(n) for n in sys.argv[2].split()], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
ignored = HANDLER(lambda number: None)
libc.signal.argtypes = [ctypes.c_int, HANDLER]
for number in handled:
    libc.signal(number, ignored)  # of C: Python would call again what fails with EINTR
    libc.siginterrupt(number, 1)
signal.signal(signal.SIGINT, signal.SIG_DFL)
def act():
    global result
    ACT
if threads:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
else:
    act()
print("done", result)
"""


@contextlib.contextmanager
def caller(
    mount: Mount, wait: str, *, handled: tuple[int, ...] = (), threads: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A program that waits in the mount."""
    operation, path, act = WAITS[wait]
    mount.hold(operation, name=path.rpartition("/")[2])
    running = subprocess.Popen(
        [
            sys.executable, "-c", CALLER.replace("ACT", act), mount / path,
            " ".join(str(int(number)) for number in handled), str(int(threads)),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        mount.wait_held(operation)
        yield running
    finally:
        running.kill()
        mount.let_go()
        running.communicate()


def interrupts_seen(pid: int) -> bool:
    """Whether the process is past the part of its wait that any signal ends."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state in "DTt"


def ends_well(mount: Mount, running: subprocess.Popen[str]) -> None:
    mount.let_go()
    said, _ = running.communicate(timeout=PROMPTLY_S * 2)
    assert (running.returncode, said.split()[:1]) == (0, ["done"]), said


@pytest.mark.parametrize("threads", [False, True], ids=["", "threads"])
@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_stopped_caller_goes_on(
    mount: Mount, wait: str, number: signal.Signals, threads: bool
) -> None:
    with caller(mount, wait, threads=threads) as running:
        running.send_signal(number)
        wait_until(lambda: interrupts_seen(running.pid) or threads)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.4)
        running.send_signal(signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.2)
        ends_well(mount, running)


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize(
    "number",
    [signal.SIGCHLD, signal.SIGWINCH, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2,
     signal.SIGURG, signal.SIGPROF, signal.SIGCONT],
)  # fmt: skip
def test_a_handler_that_ends_nothing_makes_nothing_fail(
    mount: Mount, wait: str, number: signal.Signals
) -> None:
    with caller(mount, wait, handled=(number,)) as running:
        running.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.4)
        ends_well(mount, running)


@pytest.mark.parametrize("threads", [False, True], ids=["", "threads"])
@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGQUIT]
)
def test_a_signal_that_ends_a_program_ends_its_wait(
    mount: Mount, wait: str, number: signal.Signals, threads: bool
) -> None:
    with caller(mount, wait, threads=threads) as running:
        running.send_signal(number)
        assert running.wait(PROMPTLY_S) == -number


@pytest.mark.parametrize("wait", WAITS)
def test_a_stopped_caller_can_be_killed(mount: Mount, wait: str) -> None:
    """The kernel tells of no second signal."""
    with caller(mount, wait) as running:
        running.send_signal(signal.SIGSTOP)
        wait_until(lambda: interrupts_seen(running.pid))
        running.send_signal(signal.SIGKILL)
        assert running.wait(PROMPTLY_S) == -signal.SIGKILL


def test_after_all_that_the_file_is_read(mount: Mount) -> None:
    with caller(mount, "read") as running:
        running.kill()
        running.wait(PROMPTLY_S)
    assert os.stat(mount / "fixed/fetched.bin").st_size == len(FETCHED)
    assert (mount / "fixed/fetched.bin").read_bytes() == FETCHED
