"""What a row works in: a directory, a service, lines, mounts and sizes; all of it ends with it.

Both sides of a row run on the same machine, in alternation, in one run; only their ratio counts.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from artifactfs.server.testing import LocalController
from benchmarks import line as lines
from benchmarks.line import Line
from benchmarks.measure import (
    GIB,
    MIB,
    cpu_seconds,
    memory_bytes,
    read_whole,
    run,
    settle_disk,
    touch_memory,
)
from benchmarks.origin import Origin
from benchmarks.synthetic import Synthetic

CHUNK_BYTES = 4 * MIB
POST_MAX_BYTES = 1_900_000_000
COPIES = 3  # of a file in memory: the origin's, the cache's, and the kernel's of the mount
_END_TIMEOUT_S = 30.0

Value = TypeVar("Value")


@dataclass(frozen=True)
class Mount:
    """A mount and its driver."""

    path: Path
    pid: int

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @property
    def drop(self) -> Path:
        return self.path / "drop"

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def peak_bytes(self) -> int:
        return memory_bytes(self.pid)

    def document(self, name: str) -> dict[str, Any]:
        """Return one of the JSON files in ``.artifactfs/``."""
        return dict(json.loads((self.path / ".artifactfs" / name).read_text()))

    def wait_verified(self, size_bytes: int, interval_s: float = 0.002) -> None:
        """Wait until the driver has compared the whole with its SHA-256."""
        while self.document("cache.json")["verified_bytes"] < size_bytes:
            time.sleep(interval_s)

    def wait_uploaded(self, interval_s: float = 0.01) -> None:
        """Wait until nothing is pending. Raises RuntimeError if an upload failed.

        Each look costs the driver CPU time: rows that count it take a long interval.
        """
        while True:
            uploads = self.document("status.json")["uploads"]
            if uploads["failed"]:
                raise RuntimeError(f"uploads failed: {uploads}")
            if not uploads["pending_files"]:
                return
            time.sleep(interval_s)


class Context:
    """One row's directory, service and sizes; a context manager that ends all that it started."""

    def __init__(self, directory: Path, *, quick: bool, rounds: int | None = None) -> None:
        self.directory = directory
        self.quick = quick
        self.size_bytes = self.pick(GIB, 64 * MIB)
        self.rounds = rounds or self.pick(5, 1)
        self.notes: list[str] = []
        self.url = ""
        self.token = ""
        self._stack = contextlib.ExitStack()
        self._service_stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        self._stack.enter_context(self._service_stack)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._stack.close()
        finally:
            sweep(self.directory)

    def pick(self, full: Value, quick: Value) -> Value:
        """Return the value for this kind of run."""
        return quick if self.quick else full

    def note(self, text: str) -> None:
        """Print a line below the row's figures, once."""
        if text not in self.notes:
            self.notes.append(text)

    # Services

    def serve(self, **options: object) -> LocalController:
        """Serve by the project's own controller from now on; a later call keeps its data."""
        self._service_stack.close()
        self.service = self._service_stack.enter_context(
            LocalController(self.directory / "service", **options)
        )
        self.url, self.token = self.service.url, self.service.token
        return self.service

    def serve_synthetic(self, count: int, size_bytes: int) -> Synthetic:
        """Serve generated artifacts from now on."""
        self._service_stack.close()
        service = self._service_stack.enter_context(Synthetic(count, size_bytes))
        self.url, self.token = service.url, service.token
        return service

    @contextlib.contextmanager
    def line(self, latency_s: float, rate: float = lines.UNLIMITED) -> Iterator[Line]:
        """A line to the service: mounts that begin in here go through it."""
        direct = self.url
        with Line(direct, latency_s, rate) as line:
            self.url = line.url
            try:
                yield line
            finally:
                self.url = direct
                self.check_line(line)

    def check_line(self, line: Line) -> dict[str, Any]:
        """Return the line's counters; note it where the relay was nearly busy with a core."""
        counters = line.counters()
        busy = counters["cpu_s"] / counters["elapsed_s"]
        if counters["cpu_s"] > 0.2 and busy > lines.BUSY:
            self.note(f"the relay used {busy:.0%} of a core and may have been the limit")
        return counters

    # Files and artifacts

    def random_file(self, name: str, size_bytes: int) -> Path:
        """A local file of random bytes, made once a row and in the page cache."""
        path = self.directory / "files" / name
        if not path.exists():
            fill_random(path, size_bytes)
        return path

    def publish(self, path: Path) -> dict[str, Any]:
        """Make a file an artifact of its own name; return the artifact."""
        if path.stat().st_size > POST_MAX_BYTES:
            self.artifactfs("put", "--name", path.name, path)
            listed = json.loads(self.artifactfs("ls", "--json"))
            return dict(next(one for one in listed if one["filename"] == path.name))
        with path.open("rb") as body:
            headers = {
                "X-Artifact-Filename": path.name,
                "Content-Type": "application/octet-stream",
                "Content-Length": str(path.stat().st_size),
            }
            return self.call("POST", "artifacts", body, headers)

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Call the service, and return its answer. Raises RuntimeError."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc)
        if isinstance(body, dict):
            body = json.dumps(body)
        connection.request(
            method,
            f"/api/v1/{path}",
            body,
            {"Content-Type": "application/json"} | self.authorization | (headers or {}),
        )
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
        return dict(json.loads(text))

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    # The command and its mounts

    def artifactfs(self, *words: object) -> str:
        """Run the command as a user would; return its output."""
        return run(sys.executable, "-m", "artifactfs", *words, env=self.environment)

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """Start a program with the service's address, and leave it running."""
        return subprocess.Popen(
            [str(word) for word in words],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"ARTIFACTFS_URL": self.url, "ARTIFACTFS_TOKEN": self.token}

    @staticmethod
    def options(home: Path, settings: dict[str, object]) -> list[str]:
        """The words that give a mount directories of its own."""
        fixed = {"cache.dir": home / "cache", "state.dir": home / "state", "list.ttl": "0"}
        return ["-o", ",".join(f"{key}={value}" for key, value in (fixed | settings).items())]

    def start_mount(self, name: str, settings: dict[str, object]) -> Path:
        """Run ``artifactfs mount`` until it returns."""
        home = self.directory / name
        path = home / "mnt"
        path.mkdir(parents=True, exist_ok=True)
        self.artifactfs("mount", *self.options(home, settings), path)
        return path

    @contextlib.contextmanager
    def mount(self, name: str = "mount", **settings: object) -> Iterator[Mount]:
        """A mount with directories of its own, which stay; ``__`` in a keyword is a dot."""
        keyed = {key.replace("__", "."): value for key, value in settings.items()}
        path = self.start_mount(name, keyed)
        mount = Mount(path, driver_of(path))
        try:
            yield mount
        finally:
            end_mount(mount)

    @contextlib.contextmanager
    def fresh_mount(self, **settings: object) -> Iterator[Mount]:
        """A mount that has cached nothing. Its directories are removed afterwards."""
        with self.mount("fresh", **settings) as mount:
            yield mount
        shutil.rmtree(self.directory / "fresh")

    @contextlib.contextmanager
    def fresh_file(self, name: str, **settings: object) -> Iterator[tuple[Mount, Path]]:
        """A file of a mount that has cached nothing but its listing."""
        with self.fresh_mount(**settings) as mount:
            path = mount.artifacts / name
            path.stat()
            yield mount, path


@dataclass
class Remote:
    """An artifact that the service serves by a redirect to nginx, both at the end of a line."""

    context: Context
    origin: Origin
    base: str  # nginx, through the line
    name: str
    size_bytes: int
    artifact_id: str
    path_at_origin: str
    lines: tuple[Line, ...]

    @property
    def url(self) -> str:
        """Where curl finds the bytes, through the line."""
        return f"{self.base}/{self.path_at_origin}"

    def set_line(self, latency_s: float, rate: float) -> None:
        """Change the line, for connections that exist as well."""
        for line in self.lines:
            line.set(latency_s, rate)

    def prepare(self) -> None:
        """Have memory backed, and the origin's file in the page cache."""
        touch_memory(COPIES * self.size_bytes)
        read_whole(self.context.service.data / "blobs" / self.path_at_origin)


@contextlib.contextmanager
def remote_files(
    context: Context, files: Sequence[Path], latency_s: float, rate: float
) -> Iterator[list[Remote]]:
    """Local files as artifacts at the end of a line. Without latency and rate, without a relay."""
    context.serve()
    published = [context.publish(path) for path in files]
    with contextlib.ExitStack() as stack:
        blobs = context.service.data / "blobs"
        home = Path(tempfile.mkdtemp(prefix="nginx-", dir=context.directory))
        origin = stack.enter_context(Origin(home, blobs))
        base, relays = origin.url, []
        if latency_s or rate:
            relays.append(stack.enter_context(Line(origin.url, latency_s, rate)))
            base = relays[0].url
        context.serve(download_base=base)
        if latency_s or rate:
            relays.append(stack.enter_context(context.line(latency_s, rate)))
        yield [
            Remote(
                context=context,
                origin=origin,
                base=base,
                name=path.name,
                size_bytes=path.stat().st_size,
                artifact_id=made["id"],
                path_at_origin=f"{made['sha256'][:2]}/{made['sha256']}",
                lines=tuple(relays),
            )
            for path, made in zip(files, published, strict=True)
        ]
        for line in relays:
            context.check_line(line)


@contextlib.contextmanager
def remote_file(
    context: Context, local: Path, latency_s: float = 0.0, rate: float = lines.UNLIMITED
) -> Iterator[Remote]:
    """One local file as an artifact at the end of a line."""
    with remote_files(context, [local], latency_s, rate) as (remote,):
        yield remote


def fill_random(path: Path, size_bytes: int) -> None:
    """Make a file of random bytes, on disk. Its chunks differ in a few bytes: random is slow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        chunk = bytearray(os.urandom(CHUNK_BYTES))
        for start in range(0, size_bytes, CHUNK_BYTES):
            chunk[:16] = os.urandom(16)
            file.write(chunk[: min(CHUNK_BYTES, size_bytes - start)])
        file.flush()
        os.fsync(file.fileno())


def driver_of(path: Path) -> int:
    """Return the driver's process."""
    return int(json.loads((path / ".artifactfs" / "status.json").read_text())["pid"])


def end_mount(mount: Mount) -> None:
    """Unmount by SIGTERM to the driver, as a service manager does, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(mount.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + _END_TIMEOUT_S
    while Path(f"/proc/{mount.pid}").exists() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    if Path(f"/proc/{mount.pid}").exists() or os.path.ismount(mount.path):
        kill_mount(mount)
        raise RuntimeError(f"the driver did not end within {_END_TIMEOUT_S:.0f} s of SIGTERM")


def kill_mount(mount: Mount) -> None:
    """End a driver without a warning, and unmount."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(mount.pid, signal.SIGKILL)
    unmount(mount.path)
    while Path(f"/proc/{mount.pid}").exists():
        time.sleep(0.005)


def unmount(path: Path) -> None:
    """Unmount lazily, whatever state the mount is in."""
    subprocess.run(["umount", "-l", path], check=False, stderr=subprocess.DEVNULL)


def sweep(directory: Path) -> None:
    """Leave no process that names `directory`, no mount below it, and not itself.

    After a row this finds nothing; after an interruption it finds what had just been started.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.fsencode(f"{directory}/") in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
    for mounted in Path("/proc/self/mountinfo").read_text().splitlines():
        path = mounted.split()[4]
        if path.startswith(f"{directory}/"):
            unmount(Path(path))
    settle_disk()
    shutil.rmtree(directory, ignore_errors=True)
