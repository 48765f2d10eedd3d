"""The stage on which rows are measured: a service, a mount, files, and clean hands.

Both sides of a row run on the same machine, in alternation, in one run; only their ratio counts.
The machines are virtual, and the first touch of memory is slow on them: before anything is counted
a run allocates and frees as much memory as it will use.
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
        self.size_bytes = (256 << 20) if self.quick else (1 << 30)
        self.rounds = 3 if self.quick else 5

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        touch_memory(self.size_bytes)
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
    """Have the machine back this much memory with real pages, then give it back.

    A virtual machine's host takes free memory away again within seconds, and its first use is slow:
    a side that uses more memory than the other is measured fairly only right after this.
    """
    with mmap.mmap(-1, size_bytes) as memory:
        for start in range(0, size_bytes, 4096):
            memory[start] = 1


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
