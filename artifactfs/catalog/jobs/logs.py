"""Logs that only grow, as files on disk: a job's ``live.log`` with one for each task, or a
project's ``events.jsonl``.

One writes, any number read, and nobody waits for another: what was appended is counted in `size`
only when it is in the file. `save` writes down how long each file is together with the writer's own
state. Whoever opens the log again cuts the files to that: what was appended after the last `save`
of a process that was killed, the writer's state knows nothing of, and would append it once more.

One process at a time may append (flock). Where another mount that shares the directory has the log
already, this one writes its own, which goes with it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 30
_STATE = "live.state"
_LOCK = "live.lock"
_TASKS = "tasks"

_log = logging.getLogger(__name__)


class Log:
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
