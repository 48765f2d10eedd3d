"""Where jobs lie on disk.

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
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import xxhash

from artifactfs.catalog.jobs.logs import is_held
from artifactfs.system import make_private

VERSION = "jobs-1"
JOBS = "jobs"
PROJECTS = "projects"
MOST_BYTES = 1 << 30
YOUNG_S = 60.0  # whoever has made a directory has locked it by then

_ID = "id"

_log = logging.getLogger(__name__)


class Shelf:
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
