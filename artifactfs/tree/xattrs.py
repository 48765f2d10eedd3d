"""What extended attributes say of an artifact, of an entry in ``drop/`` and of a job.

All are text. What is unknown is left out rather than empty. `cached` and `progress` are whole
percents, rounded down, so that 100 means all of it. `metadata` is one JSON object of whatever else
the service says; `filename` is the service's own, which the path may show escaped or shortened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from artifactfs.model import (
    Artifact,
    Job,
    Task,
)
from artifactfs.tree.rooms import Entry, Usage

PREFIX = "user.artifactfs."

_VALUE_MAX_BYTES = 65_536  # XATTR_SIZE_MAX, include/uapi/linux/limits.h


def of_artifact(artifact: Artifact, usage: Usage) -> Mapping[str, bytes]:
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


def of_entry(entry: Entry) -> Mapping[str, bytes]:
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


class Verdict(Protocol):
    """What a job's result says of itself; `quality` goes from 0 to 1."""

    @property
    def quality(self) -> float | None: ...
    @property
    def completeness(self) -> str | None: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...


def of_job(job: Job | None, verdict: Verdict | None) -> Mapping[str, bytes]:
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
