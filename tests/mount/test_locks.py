"""No operation for which the kernel holds a lock waits for the service.

Everything that can wait for the service does so here, all of it together and without end; meanwhile
every operation that takes the lock of a file or directory is carried out by another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy

from .conftest import ServiceClient, UserMount, alive, wait_until

pytestmark = pytest.mark.fuse

STUCK_S = 20
OPERATION_S = 5.0
LONGEST_D_S = 3.0

OPERATIONS = """
import errno, json, os, sys, time
root = sys.argv[1]
drop, took = root + "/drop", {}
unsupported = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EINVAL)

def do(name, act, *allowed):
    began = time.monotonic()
    try:
        result = act()
    except OSError as error:
        if error.errno not in allowed:
            raise SystemExit(f"{name}: {error}")
        result = None
    took[name] = time.monotonic() - began
    return result

def fd_of(path, flags=os.O_RDONLY):
    return os.open(path, flags)

for round in range(3):
    own = f"{drop}/own{round}"
    os.mkdir(own)
    for where in (drop, own):
        fd = do("CREATE", lambda: os.open(f"{where}/file{round}", os.O_CREAT | os.O_RDWR, 0o600))
        do("WRITE", lambda: os.write(fd, bytes(100_000)))
        do("FSYNC", lambda: os.fsync(fd))
        do("FDATASYNC", lambda: os.fdatasync(fd))
        do("SETATTR of an open file", lambda: os.ftruncate(fd, 50_000))
        do("FALLOCATE", lambda: os.posix_fallocate(fd, 0, 80_000), *unsupported)
        do("SETATTR", lambda: os.chmod(f"{where}/file{round}", 0o640))
        do("SETATTR of times", lambda: os.utime(f"{where}/file{round}"))
        source = fd_of(root + "/artifacts/cached.bin")
        do("COPY_FILE_RANGE", lambda: os.copy_file_range(source, fd, 4096, 0, 0), *unsupported)
        do("MKNOD", lambda: os.mknod(f"{where}/node{round}"))
        do("MKDIR", lambda: os.mkdir(f"{where}/sub{round}"))
        do("RENAME", lambda: os.rename(f"{where}/node{round}", f"{where}/moved{round}"))
        do("UNLINK", lambda: os.unlink(f"{where}/moved{round}"))
        do("RMDIR", lambda: os.rmdir(f"{where}/sub{round}"))
        do("UNLINK of an open file", lambda: os.unlink(f"{where}/file{round}"))
    for path in ("", "/drop", f"/drop/own{round}", "/artifacts", "/by-id", "/.artifactfs"):
        fd = fd_of(root + path)
        do("FSYNCDIR of " + path, lambda: os.fsync(fd))
        do("READDIR of " + path, lambda: os.listdir(fd))
        os.close(fd)
        do(
            "SETXATTR of " + path,
            lambda: os.setxattr(root + path, "user.artifactfs.refresh", b"1"),
        )
        do(
            "REMOVEXATTR of " + path,
            lambda: os.removexattr(root + path, "user.comment"),
            errno.ENODATA, errno.EROFS, errno.EOPNOTSUPP,
        )
    do("SETXATTR, retry", lambda: os.setxattr(drop, "user.artifactfs.retry", b"1"))
    for name in ("cached", "uncached"):
        path = f"{root}/artifacts/{name}.bin"
        do("SETXATTR, pin", lambda: os.setxattr(path, "user.artifactfs.pin", b"1"))
    do("CREATE outside", lambda: os.open(root + "/artifacts/new", os.O_CREAT | os.O_WRONLY),
       errno.EROFS)
    do("MKDIR outside", lambda: os.mkdir(root + "/artifacts/new"), errno.EROFS)
    do("UNLINK outside", lambda: os.unlink(root + "/artifacts/cached.bin"), errno.EROFS)
    do("RENAME outside", lambda: os.rename(root + "/artifacts/cached.bin", root + "/by-id/x"),
       errno.EROFS)
print(json.dumps(took), flush=True)
time.sleep(600)  # its files stay open: to close them may wait, where the settings say so
"""
LOOKING_UP = """
import os, sys, time
number = 0
while True:
    number += 1
    os.path.exists(f"{sys.argv[1]}/artifacts/unknown{number}")
"""
CLOSING = """
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
os.write(fd, b"x" * 1000)
print("written", flush=True)
os.close(fd)
"""


class Watch:
    """Looks at processes that were killed: none may stay in state D for `LONGEST_D_S`."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self.held: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        since: dict[int, float] = {}
        while not self._ended.wait(0.02):
            for pid in tuple(self.pids):
                state = ""
                with contextlib.suppress(OSError):
                    stat = Path(f"/proc/{pid}/stat").read_text()
                    state = stat.rpartition(")")[2].split()[0]
                if state != "D":
                    since.pop(pid, None)
                    continue
                now = time.monotonic()
                held = now - since.setdefault(pid, now)
                if held >= LONGEST_D_S:
                    with contextlib.suppress(OSError):
                        said = Path(f"/proc/{pid}/cmdline").read_bytes()[:200]
                        self.held[f"{pid} {said!r}"] = held


class Everything:
    """A mount in which everything waits that can. `programs` are those that do."""

    def __init__(self, user: UserMount, proxy: FaultProxy, watch: Watch) -> None:
        self.user = user
        self.path = user.path
        self.watch = watch
        self.programs: list[subprocess.Popen[str]] = []
        self._proxy = proxy

    def run(self, *words: object) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [str(word) for word in words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**self.user.environment, "LC_ALL": "C"},
        )  # fmt: skip
        self.programs.append(program)
        return program

    def kill_all(self) -> None:
        """Kill all programs: none may stay."""
        for program in self.programs:
            program.send_signal(signal.SIGKILL)
            self.watch.pids.add(program.pid)
        for program in self.programs:
            program.wait(STUCK_S)
        assert not self.watch.held, self.watch.held

    def begin(self) -> None:
        """Have a read, a look-up, a refresh, uploads and closes wait, and see that they do."""
        self._proxy.break_with(delay_s=600, times=1_000_000)
        drop = self.path / "drop"
        for number in range(80):  # more than any pool has threads, where closing waits
            closing = self.run(sys.executable, "-c", CLOSING, drop / f"upload{number}")
        assert closing.stdout is not None
        closing.stdout.readline()
        self.run("cat", self.path / "artifacts" / "uncached.bin")
        self.run(sys.executable, "-c", LOOKING_UP, self.path)
        self.run(sys.executable, "-m", "artifactfs", "refresh", self.path)
        self.run(sys.executable, "-m", "artifactfs", "flush", self.path)
        wait_until(lambda: self.user.status()["orders"]["pending"], 30, "the refresh waits")
        wait_until(
            lambda: any(one["state"] == "uploading" for one in self.user.uploads().values()),
            30, "an upload waits",
        )  # fmt: skip

    def end(self) -> None:
        for program in self.programs:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
        for program in self.programs:
            program.communicate(timeout=STUCK_S)


@pytest.fixture(params=["false", "true"], ids=["", "drop.sync"])
def everything(
    request: pytest.FixtureRequest,
    user: UserMount, controller: LocalController, service: ServiceClient,
) -> Iterator[Everything]:  # fmt: skip
    with FaultProxy(controller.url) as proxy, Watch() as watch:
        user.url = proxy.url
        user.settings = {
            "read.timeout": "60", "drop.linger": "0", "list.ttl": "0", "drop.sync": request.param
        }  # fmt: skip
        for name in ("cached", "uncached"):
            service.upload(f"{name}.bin", name.encode() * 100_000)
        user.mount()
        assert (user.path / "artifacts" / "cached.bin").read_bytes() == b"cached" * 100_000
        os.listdir(user.path / "artifacts")
        made = Everything(user, proxy, watch)
        try:
            made.begin()
            yield made
            user.command("unmount", "--force", user.path, check=False)
        finally:
            subprocess.run(["umount", "-l", user.path], capture_output=True, check=False)
            made.end()


def test_what_holds_a_lock_answers_while_everything_waits(everything: Everything) -> None:
    program = everything.run(sys.executable, "-c", OPERATIONS, everything.path)
    assert program.stdout is not None
    killing = threading.Timer(120, program.kill)
    killing.start()
    try:
        said = program.stdout.readline()
    finally:
        killing.cancel()
    assert said.startswith("{"), said + everything.user.log()
    slow = {name: s for name, s in json.loads(said).items() if s > OPERATION_S}
    assert not slow, slow
    everything.kill_all()


def test_a_driver_that_is_killed_meanwhile_ends_and_can_be_cleaned_up(
    everything: Everything, controller: LocalController
) -> None:
    everything.run(sys.executable, "-c", OPERATIONS, everything.path)
    pid = everything.user.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), STUCK_S, "the driver ends")
    everything.kill_all()
    everything.user.url = controller.url
    everything.user.settings["drop.sync"] = "false"
    everything.user.mount()
    assert os.listdir(everything.path / "artifacts")
