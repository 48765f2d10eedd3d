"""Jobs, results, tasks, output and event streams, played by whoever posts to ``/api/v1/_dev/``.

A job is what was posted, kept in memory: nothing here runs anything. Each change is an event with a
number; streams send the events of a job, a list of jobs or a project, resume after
``Last-Event-ID``, and send a comment as a heartbeat when nothing happens.

    POST _dev/jobs                 {"id", "account"?, …}      make or replace a job
    POST _dev/jobs/<id>            {…}                        change fields: status, error, result …
    POST _dev/jobs/<id>/tasks      {"index", "append"?, …}    change a task, or append to its output
    POST _dev/artifacts            {"artifacts": [{"filename" | "filename_base64",
                                   "content" (base64) | "text", "account"?, "job_id"?}]}
    POST _dev/tokens               {"token", "account", "role"};  DELETE with {"token"}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

from artifactfs.controller.accounts import Caller
from artifactfs.controller.answers import Refusal, iso, json_body, not_found, required

ENDED = ("completed", "partial", "failed", "cancelled")
TAIL_CHARS = 4096
OUTPUT_CHARS = 10_240
HEARTBEAT_S = 5.0
KEPT_EVENTS = 10_000


@dataclass
class Task:
    """One task of a job: its fields, and all it has printed."""

    index: int
    fields: dict[str, Any] = field(default_factory=dict)
    printed: str = ""

    def document(self) -> dict[str, Any]:
        """The task as ``/tasks`` shows it."""
        shown = {"id": f"task_{self.index}", "index": self.index, "status": "running"}
        return (
            shown
            | {
                "output": self.printed[-OUTPUT_CHARS:],
                "live_feedback": {"output_tail": self.printed[-TAIL_CHARS:]},
            }
            | self.fields
        )


@dataclass
class Job:
    """One job: its account, its fields, its tasks, what ``/output`` and ``/results`` say."""

    id: str
    account: str
    fields: dict[str, Any]
    tasks: dict[int, Task] = field(default_factory=dict)
    output: str | None = None
    result: Any = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.fields.get("status") in ENDED

    def document(self) -> dict[str, Any]:
        """The job as ``/jobs/<id>`` shows it."""
        return {"id": self.id, "status": "queued", "project": None} | self.fields


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    number: int
    kind: str
    job: Job
    data: dict[str, Any]

    def frame(self) -> bytes:
        """The event as a server-sent one."""
        text = json.dumps(self.data)
        return f"id: {self.number}\nevent: {self.kind}\ndata: {text}\n\n".encode()


class Jobs:
    """All jobs and the events about them. For the event loop's thread."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._number = 0
        self._happened = asyncio.Condition()
        self._closing = False

    def _find(self, request: web.Request, caller: Caller) -> Job:
        return self._named(request.match_info["id"], caller)

    def _named(self, job_id: str, caller: Caller) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise not_found(f"the job {job_id}")
        if job.account != caller.account:
            raise Refusal(403, "forbidden", "the job belongs to another account")
        return job

    # Reading

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /jobs."""
        cursor, limit = request.query.get("cursor", "0"), request.query.get("limit", "1000")
        if not cursor.isdigit() or not limit.isdigit() or int(limit) < 1:
            raise Refusal(400, "invalid_field", "limit and cursor are numbers")
        mine = [job for job in self._jobs.values() if job.account == caller.account]
        stop = int(cursor) + int(limit)
        return web.json_response(
            {
                "jobs": [job.document() for job in mine[int(cursor) : stop]],
                "next_cursor": str(stop) if stop < len(mine) else None,
            }
        )

    async def projects(self, _: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /projects."""
        mine = [job for job in self._jobs.values() if job.account == caller.account]
        names = sorted({job.fields["project"] for job in mine if job.fields.get("project")})
        return web.json_response({"projects": [{"name": name} for name in names]})

    async def get(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /jobs/<id>."""
        return web.json_response(self._find(request, caller).document())

    async def tasks(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /jobs/<id>/tasks."""
        tasks = self._find(request, caller).tasks
        return web.json_response({"tasks": [tasks[index].document() for index in sorted(tasks)]})

    async def output(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /jobs/<id>/output."""
        job = self._find(request, caller)
        printed = "".join(job.tasks[index].printed for index in sorted(job.tasks))
        return web.Response(text=printed if job.output is None else job.output)

    async def result(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /results/<id>."""
        job = self._find(request, caller)
        if job.result is None:
            raise Refusal(409 if not job.ended else 404, "no_result", "there is no result yet")
        return web.json_response(job.result)

    # Streams

    async def stream(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /jobs/<id>/stream; ends when the job has."""
        job = self._find(request, caller)
        return await self._send(request, lambda other: other is job, lambda: job.ended)

    async def watch(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /jobs/watch?ids=a,b; ends when all have."""
        ids = [one for one in request.query.get("ids", "").split(",") if one]
        if not ids:
            raise Refusal(422, "invalid_field", "ids is missing")
        jobs = [self._named(one, caller) for one in ids]
        return await self._send(
            request, lambda other: other in jobs, lambda: all(job.ended for job in jobs)
        )

    async def project(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /projects/<name>/stream."""
        name = request.match_info["name"]
        return await self._send(
            request,
            lambda other: (other.account, other.fields.get("project")) == (caller.account, name),
            lambda: False,
        )

    async def _send(
        self, request: web.Request, wanted: Callable[[Job], bool], over: Callable[[], bool]
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        await response.write(b"retry: 1000\n\n")
        last = request.headers.get("Last-Event-ID", "")
        seen = int(last) if last.isdigit() else 0
        if not last:
            for job in self._jobs.values():
                if wanted(job):
                    await response.write(self._snapshot(job))
            seen = self._number
        with contextlib.suppress(ConnectionResetError):
            while not self._closing:
                fresh = [event for event in self._events if event.number > seen]
                for event in fresh:
                    if wanted(event.job):
                        await response.write(event.frame())
                seen = self._number
                if over():
                    break
                try:
                    async with asyncio.timeout(HEARTBEAT_S), self._happened:
                        await self._happened.wait_for(partial(self._is_after, seen))
                except TimeoutError:
                    await response.write(b": heartbeat\n\n")
        return response

    def _is_after(self, seen: int) -> bool:
        return self._closing or self._number > seen

    def _snapshot(self, job: Job) -> bytes:
        tasks = [job.tasks[index].document() for index in sorted(job.tasks)]
        data = {"job": job.document(), "tasks": tasks, "job_id": job.id}
        return Event(self._number, "snapshot", job, data).frame()

    # Playing

    async def put_job(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST _dev/jobs."""
        caller.may_direct()
        body = await json_body(request)
        job_id = required(body, "id", str)
        account = body.pop("account", caller.account)
        tasks = body.pop("tasks", [])
        job = Job(job_id, account, {"created_at": iso(time.time())} | body)
        job.output, job.result = body.pop("output", None), body.pop("result", None)
        for task in tasks:
            job.tasks[task["index"]] = Task(task["index"], task)
        self._jobs[job_id] = job
        await self._tell("job", job, job.document())
        return web.json_response(job.document(), status=201)

    async def change_job(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST _dev/jobs/<id>."""
        caller.may_direct()
        job = self._jobs.get(request.match_info["id"])
        if job is None:
            raise not_found("the job")
        body = await json_body(request)
        if "output" in body:
            job.output = body.pop("output")
        if "result" in body:
            job.result = body.pop("result")
        job.fields |= body
        await self._tell("job", job, job.document())
        return web.json_response(job.document())

    async def change_task(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST _dev/jobs/<id>/tasks."""
        caller.may_direct()
        job = self._jobs.get(request.match_info["id"])
        if job is None:
            raise not_found("the job")
        body = await json_body(request)
        index = required(body, "index", int)
        task = job.tasks.setdefault(index, Task(index))
        if body.pop("again", False):
            task.printed = ""
        task.printed += body.pop("append", "")
        task.fields |= body
        shown = task.document()
        await self._tell("task", job, {"job_id": job.id, "task": shown})
        return web.json_response(shown)

    async def _tell(self, kind: str, job: Job, data: dict[str, Any]) -> None:
        async with self._happened:
            self._number += 1
            self._events.append(Event(self._number, kind, job, data))
            self._happened.notify_all()

    async def close(self) -> None:
        """End every stream."""
        async with self._happened:
            self._closing = True
            self._happened.notify_all()
