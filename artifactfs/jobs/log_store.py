"""Logs that only grow, as files on disk: a job's ``live.log`` with one for each task, or a
project's ``events.jsonl``.

One writes, any number read, and nobody waits for another: what was appended is counted in `size`
only when it is in the file. `save` writes down how long each file is together with the writer's own
state. Whoever opens the log again cuts the files to that: what was appended after the last `save`
of a process that was killed, the writer's state knows nothing of, and would append it once more.

One process at a time may append (flock). Where another mount that shares the directory has the log
already, this one writes its own, which goes with it.

Where jobs lie on disk.

    <cache>/jobs-1/<service>/jobs/<digest of the id>/     id, job.json, tasks.json, result.json,
                                                          output: of jobs that have ended;
                                                          live.log, tasks/<n>.log, live.state
    <cache>/jobs-1/<service>/projects/<digest>/           events.jsonl, live.state

Ids and names are opaque: they become file names as digests, and ``id`` says what they were. Files
appear under their name when they are whole. Nothing here is worth waiting for: a disk that is full
or broken costs the memory of what was, and is logged, but fails nobody's reading.

It is kept within `most_bytes`: what was used least recently goes first, whole jobs at a time, never
one whose log some mount has open. The cache of contents lies in the same directory and knows
nothing of this.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from artifactfs.system import make_private

MOST_BYTES = 1 << 30
_STATE = "live.state"
_LOCK = "live.lock"
_TASKS = "tasks"

_log = logging.getLogger(__name__)


class StoredLog:
    """A main file and one for each task. For one writer; `size`, `mtime_ns`, `read` are anyone's.

    `state` is what the last writer had saved, None where there is nothing to go on from.
    """

    def __init__(self, directory: Path, main: str, scratch: Path) -> None:
        self.state: Mapping[str, Any] | None = None
        self._main = main
        self._own: Path | None = None
        self._lock = _locked(directory)
        if self._lock is None:
            scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own = directory = Path(tempfile.mkdtemp(dir=scratch))
            self._lock = _locked(directory)
        self.directory = directory
        self._sizes: dict[int | None, int] = {}
        self._mtimes_ns: dict[int | None, int] = {}
        self._open()

    def _open(self) -> None:
        sizes: dict[int | None, int] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            document = json.loads((self.directory / _STATE).read_bytes())
            sizes = {
                None if name == "" else int(name): int(size)
                for name, size in document["sizes"].items()
            }
            for index, size in sizes.items():
                if self._path(index).stat().st_size < size:
                    raise ValueError("a log is shorter than it was")
            self.state = document["writer"]
        if self.state is None:
            sizes = {}
            shutil.rmtree(self.directory / _TASKS, ignore_errors=True)
        for index in (None, *(one for one in sizes if one is not None)):
            path = self._path(index)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                if os.fstat(fd).st_size != sizes.get(index, 0):
                    os.ftruncate(fd, sizes.get(index, 0))
                self._mtimes_ns[index] = os.fstat(fd).st_mtime_ns
            finally:
                os.close(fd)
            self._sizes[index] = sizes.get(index, 0)

    def size(self, index: int | None) -> int:
        """How long the file is; None is the main one. At once."""
        return self._sizes.get(index, 0)

    def mtime_ns(self, index: int | None) -> int | None:
        """When it was appended to, None if never. At once."""
        return self._mtimes_ns.get(index)

    def append(self, index: int | None, texts: Sequence[str]) -> None:
        """Append. Raises `OSError`; then nothing was."""
        data = "".join(texts).encode("utf-8", "replace")
        size = self._sizes.get(index, 0)
        if size + len(data) > MOST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        path = self._path(index)
        if index is not None and index not in self._sizes:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(fd, data[written:], size + written)
        finally:
            os.close(fd)
        self._mtimes_ns[index] = time.time_ns()
        self._sizes[index] = size + len(data)

    def read(self, index: int | None, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, fewer at the end. Raises `OSError`."""
        stop = min(stop, self.size(index))
        if start >= stop:
            return b""
        fd = os.open(self._path(index), os.O_RDONLY)
        try:
            return os.pread(fd, stop - start, start)
        finally:
            os.close(fd)

    def save(self, writer: Mapping[str, Any]) -> None:
        """Write down how far it is. Raises `OSError`."""
        sizes = {"" if index is None else str(index): size for index, size in self._sizes.items()}
        temporary = self.directory / f".{_STATE}"
        temporary.write_text(json.dumps({"sizes": sizes, "writer": writer}))
        temporary.replace(self.directory / _STATE)

    def clear(self) -> None:
        """Begin anew. Raises `OSError`."""
        os.truncate(self._path(None), 0)
        shutil.rmtree(self.directory / _TASKS, ignore_errors=True)
        self._sizes = {None: 0}

    def close(self) -> None:
        """Let another have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    def _path(self, index: int | None) -> Path:
        if index is None:
            return self.directory / self._main
        return self.directory / _TASKS / f"{index}.log"


def is_held(directory: Path) -> bool:
    """Whether some process, this one included, has the log in there."""
    try:
        fd = _locked(directory)
    except OSError:
        return False
    if fd is not None:
        os.close(fd)
    return fd is None


def _locked(directory: Path) -> int | None:
    """A descriptor that holds the directory's lock, None if another has it. Raises `OSError`."""
    fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


VERSION = "jobs-1"
JOBS = "jobs"
PROJECTS = "projects"
YOUNG_S = 60.0  # whoever has made a directory has locked it by then

_ID = "id"


class LogStore:
    """The files of one service's jobs. Stateless."""

    def __init__(self, directory: Path, origin: str, *, most_bytes: int = MOST_BYTES) -> None:
        self._root = directory / VERSION / xxhash.xxh3_64_hexdigest(origin.encode())
        self._most_bytes = most_bytes

    @property
    def scratch(self) -> Path:
        """A directory for what nobody takes up again."""
        return self._root / "scratch"

    def place(self, kind: str, key: str) -> Path:
        """The directory of a job or a project."""
        return self._root / kind / xxhash.xxh3_128_hexdigest(key.encode("utf-8", "surrogatepass"))

    def prepare(self, kind: str, key: str) -> Path:
        """`place`, made and with its ``id``. Raises `OSError`."""
        place = self.place(kind, key)
        if not (place / _ID).exists():
            make_private(place)
            _write(place / _ID, key.encode("utf-8", "surrogatepass"))
        return place

    def read(self, key: str, name: str) -> tuple[bytes, int] | None:
        """A document of a job and when it was written, in nanoseconds; None if it is not here."""
        path = self.place(JOBS, key) / name
        try:
            with path.open("rb") as file:
                return file.read(), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s cannot be read: %s", path, error)
            return None

    def write(self, key: str, name: str, data: bytes, changed_ns: int) -> None:
        """Keep a document of a job; if that is not possible it is logged."""
        try:
            path = self.prepare(JOBS, key) / name
            _write(path, data)
            os.utime(path, ns=(changed_ns, changed_ns))
        except OSError as error:
            _log.warning("%s of the job %s cannot be kept: %s", name, key, error)

    def remembered(self, kind: str) -> Iterator[str]:
        """The ids of all that has a place. Reads directories."""
        for place in _scan(self._root / kind):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                yield (place / _ID).read_bytes().decode("utf-8", "surrogatepass")

    def sweep(self) -> None:
        """Remove what was used least recently until the rest fits, and what a crash has left."""
        for place in _scan(self.scratch):
            with contextlib.suppress(OSError):
                if place.stat().st_mtime < time.time() - YOUNG_S and not is_held(place):
                    shutil.rmtree(place, ignore_errors=True)
        places = []
        for kind in (JOBS, PROJECTS):
            for place in _scan(self._root / kind):
                with contextlib.suppress(OSError):  # another mount may be sweeping as well
                    stats = [file.stat() for file in place.rglob("*") if file.is_file()]
                    used = max((one.st_mtime for one in stats), default=0.0)
                    places.append((used, sum(one.st_blocks * 512 for one in stats), place))
        left_bytes = sum(size for _, size, _ in places)
        for _, size, place in sorted(places):
            if left_bytes <= self._most_bytes:
                return
            if not is_held(place):
                shutil.rmtree(place, ignore_errors=True)
                left_bytes -= size


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _scan(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
