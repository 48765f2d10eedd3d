"""What extended attributes say of an artifact, of an entry in ``drop/`` and of a job.

All are text. What is unknown is left out rather than empty. `cached` and `progress` are whole
percents, rounded down, so that 100 means all of it. `metadata` is one JSON object of whatever else
the service says; `filename` is the service's own, which the path may show escaped or shortened.

Commands that are spelled as extended attributes to be set.

``artifactfs refresh``, ``retry`` and ``pin`` reach a running mount this way, with no socket and no
signal: whoever may use the mount may use them. They are never listed nor shown, so that copying a
file with its attributes carries none out.

    user.artifactfs.refresh   any directory                  ask the service for its listing now
    user.artifactfs.retry     ``drop/`` and what is in it    queue what failed or was interrupted
    user.artifactfs.leave     the mount's root               "1": do not wait for uploads once it is
                                                             unmounted, "0": do after all
    user.artifactfs.pin       an artifact                    "1" keeps it in the cache, "0" does not

All but ``leave`` are orders (``orders``): setxattr(2) returns when the order is recorded, and
``status.json`` shows its end.

Any other attribute is refused: with EROFS outside ``drop/``, as a read-only file system does, and
with EOPNOTSUPP inside, which ``cp -a`` and ``rsync -X`` take as "cannot be kept here" and go on.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from artifactfs.catalog import Catalog
from artifactfs.errors import TimedOut
from artifactfs.jobs import JobRegistry
from artifactfs.model import (
    Artifact,
    Job,
    Task,
)
from artifactfs.vfs.interfaces import (
    CacheView,
    EntryStatus,
    UsageView,
)
from artifactfs.vfs.node import read_only
from artifactfs.vfs.orders import PendingOrders, word_of

PREFIX = "user.artifactfs."

_VALUE_MAX_BYTES = 65_536  # XATTR_SIZE_MAX, include/uapi/linux/limits.h


def of_artifact(artifact: Artifact, usage: UsageView) -> Mapping[str, bytes]:
    """The attributes of an artifact's file."""
    size_bytes = artifact.size_bytes if artifact.size_bytes is not None else usage.size_bytes
    return _encoded(
        {
            "id": artifact.id,
            "filename": artifact.filename,
            "sha256": artifact.sha256,
            "content_type": artifact.content_type,
            "created_at": as_text(artifact.created_at),
            "expires_at": as_text(artifact.expires_at),
            "status": artifact.status,
            "external_url": artifact.external_url,
            "job_id": artifact.job_id,
            "cached": percent(usage.cached_bytes, size_bytes),
            "metadata": _metadata(artifact.metadata),
        }
    )


def of_entry(entry: EntryStatus) -> Mapping[str, bytes]:
    """The attributes of a file in ``drop/``."""
    return _encoded(
        {
            "state": str(entry.state),
            "progress": str(int(min(max(entry.progress, 0.0), 1.0) * 100)),
            "error": entry.error,
            "artifact_id": entry.artifact_id,
            "sha256": entry.sha256,
            "waits_for_name": "1" if entry.waits_for_name else None,
        }
    )


class ResultQuality(Protocol):
    """What a job's result says of itself; `quality` goes from 0 to 1."""

    @property
    def quality(self) -> float | None: ...
    @property
    def completeness(self) -> str | None: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...


def of_job(job: Job | None, verdict: ResultQuality | None) -> Mapping[str, bytes]:
    """The attributes of a job's directory; those of its result are there once that is known."""
    quality = verdict.quality if verdict is not None else None
    if quality is None and job is not None:
        quality = job.quality
    return _encoded(
        {
            "status": job.status if job is not None else None,
            "project": job.project if job is not None else None,
            "error": job.error if job is not None else None,
            "recommended_action": job.recommended_action if job is not None else None,
            "result_quality": f"{quality:g}" if quality is not None else None,
            "completeness": verdict.completeness if verdict is not None else None,
            "result_warnings": "\n".join(verdict.warnings) if verdict is not None else None,
        }
    )


def of_task(task: Task) -> Mapping[str, bytes]:
    """The attributes of a task's directory."""
    return _encoded(
        {
            "status": task.status,
            "error": task.error,
            "exit_code": str(task.exit_code) if task.exit_code is not None else None,
            "result_quality": f"{task.quality:g}" if task.quality is not None else None,
        }
    )


def as_text(moment: datetime) -> str:
    """``2026-11-23T12:00:00Z``, with microseconds where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def percent(cached_bytes: int, size_bytes: int | None) -> str:
    """How much of `size_bytes` is cached; of an unknown size nothing, of an empty file all."""
    if size_bytes is None:
        return "0"
    return str(min(100, cached_bytes * 100 // size_bytes)) if size_bytes else "100"


def _metadata(metadata: Mapping[str, object]) -> str:
    text = json.dumps(dict(metadata), default=str, separators=(",", ":"))
    if len(text) > _VALUE_MAX_BYTES:
        return json.dumps({"too_large_to_show": len(text)})
    return text


def _encoded(values: Mapping[str, str | None]) -> Mapping[str, bytes]:
    return {
        PREFIX + name: value.encode("utf-8", "backslashreplace")[:_VALUE_MAX_BYTES]
        for name, value in values.items()
        if value
    }


REFRESH = "user.artifactfs.refresh"
RETRY = "user.artifactfs.retry"
PIN = "user.artifactfs.pin"
LEAVE = "user.artifactfs.leave"

REFRESH_WAIT_S = 30.0


class Commands:
    """What a mount can be told to do, each as an order. No method blocks; thread-safe."""

    def __init__(self, catalog: Catalog, store: CacheView, jobs: JobRegistry | None = None) -> None:
        self.orders = PendingOrders()
        self._catalog = catalog
        self._store = store
        self._jobs = jobs

    def close(self) -> None:
        """Begin no further order."""
        self.orders.close()

    def refresh(self, value: bytes) -> None:
        """Have the service asked for its listings now."""
        self.orders.give(value, self._refresh)

    def refresh_or_refuse(self, name: str, value: bytes) -> None:
        """What a read-only directory can be told."""
        if name != REFRESH:
            read_only()
        self.refresh(value)

    def pin_or_refuse(self, artifact: Artifact, name: str, value: bytes) -> None:
        """What an artifact can be told."""
        if name != PIN:
            read_only()
        act = self._store.pin if yes_or_no(name, value) else self._store.unpin
        self.orders.give(value, lambda: act(artifact))

    def _refresh(self) -> None:
        """Wait for new listings. Raises what it failed with, or `TimedOut`."""
        listed = self._catalog.refresh(REFRESH_WAIT_S)
        failure = self._catalog.failure
        if self._jobs is not None:
            self._jobs.refresh(REFRESH_WAIT_S)
        if listed:
            return
        if failure is not None:
            raise failure
        raise TimedOut(f"the service has not listed its artifacts within {REFRESH_WAIT_S:.0f} s")


def yes_or_no(name: str, value: bytes) -> bool:
    """What "1" or "0" says. Raises `OSError` EINVAL for anything else."""
    word = word_of(value)
    if word not in (b"0", b"1"):
        raise OSError(errno.EINVAL, f"{name} is 1 or 0")
    return word == b"1"


def not_kept(name: str) -> OSError:
    """That ``drop/`` keeps no attributes."""
    return OSError(errno.EOPNOTSUPP, f"{os.strerror(errno.EOPNOTSUPP)}: {name}")
