"""An artifact, as the rest of the project knows it.

``remote.wire`` makes these from the service's JSON, whatever shape that had; everyone else only
reads them. An artifact never changes: a new listing brings new values.

Jobs and their tasks, as the rest of the project knows them.

``remote.wire`` makes these from the service's JSON, whatever shape that had; everyone else only
reads them. What the service does not say is None, and in a `Change` that means "as it was": events
tell only what is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact of the service.

    `id` is opaque and not a safe file name. `sha256` is 64 lowercase hex digits or None,
    `size_bytes` is exact or None: a reference to an external URL may have neither before it is
    read. `filename`
    is what the service says, unsafe and possibly with ``/``; it is the id where the service says
    nothing. Times are UTC. `metadata` holds the keys of the service's object that have no field
    here, as parsed JSON.
    """

    id: str
    filename: str
    created_at: datetime
    expires_at: datetime
    sha256: str | None = None
    size_bytes: int | None = None
    content_type: str = "application/octet-stream"
    status: str = "ready"
    external_url: str | None = None
    job_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)


T = TypeVar("T", "Job", "Task")

OUTPUT_BYTES = 10_000  # the service shows no more of a task's output with the task
ENDED = frozenset({"completed", "partial", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Job:
    """One job. Any `status` but those of `ENDED` means that it goes on.

    `progress` and `quality` go from 0 to 1. Times are UTC. `client_ref` is what whoever submitted
    it calls it.
    """

    id: str
    status: str | None = None
    project: str | None = None
    created_at: datetime | None = None
    changed_at: datetime | None = None
    error: str | None = None
    recommended_action: str | None = None
    progress: float | None = None
    quality: float | None = None
    client_ref: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED

    def over(self, before: Job | None) -> Job:
        """This, and what it does not say as it was `before`."""
        return self if before is None else _over(self, before)


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a job, known by its `index`, its `id` or both.

    `output` is what it has printed, up to a limit of the service's; all of it if `from_start`.
    `output_tail` is the end of that while the task runs: it may overlap what was said before, or
    have skipped over some.
    """

    index: int | None = None
    id: str | None = None
    status: str | None = None
    attempt: int | None = None
    error: str | None = None
    exit_code: int | None = None
    output: str | None = None
    output_tail: str | None = None
    progress: float | None = None
    doing: str | None = None
    quality: float | None = None
    from_start: bool | None = None

    @property
    def ended(self) -> bool:
        """Whether this attempt is over."""
        return self.status in ENDED

    def over(self, before: Task | None) -> Task:
        """This, and what it does not say as it was `before`."""
        return self if before is None else _over(self, before)


@dataclass(frozen=True, slots=True)
class Change:
    """What is new about one job: an event of a stream, or an answer to a poll.

    `whole`: `tasks` are all there are.
    """

    job_id: str
    job: Job | None = None
    tasks: tuple[Task, ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An event as the service sent it: its kind, its id, and its data, which mostly is JSON."""

    kind: str
    id: str
    data: str


def with_beginning(change: Change, output: str | None) -> Change:
    """`change` of a job's only task with all of its output, if `output` holds what it has."""
    (task,) = change.tasks
    known = task.output or task.output_tail or ""
    if not output or known not in output:
        return change
    return replace(change, tasks=(replace(task, output=output, output_tail=None, from_start=True),))


def lacks_beginning(change: Change) -> bool:
    """Whether the output of a job's only task may be longer than the service shows with it."""
    if len(change.tasks) != 1:
        return False
    task = change.tasks[0]
    shown = task.output or task.output_tail or ""
    if task.output and task.output_tail and not task.output.endswith(task.output_tail):
        return False  # it is an attempt's before
    return len(shown.encode("utf-8", "replace")) >= OUTPUT_BYTES


def _over(new: T, before: T) -> T:
    missing = {name: getattr(before, name) for name in new.__slots__ if getattr(new, name) is None}
    return replace(new, **missing)
