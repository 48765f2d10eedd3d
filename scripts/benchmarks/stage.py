"""The stage on which rows are measured: a service, a mount, files, and clean hands.

Both sides of a row run on the same machine, in alternation, in one run; only their ratio counts.
The machines are virtual, and the first touch of memory is slow on them: directly before each side
whose use of memory counts, as much is touched and freed as both sides use at most (`touch_memory`).
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from artifactfs.controller.testing import LocalController

CHUNK = 4 << 20
_FREE_FOR = Path("/sys/module/page_reporting/parameters/min_free_ms")
_MADV_POPULATE_WRITE = 23  # include/uapi/asm-generic/mman-common.h


@dataclass
class Stage:
    """One run's directory, service and sizes."""

    directory: Path
    quick: bool
    size_bytes: int = 0
    rounds: int = 0
    url: str = ""
    _service: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.size_bytes = (64 << 20) if self.quick else (1 << 30)
        self.rounds = 2 if self.quick else 5

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.serve()
        return self

    def serve(self, **options: object) -> None:
        """Serve from now on by a controller with these flags, and the same data."""
        self._service.close()
        self.service = self._service.enter_context(
            LocalController(self.directory / "service", **options)
        )
        self.url = self.service.url

    def __exit__(self, *error: object) -> None:
        self._service.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextlib.contextmanager
    def mount(self, name: str = "mnt", **settings: str) -> Iterator[Path]:
        """A mount of the service with a state of its own, unmounted at the end."""
        home = self.directory / name
        path = home / "mnt"
        path.mkdir(parents=True, exist_ok=True)
        self.artifactfs("mount", *self.options(home, settings), path)
        try:
            yield path
        finally:
            self.artifactfs("unmount", path)

    def artifactfs(self, *words: object) -> str:
        """Run the command as a user would."""
        done = subprocess.run(
            [sys.executable, "-m", "artifactfs", *map(str, words)],
            env=os.environ | {"ARTIFACTFS_URL": self.url, "ARTIFACTFS_TOKEN": self.service.token},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"artifactfs {' '.join(map(str, words))}: {done.stderr}")
        return done.stdout

    def start(self, *words: object, before: list[str]) -> subprocess.Popen[bytes]:
        """Start the command, behind others, and leave it running."""
        return subprocess.Popen(
            [*before, sys.executable, "-m", "artifactfs", *map(str, words)],
            env=os.environ | {"ARTIFACTFS_URL": self.url, "ARTIFACTFS_TOKEN": self.service.token},
            stderr=subprocess.DEVNULL,
        )

    def random_file(self, name: str, size_bytes: int) -> Path:
        """A local file of random bytes, made once a run."""
        path = self.directory / "files" / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            with path.open("wb") as file:
                for start in range(0, size_bytes, CHUNK):
                    file.write(os.urandom(min(CHUNK, size_bytes - start)))
                os.fsync(file.fileno())
        return path

    @staticmethod
    def options(home: Path, settings: dict[str, str]) -> list[str]:
        """The words that give a mount directories of its own."""
        fixed = {"cache.dir": f"{home}/cache", "state.dir": f"{home}/state", "list.ttl": "0"}
        return ["-o", ",".join(f"{key}={value}" for key, value in (fixed | settings).items())]


def touch_memory(size_bytes: int) -> None:
    """Have the machine back this much memory with real pages, then leave it to whoever comes next.

    For one side of a row, directly before it, and for the other side as well. A virtual machine's
    host takes free memory away again: measured, a GiB that it backs is touched in 0.6 s and one
    that it does not in 3.0 s, and of 12 GiB freed in one go 6 were gone after 25 s. Touching it all
    at the start of a run therefore helps the first side only.
    """
    with mmap.mmap(-1, size_bytes) as memory:
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
            memory.madvise(_MADV_POPULATE_WRITE)
        except (OSError, AttributeError):  # before Linux 5.14
            for start in range(0, size_bytes, 4096):
                memory[start] = 1


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Where this machine hands free memory back to its host, have it wait for a minute with that.

    Else what `touch_memory` has touched is gone again while a row of three seconds is measured. It
    is a setting of some kernels for virtual machines; elsewhere nothing happens.
    """
    try:
        before = _FREE_FOR.read_text()
        _FREE_FOR.write_text("60000")
    except OSError:
        yield
        return
    try:
        yield
    finally:
        _FREE_FOR.write_text(before)


def peak_memory_bytes(mount: Path) -> int:
    """The most memory that the driver of a mount has had resident (VmHWM)."""
    pid = json.loads((mount / ".artifactfs" / "status.json").read_text())["pid"]
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (said,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(said.split()[1]) * 1024


def drop_caches() -> None:
    """Forget the page cache, so that the disk is read."""
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")


def seconds(act: Callable[[], object]) -> float:
    """How long `act` takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def read_through(path: Path, block: str = "1M") -> Callable[[], object]:
    """Read a whole file with dd, as any program would."""
    return lambda: subprocess.run(
        ["dd", f"if={path}", "of=/dev/null", f"bs={block}", "status=none"], check=True
    )


def fio_iops(path: Path, jobs: int, runtime_s: int) -> float:
    """Random 4 KiB reads a second."""
    shown = subprocess.run(
        [
            "fio", "--name=r", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k",
            f"--numjobs={jobs}", "--ioengine=psync", "--invalidate=0", "--group_reporting",
            "--time_based", f"--runtime={runtime_s}", "--output-format=json", "--thread",
        ],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return float(json.loads(shown[shown.index("{") :])["jobs"][0]["read"]["iops"])
