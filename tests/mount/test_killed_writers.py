"""Who is killed in mid-write has not closed his file; who ends in an ordinary way has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ServiceClient, UserMount, wait_until

pytestmark = pytest.mark.fuse

# Each program gets the paths of its files; "written" says that it may be killed now.
WAITS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
files = [open(path, "wb", buffering=0) for path in sys.argv[1:]]
for file in files:
    file.write(b"half")
print("written", flush=True)
time.sleep(60)
"""
THREADS_WAIT = """
import signal, sys, threading, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
file = open(sys.argv[1], "wb", buffering=0)
file.write(b"half")
for _ in range(8):
    threading.Thread(target=time.sleep, args=(60,)).start()
print("written", flush=True)
time.sleep(60)
"""
CHILD_DIES = """
import os, signal, sys, time
file = open(sys.argv[1], "wb", buffering=0)
file.write(b"before ")
child = os.fork()
if not child:
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
print("written", flush=True)
sys.stdin.readline()
if "write" in sys.argv:
    file.write(b"after")
file.close()
"""
THREADS_EXIT = """
import os, sys, threading, time
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(descriptor, b"whole")
for _ in range(8):
    threading.Thread(target=time.sleep, args=(60,)).start()
os._exit(int(sys.argv[2]))
"""


def start(program: str, *words: object) -> subprocess.Popen[bytes]:
    running = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"written\n"
    return running


def end(running: subprocess.Popen[bytes], number: signal.Signals) -> None:
    running.send_signal(number)
    assert running.wait(30) == -number
    for pipe in (running.stdin, running.stdout):
        if pipe is not None:
            pipe.close()


def is_interrupted(path: Path) -> bool:
    return os.getxattr(path, "user.artifactfs.state") == b"interrupted"


def stays_here(mounted: UserMount, service: ServiceClient, *paths: Path) -> None:
    for path in paths:
        wait_until(lambda path=path: is_interrupted(path), 10, f"{path.name} is interrupted")
    assert mounted.command("flush", mounted.path, check=False).returncode == 3
    assert service.artifacts() == []


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_program_ended_by_a_signal_uploads_none_of_its_files(
    mounted: UserMount, service: ServiceClient, number: signal.Signals
) -> None:
    paths = [mounted.path / "drop" / name for name in ("one", "two", "three")]
    end(start(WAITS, *paths), number)
    stays_here(mounted, service, *paths)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_program_of_many_threads_ended_by_a_signal_uploads_nothing(
    mounted: UserMount, service: ServiceClient, number: signal.Signals
) -> None:
    path = mounted.path / "drop" / "torso"
    end(start(THREADS_WAIT, path), number)
    stays_here(mounted, service, path)


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Path]:
    """A pipe that a copy never gets to the end of."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)
    os.write(descriptor, b"half")
    yield pipe
    os.close(descriptor)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_cp_ended_by_a_signal_uploads_nothing(
    mounted: UserMount, service: ServiceClient, endless: Path, number: signal.Signals
) -> None:
    path = mounted.path / "drop" / "copied"
    with subprocess.Popen(["cp", endless, path]) as copying:
        wait_until(lambda: path.exists() and path.stat().st_size == 4, 10, "it is copying")
        copying.send_signal(number)
    stays_here(mounted, service, path)


@pytest.mark.parametrize("write", [True, False], ids=["goes on", "closes"])
def test_a_child_that_dies_leaves_its_parents_file_alone(
    mounted: UserMount, service: ServiceClient, write: bool
) -> None:
    path = mounted.path / "drop" / "parents"
    running = start(CHILD_DIES, path, *(["write"] if write else []))
    assert service.artifacts() == []
    running.communicate(b"\n", timeout=30)
    assert running.returncode == 0
    mounted.settle()
    (found,) = service.artifacts()
    assert service.content(found["id"]) == (b"before after" if write else b"before ")


@pytest.mark.parametrize("code", [0, 3])
def test_an_ordinary_exit_closes_though_it_ends_other_threads(
    mounted: UserMount, service: ServiceClient, code: int
) -> None:
    path = mounted.path / "drop" / "whole"
    done = subprocess.run([sys.executable, "-c", THREADS_EXIT, path, str(code)], check=False)
    assert done.returncode == code
    mounted.settle()
    (found,) = service.artifacts()
    assert service.content(found["id"]) == b"whole"
