"""``uploads.log``: what was uploaded, one JSON object a line, for people and their scripts.

    {"time": "2026-11-24T12:00:00.123Z", "name": "results/a.csv", "sha256": "…", "size": 1234,
     "artifact_id": "art_…", "how": "controller", "took_s": 0.021}

`how` is the way the bytes took (``server``, ``direct``, ``multipart``), or ``exists`` where the
service had them and ``listed`` where its list said so: then nothing was sent. A line is written
before the entry becomes `uploaded`, so that a crash in between can repeat one but never omit one.

All mounts of one state directory write to the same file. A line is one ``write`` to a file opened
for appending, so lines of several processes do not mix; who finds it full turns it over
(``uploads.log.1`` is the one before) while he holds a lock on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from datetime import datetime
from pathlib import Path

from artifactfs.outbox.state import OutboxEntry

MOST_BYTES = 8 << 20
KEPT = 5
_LOOK_S = 1.0

_log = logging.getLogger(__name__)


class UploadLog:
    """The file at `path`. `_lock` guards the descriptor."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._descriptor = -1
        self._look_at_s = 0.0

    def note(
        self, entry: OutboxEntry, artifact_id: str, how: str, when: datetime, took_s: float
    ) -> None:
        """Write a line. Never fails: what cannot be written is said in the log."""
        line = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "name": entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
            "sha256": entry.sha256,
            "size": entry.size_bytes,
            "artifact_id": artifact_id,
            "how": how,
            "took_s": round(took_s, 3),
        }
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        with self._lock:
            try:
                self._append(data)
            except OSError as error:
                _log.warning("%s cannot be written: %s", self._path, error.strerror)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def _append(self, data: bytes) -> None:
        self._follow()
        if os.fstat(self._descriptor).st_size + len(data) > self._most_bytes:
            self._turn_over(len(data))
        os.write(self._descriptor, data)

    def _follow(self, *, always: bool = False) -> None:
        """Have the file open that is at `path` now: another process may have turned it over."""
        now_s = time.monotonic()
        if self._descriptor >= 0:
            if not always and now_s < self._look_at_s:
                return
            self._look_at_s = now_s + _LOOK_S
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                    return
            self._close()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)

    def _turn_over(self, more_bytes: int) -> None:
        while True:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            held = self._descriptor
            self._follow(always=True)
            if self._descriptor == held:
                break  # nobody was quicker
        if os.fstat(self._descriptor).st_size + more_bytes > self._most_bytes:
            for number in range(KEPT - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    self._numbered(number).replace(self._numbered(number + 1))
            self._path.replace(self._numbered(1))
            self._follow(always=True)
        else:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
