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


# Another process holds the same open file and ends in an ordinary way. Each program gets the path
# of its file and what to do in the process that is killed, as Python.
WORKER_DIES = """
import mmap, os, signal, sys, threading, time
path, work, after = sys.argv[1:4]
descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
os.write(descriptor, b"0" * 8192)
mapping = mmap.mmap(descriptor, 8192)
ready, told = os.pipe()
worker = os.fork()
if not worker:
    exec(work)
    os.write(told, b"x")
    time.sleep(60)
    os._exit(1)
os.read(ready, 1)
if "first" in after:
    os.close(descriptor)
    del mapping
os.kill(worker, signal.SIGKILL)
os.waitpid(worker, 0)
if "write" in after:
    os.write(descriptor, b"after")
if "map" in after:
    mapping[4096:4100] = b"page"
    mapping.flush()
"""
WRITES = "os.write(descriptor, b'half')"
OTHER_THREAD = (
    "threading.Thread(target=lambda: (os.write(descriptor, b'half'), os.write(told, b'x'),"
    " time.sleep(60))).start()\ntime.sleep(60)"
)
CUTS = "os.ftruncate(descriptor, 100)"


def run(program: str, path: Path, work: str, after: str = "") -> None:
    done = subprocess.run([sys.executable, "-c", program, path, work, after], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("work", "after"),
    [
        (WRITES, ""),
        (OTHER_THREAD, ""),
        (CUTS, ""),
        (WRITES, "map"),
        (WRITES, "close first"),
    ],
    ids=["writes", "writes by a thread", "cuts", "then pages are written back", "closed first"],
)
def test_the_half_of_a_killed_worker_is_not_uploaded_by_who_closes_after_it(
    mounted: UserMount, service: ServiceClient, work: str, after: str
) -> None:
    path = mounted.path / "drop" / "half"
    run(WORKER_DIES, path, work, after)
    stays_here(mounted, service, path)


@pytest.mark.parametrize(
    ("work", "after"),
    [(WRITES, "write"), (OTHER_THREAD, "write"), ("pass", ""), ("os.read(descriptor, 1)", "")],
    ids=["the other writes last", "after a thread", "it never wrote", "it only read"],
)
def test_a_killed_worker_that_did_not_write_last_changes_nothing(
    mounted: UserMount, service: ServiceClient, work: str, after: str
) -> None:
    run(WORKER_DIES, mounted.path / "drop" / "whole", work, after)
    mounted.settle()
    assert [one["filename"] for one in service.artifacts()] == ["whole"]


KILLED = f'"{sys.executable}" -c "import os; os.write(1, b\'half\'); os.kill(os.getpid(), 9)"'
SLOW = f'"{sys.executable}" -c "import os, time; os.write(1, b\'half\'); time.sleep(60)"'


def shell(line: str, path: Path) -> None:
    subprocess.run(["sh", "-c", line.replace("FILE", str(path))], check=False, timeout=60)


@pytest.mark.parametrize(
    "line",
    [
        f"timeout 1 {SLOW} > FILE",
        f"timeout -s KILL 1 {SLOW} > FILE",
        f"({KILLED} && echo done) > FILE",
        f"(echo begin; {KILLED}; true) > FILE",
        f"{{ {KILLED} & wait; }} > FILE",
        f"({KILLED}; sleep 0.1) > FILE",
        f"{KILLED} >> FILE",
    ],
)
def test_a_shell_that_closes_for_a_killed_program_uploads_nothing(
    mounted: UserMount, service: ServiceClient, line: str
) -> None:
    path = mounted.path / "drop" / "log"
    shell(line, path)
    stays_here(mounted, service, path)


@pytest.mark.parametrize(
    ("line", "content"),
    [
        (f"({KILLED}; echo done) > FILE", b"halfdone\n"),
        (f"({KILLED} || echo failed) > FILE", b"halffailed\n"),
        (f"({KILLED}; sh -c 'echo done') > FILE", b"halfdone\n"),
        (f"{KILLED} | dd of=FILE status=none", b"half"),
        (f"({KILLED} > /dev/null; echo done) > FILE", b"done\n"),
        ("(echo one; (echo two); sh -c 'echo three') > FILE", b"one\ntwo\nthree\n"),
    ],
)
def test_what_another_writes_after_a_killed_program_is_uploaded_once(
    mounted: UserMount, service: ServiceClient, line: str, content: bytes
) -> None:
    shell(line, mounted.path / "drop" / "both")
    mounted.settle()
    (found,) = service.artifacts()
    assert service.content(found["id"]) == content


# The program has only made the file, or emptied it: its bytes were in its own memory.
NOTHING_WRITTEN = """
import os, signal, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
if "moves it" in sys.argv:  # as dd and shells do
    os.dup2(descriptor, 1)
    os.close(descriptor)
if "child" in sys.argv:
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("words", [(), ("moves it",)], ids=["opened", "moved"])
@pytest.mark.parametrize("new", [True, False], ids=["new", "emptied"])
def test_a_file_that_a_killed_program_only_made_or_emptied_is_not_uploaded(
    mounted: UserMount, service: ServiceClient, words: tuple[str, ...], *, new: bool
) -> None:
    path = mounted.path / "drop" / "empty"
    if not new:
        mounted.settings = {"drop.linger": "60"}
        mounted.unmount()
        mounted.mount()
        path.write_bytes(b"before")
        mounted.settle()
    done = subprocess.run([sys.executable, "-c", NOTHING_WRITTEN, path, *words], check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: is_interrupted(path), 10, "it is interrupted")
    assert mounted.command("flush", mounted.path, check=False).returncode == 3
    assert len(service.artifacts()) == (0 if new else 1)


def test_an_empty_file_is_uploaded_if_the_killed_child_did_not_make_it(
    mounted: UserMount, service: ServiceClient
) -> None:
    path = mounted.path / "drop" / "empty"
    subprocess.run([sys.executable, "-c", NOTHING_WRITTEN, path, "child"], check=True)
    mounted.settle()
    (found,) = service.artifacts()
    assert service.content(found["id"]) == b""


# Python's own mappings keep a descriptor; a program in C closes it when it has mapped the file.
ONLY_MAPPED = """
import ctypes, os, signal, sys
SIZE = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
if not os.fstat(descriptor).st_size:
    os.ftruncate(descriptor, SIZE)
place = libc.mmap(None, SIZE, 3, 1, descriptor, 0)  # PROT_READ | PROT_WRITE, MAP_SHARED
os.close(descriptor)
ctypes.memset(place, 65, SIZE // 2)
if "killed" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
ctypes.memset(place, 65, SIZE)
"""


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ends"])
def test_a_program_killed_while_it_writes_to_a_mapping_alone_uploads_nothing(
    mounted: UserMount, service: ServiceClient, *, killed: bool
) -> None:
    path = mounted.path / "drop" / "mapped"
    words = ["killed"] if killed else []
    done = subprocess.run([sys.executable, "-c", ONLY_MAPPED, path, *words], check=False)
    assert done.returncode == (-signal.SIGKILL if killed else 0)
    if killed:
        stays_here(mounted, service, path)
        return
    mounted.settle()
    (found,) = service.artifacts()
    assert service.content(found["id"]) == b"A" * (1 << 20)


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ends"])
def test_a_program_killed_while_it_changes_a_closed_file_by_a_mapping_alone_uploads_nothing(
    mounted: UserMount, service: ServiceClient, *, killed: bool
) -> None:
    path = mounted.path / "drop" / "mapped.tmp"  # not uploaded before it has its name
    path.write_bytes(b"z" * (1 << 20))
    words = ["killed"] if killed else []
    subprocess.run([sys.executable, "-c", ONLY_MAPPED, path, *words], check=False)
    named = path.rename(path.with_suffix(""))
    if killed:
        stays_here(mounted, service, named)
        return
    mounted.settle()
    (found,) = service.artifacts()
    assert service.content(found["id"]) == b"A" * (1 << 20)


# Each program that this one starts closes the file as it is started: Python's files are O_CLOEXEC.
STARTS_OTHERS = """
import subprocess, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    for part in b"a", b"b", b"c":
        file.write(part)
        subprocess.run(["true"], check=True, close_fds=False)
        subprocess.run(["sh", "-c", "exec true"], check=True, close_fds=False)
"""


def test_a_program_that_starts_others_while_it_writes_is_not_kept_waiting(
    mounted: UserMount, service: ServiceClient
) -> None:
    path = mounted.path / "drop" / "started"
    subprocess.run([sys.executable, "-c", STARTS_OTHERS, path], check=True, timeout=60)
    mounted.settle()
    (found,) = service.artifacts()
    assert service.content(found["id"]) == b"abc"
