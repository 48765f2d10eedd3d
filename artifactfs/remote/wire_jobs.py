"""The second leaf of ``wire_artifacts``: the JSON of jobs, tasks, results and their events.

Next to nothing of it is documented, so what stands here is lenient: a field that is not there or is
of another kind is None, and only what has no id at all is left out. The documents themselves
(``job.json``, ``result.json``, ``tasks.json``) reach the user as the service sent them; what is
read here is what the project itself must know: whether a job has ended, what its tasks have
printed, how good it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from artifactfs.errors import BadAnswer
from artifactfs.model import (
    Change,
    Job,
    Task,
)
from artifactfs.remote.wire_artifacts import (
    MOST_SIZE_BYTES,
    ArtifactPage,
    created_of,
    identity_of,
    is_text,
    name_of,
    page,
    parse,
    time_of,
    usable,
    words,
)

_JOB_LISTS = ("jobs", "items", "data")
TASK_LISTS = ("tasks", "items", "data")
_PROJECT_LISTS = ("projects", "items", "data")
MOST_WARNINGS = 100
_MAX_STEPS = 1e300  # what a float holds

_JOB_ID = ("job_id", "id")
_TASK_ID = ("task_id", "id")
_INDEX = ("index", "task_index", "number")
_ATTEMPT = ("attempt", "attempt_number", "attempts", "retry_count", "retries")
_CREATED = ("created_at", "inserted_at", "submitted_at")
_CHANGED = ("finished_at", "completed_at", "ended_at", "updated_at", "started_at")
_FRACTION = ("fraction", "progress", "ratio", "percent", "percentage", "pct")
_DOING = ("message", "text", "status", "stage", "step_name")
_QUALITY = ("result_quality", "quality", "min_result_quality")
_DELTAS = ("tasks", "task_deltas", "deltas")
_OUTPUT = ("output", "stdout", "stderr", "error")

_log = logging.getLogger(__name__)

Raw = Mapping[str, Any]


def _value(document: Raw, keys: tuple[str, ...]) -> Any:
    return next((document[key] for key in keys if document.get(key) is not None), None)


def _name(value: Any) -> str | None:
    name = name_of(value, numbers=True)
    return name if name and is_text(name) else None


def _line(value: Any) -> str | None:
    """An error or an action as one line: text, or an object that has a message."""
    if isinstance(value, dict):
        value = _value(value, ("message", "error", "code", "text", "description"))
    return words(value) or None if isinstance(value, str) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any, least: int = 0) -> int | None:
    """A whole number that 64 bits hold."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if least <= value <= MOST_SIZE_BYTES else None


def _part(value: Any, *, of_hundred: bool = False) -> float | None:
    """A part of the whole, 0 to 1; numbers above 1 are percents."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    value = min(max(value, 0), 100)
    return min(value / 100 if of_hundred or value > 1 else float(value), 1.0)


def _progress(value: Any) -> tuple[float | None, str | None]:
    """How far, and at what: from a number, a text, or an object with either."""
    if isinstance(value, str):
        return None, words(value) or None
    if not isinstance(value, dict):
        return _part(value), None
    doing = _line(_value(value, _DOING))
    step, total = _value(value, ("step", "current", "done")), _value(value, ("total", "steps"))
    if isinstance(step, int | float) and isinstance(total, int | float) and total > 0:
        step, total = min(step, _MAX_STEPS), min(total, _MAX_STEPS)
        return (1.0 if step >= total else max(step, 0) / total), doing
    for key in _FRACTION:
        part = _part(value.get(key), of_hundred=key.startswith(("percent", "pct")))
        if part is not None:
            return part, doing
    return None, doing


def _unwrapped(document: Any, wrappers: tuple[str, ...], own: tuple[str, ...]) -> Any:
    if isinstance(document, dict) and _value(document, own) is None:
        for wrapper in wrappers:
            if isinstance(document.get(wrapper), dict):
                return document[wrapper]
    return document


def job(document: Any, job_id: str | None = None) -> Job:
    """One job; `job_id` where the call has named it. Raises ValueError if nobody says its id."""
    document = _unwrapped(document, ("job", "data"), (*_JOB_ID, "status"))
    if not isinstance(document, dict):
        raise ValueError("it is not an object")
    identity = job_id or identity_of(_value(document, ("id", "job_id")))
    progress, _ = _progress(_value(document, ("progress", "latest_progress")))
    project = document.get("project")
    if isinstance(project, dict):
        project = _value(project, ("name", "id"))
    status = document.get("status")
    return Job(
        id=identity,
        status=words(status).lower() or None if isinstance(status, str) else None,
        project=_name(project if project is not None else document.get("project_name")),
        created_at=created_of(time_of(_value(document, _CREATED))),
        changed_at=_latest(document),
        error=_line(document.get("error")),
        recommended_action=_line(document.get("recommended_action")),
        progress=progress,
        quality=_part(_value(document, _QUALITY)),
        client_ref=_line(document.get("client_ref")),
    )


def _latest(document: Raw) -> datetime | None:
    times = [created_of(time_of(document.get(key))) for key in _CHANGED]
    return max((time for time in times if time is not None), default=None)


def jobs_page(body: bytes, what: str) -> ArtifactPage:
    """A page of the list of jobs. Raises `BadAnswer`."""
    return page(parse(body, what), what, _JOB_LISTS)


def jobs(entries: tuple[Any, ...], warned: set[str] | None = None) -> Iterator[Job]:
    """The usable jobs of a page; each other one is named in a warning, see `wire.usable`."""
    return usable(entries, job, "a job", warned)


def answered_job(data: bytes, job_id: str) -> Job:
    """The job that GET /jobs/<id> answers with. Raises `BadAnswer`."""
    what = f"GET /jobs/{words(job_id)}"
    try:
        found = job(parse(data, what), job_id)
    except ValueError as error:
        raise BadAnswer(f"{what}: no usable job in the answer: {error}") from error
    if found.status is None:
        raise BadAnswer(f"{what}: the answer has no status")
    return found


def projects_page(body: bytes, what: str) -> ArtifactPage:
    """A page of the list of projects. Raises `BadAnswer`."""
    return page(parse(body, what), what, _PROJECT_LISTS)


def projects(entries: tuple[Any, ...], warned: set[str] | None = None) -> Iterator[str]:
    """The names of a page of projects; each other entry is named in a warning, see `usable`."""
    return usable(entries, _project, "a project", warned)


def _project(entry: Any) -> str:
    name = _value(entry, ("name", "id", "project")) if isinstance(entry, dict) else entry
    if not isinstance(name, str) or not (name := _name(name) or ""):
        raise ValueError("it has no name")
    return name


def task(document: Raw, place: int | None = None) -> Task:
    """One task, or what an event tells of one; `place` is its place in a list of all."""
    feedback = document.get("live_feedback")
    tail = feedback.get("output_tail") if isinstance(feedback, dict) else None
    if tail is None:
        tail = document.get("output_tail")
    progress, doing = _progress(document.get("latest_progress"))
    index, status = _whole(_value(document, _INDEX)), document.get("status")
    return Task(
        index=place if index is None else index,
        id=_name(_value(document, _TASK_ID)),
        status=words(status).lower() or None if isinstance(status, str) else None,
        attempt=_whole(_value(document, _ATTEMPT)),
        error=_line(document.get("error")),
        exit_code=_whole(document.get("exit_code"), -MOST_SIZE_BYTES),
        output=_text(document.get("output")),
        output_tail=_text(tail),
        progress=progress,
        doing=doing,
        quality=_part(_value(document, _QUALITY)),
    )


def tasks_of(
    data: bytes, what: str, warned: set[str] | None = None
) -> tuple[tuple[Task, Raw], ...]:
    """The tasks in the answer of GET /jobs/<id>/tasks, in the service's order, each with its JSON.

    What is no task is named in a warning. Raises `BadAnswer`.
    """
    document = parse(data, what)
    entries = document if isinstance(document, list) else None
    if isinstance(document, dict):
        entries = _value(document, TASK_LISTS)
    if not isinstance(entries, list):
        raise BadAnswer(f"{what}: the answer has no list {' or '.join(TASK_LISTS)}")
    return tuple(_tasks(entries, warned, numbered=True))


def _tasks(
    entries: list[Any], warned: set[str] | None, *, numbered: bool
) -> Iterator[tuple[Task, Raw]]:
    """Each task with its JSON. `numbered`: without an index its place in the list is its index."""
    places = iter(range(len(entries)))

    def read(entry: Any) -> tuple[Task, Raw]:
        place = next(places)
        if not isinstance(entry, dict):
            raise ValueError("it is not an object")
        return task(entry, place if numbered else None), entry

    return usable(entries, read, "a task", warned)


def change(kind: str, data: str, job_id: str | None = None) -> Change | None:
    """What an event tells of a job, or None for what is none of ours.

    `job_id` is whose stream it is, where it is one job's.
    """
    try:
        document = parse(data, "an event")
    except BadAnswer:
        _log.debug("an event %s is not JSON", words(kind))
        return None
    document = _unwrapped(document, ("data", "payload"), (*_JOB_ID, *_TASK_ID, *_DELTAS, "job"))
    if not isinstance(document, dict):
        return None
    inner = document.get("job")
    said = _name(document.get("job_id")) or (
        _name(_value(inner, _JOB_ID)) if isinstance(inner, dict) else None
    )
    deltas = _value(document, _DELTAS)
    if isinstance(deltas, list):
        # Only where it is all of them is a task's place its index.
        whole = "tasks" in document and (kind == "snapshot" or isinstance(inner, dict))
        found = tuple(one for one, _ in _tasks(deltas, set(), numbered=whole))
    elif isinstance(single := document.get("task"), dict):
        whole, found = False, (task(single),)
    elif kind.startswith("task") or "task_id" in document or "live_feedback" in document:
        whole, found = False, (task(document),)
    else:
        whole, found = False, ()
        inner = inner if isinstance(inner, dict) else document
        said = said or (_name(inner.get("id")) if "status" in inner else None)
    identity = said or job_id
    if identity is None:
        return None
    about = job(inner, identity) if isinstance(inner, dict) else None
    if about is None and not found:
        return None
    return Change(identity, about, found, whole)


@dataclass(frozen=True, slots=True)
class ResultVerdict:
    """What a job's result says of itself. `quality` is the least of its tasks."""

    quality: float | None
    completeness: str | None
    warnings: tuple[str, ...]


def verdict(data: bytes) -> ResultVerdict:
    """From the answer of GET /results/<id>, whatever shape it has."""
    document = _unwrapped(parse(data, "GET /results/…"), ("result", "data"), ("tasks", "summary"))
    if not isinstance(document, dict):
        return ResultVerdict(None, None, ())
    entries = _value(document, ("tasks", "results", "task_results"))
    if isinstance(entries, dict):
        entries = list(entries.values())
    parts = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    qualities = [part for one in parts if (part := _part(_value(one, _QUALITY))) is not None]
    if not qualities and (own := _part(_value(document, _QUALITY))) is not None:
        qualities = [own]
    warnings: list[str] = []
    for one in (document, *parts):
        said = one.get("result_warnings")
        many = said if isinstance(said, list) else [said] if said else []
        warnings += [_line(warning) or words(json.dumps(warning)) for warning in many]
    said_of_all = complete = document.get("completeness")
    if complete is not None:
        said_of_all = words(complete if isinstance(complete, str) else json.dumps(complete))
    return ResultVerdict(
        quality=min(qualities, default=None),
        completeness=said_of_all,
        warnings=tuple(warnings[:MOST_WARNINGS]),
    )


def output(data: bytes, content_type: str) -> bytes:
    """What GET /jobs/<id>/output says: text as it is, or the texts of a JSON object."""
    if "json" not in content_type.lower():
        return data
    try:
        document = parse(data, "an output")
    except BadAnswer:
        return data
    if isinstance(document, str):
        return document.encode("utf-8", "replace")
    if not isinstance(document, dict):
        return data
    document = _unwrapped(document, ("data",), _OUTPUT)
    texts = [said for key in _OUTPUT if isinstance(said := document.get(key), str) and said]
    if isinstance(document.get("output"), str) and document["output"]:
        texts = texts[:1]
    joined = "".join(text if text.endswith("\n") else f"{text}\n" for text in texts)
    return (texts[0] if len(texts) == 1 else joined).encode("utf-8", "replace")
