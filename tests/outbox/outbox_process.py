"""An outbox in a process of its own, which can be killed at any moment.

`OutboxProcess` starts it (forked from a server that has everything imported, so that it takes
milliseconds), sends it one call at a time, and kills it. Open files are numbers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from artifactfs.config import (
    DropConfig,
    HttpConfig,
    SpoolConfig,
    UploadConfig,
)
from artifactfs.model import Artifact
from artifactfs.outbox import (
    EntryState,
    Outbox,
    UploadLog,
)
from artifactfs.outbox.open_file import OutboxHandle
from artifactfs.remote import Service
from artifactfs.token import Secret, TokenSource

KILLED_PID = 666
_SPAWN = multiprocessing.get_context("forkserver")
_SPAWN.set_forkserver_preload(["tests.outbox.outbox_process"])


@dataclass(frozen=True)
class Settings:
    """How the outbox is made. Sizes in bytes."""

    spool: Path
    url: str
    token: str
    controller_max: int = 1000
    multipart_min: int = 4000
    connections: int = 4
    max_rate: int = 0
    retry_for_s: float = 0.2
    audit: Path | None = None


class OutboxProcess:
    """One life of an outbox. For one thread."""

    def __init__(self, settings: Settings) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=serve, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def call(self, name: str, *values: Any) -> Any:
        """Call a method of the outbox, or of an open file; raises what it raises."""
        self._pipe.send((name, values))
        return self._answer()

    def _answer(self) -> Any:
        good, value = self._pipe.recv()
        if not good:
            raise value
        return value

    def kill(self) -> None:
        """End it at this moment."""
        self._process.kill()
        self._gone()

    def close(self) -> None:
        """End it in an orderly way."""
        self.call("end")
        self._gone()

    def _gone(self) -> None:
        self._process.join()
        self._process.close()
        self._pipe.close()


def serve(pipe: Connection, settings: Settings) -> None:
    """The other side."""
    http = HttpConfig(connect_timeout_s=1, timeout_s=5, retry_for_s=settings.retry_for_s)
    service = Service(settings.url, TokenSource("test", value=Secret(settings.token)), http)
    outbox = Outbox(
        settings.spool,
        service.uploads,
        origin="http://the.same.whatever.port",
        upload=UploadConfig(
            controller_max_bytes=settings.controller_max,
            multipart_min_bytes=settings.multipart_min,
            connections=settings.connections,
            max_rate_bytes_s=settings.max_rate,
        ),
        drop=DropConfig(linger_s=3600),
        spool=SpoolConfig(),
        known=_unknown,
        on_uploaded=_nothing,
        audit=UploadLog(settings.audit) if settings.audit else None,
        was_killed=lambda pid: pid == KILLED_PID,
        quiet_s=0.0,
    )
    outbox.start()
    pipe.send((True, None))
    files: dict[int, OutboxHandle] = {}
    while True:
        try:
            name, values = pipe.recv()
        except EOFError:
            os._exit(1)
        if name == "end":
            outbox.close()
            service.close()
            pipe.send((True, None))
            return
        try:
            pipe.send((True, _call(outbox, files, name, values)))
        except Exception as error:
            pipe.send((False, error))


def _call(
    outbox: Outbox, files: dict[int, OutboxHandle], name: str, values: tuple[Any, ...]
) -> Any:
    if name == "create":
        file = outbox.create(values[0], 0o644)
    elif name == "open":
        file = outbox.open(*values)
    elif name == "settle":
        return _settle(outbox, *values)
    elif name in ("write", "truncate", "flush", "release", "read"):
        result = getattr(files[values[0]], name)(*values[1:])
        if name == "release":
            del files[values[0]]
        return result
    else:
        return getattr(outbox, name)(*values)
    number = max(files, default=0) + 1
    files[number] = file
    return number


def _settle(outbox: Outbox, retried: list[str]) -> Any:
    """Wait until nothing is on its way; `retried` are the names that may be tried again."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        for path in retried:
            with contextlib.suppress(OSError):
                outbox.retry(path)
        left = outbox.wait(None, 0.2)
        if any(entry.is_pending and entry.state is not EntryState.WRITING for entry in left):
            continue
        # An answer that was on its way when the service became well may have failed one since.
        failed = {entry.path for entry in outbox.entries() if entry.state is EntryState.FAILED}
        if not failed.intersection(retried):
            return outbox.entries()
    return outbox.entries()


def _unknown(digest: str) -> Artifact | None:
    _ = digest
    return None


def _nothing(artifact: Artifact, path: Path | None) -> None:
    _ = artifact, path
