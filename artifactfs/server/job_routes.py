"""Jobs, their tasks, outputs and results: what is known of them, and the calls that read it.

Nothing here runs anything: jobs are what ``_dev`` has said they are (see ``dev_routes``). They stay
over a restart. In memory is everything; each change is written to the index together with its event
before it is answered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from artifactfs.server.auth import Account
from artifactfs.server.database import DatabaseBackend, SqliteDatabase
from artifactfs.server.responses import (
    Refusal,
    iso,
    not_found,
    number_in,
)

ENDED = frozenset({"completed", "partial", "failed", "cancelled"})
TAIL_CHARS = 4096
OUTPUT_CHARS = 10_240
USUAL_PAGE = 1000
MOST_PAGE = 10_000


@dataclass(slots=True)
class ServerTask:
    """One task of a job: its fields, what it has printed, what its attempt before had printed."""

    index: int
    fields: dict[str, Any] = field(default_factory=dict)
    printed: list[str] = field(default_factory=list)
    before: str = ""

    @property
    def output(self) -> str:
        """All it has printed; what the failed attempt before had, until it prints itself."""
        return "".join(self.printed) or self.before

    def document(self) -> dict[str, Any]:
        """The task as ``/tasks`` shows it. What `fields` says counts."""
        shown = {
            "id": f"task_{self.index}",
            "index": self.index,
            "status": "running",
            "error": None,
            "exit_code": None,
            "latest_progress": None,
            "output": self.output[-OUTPUT_CHARS:],
            "live_feedback": {"output_tail": "".join(self.printed)[-TAIL_CHARS:]},
        }
        return shown | self.fields

    def state(self) -> str:
        """What the index keeps beside what was printed."""
        return json.dumps({"fields": self.fields, "before": self.before})


@dataclass(slots=True)
class ServerJob:
    """One job. `result` is JSON as text, served as it is; `output`, if set, all of ``/output``."""

    number: int
    id: str
    account: str
    fields: dict[str, Any]
    tasks: dict[int, ServerTask] = field(default_factory=dict)
    output: str | None = None
    result: str | None = None

    @property
    def status(self) -> str:
        """Its status; what is not said is ``queued``."""
        return str(self.fields.get("status", "queued"))

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED

    @property
    def project(self) -> str | None:
        """The project it belongs to."""
        project = self.fields.get("project")
        return project if isinstance(project, str) else None

    def document(self) -> dict[str, Any]:
        """The job as ``/jobs/<id>`` shows it."""
        shown = {"id": self.id, "status": self.status, "project": None, "error": None}
        return shown | {"recommended_action": None, "created_at": iso(0)} | self.fields

    def all_tasks(self) -> list[dict[str, Any]]:
        """The tasks as ``/tasks`` shows them."""
        return [self.tasks[index].document() for index in sorted(self.tasks)]

    def all_output(self) -> str:
        """What ``/output`` says."""
        if self.output is not None:
            return self.output
        return "".join(self.tasks[index].output for index in sorted(self.tasks))

    def state(self) -> str:
        """What the index keeps beside the tasks."""
        return json.dumps({"fields": self.fields, "output": self.output, "result": self.result})


class JobRoutes:
    """All jobs, for the event loop's thread."""

    def __init__(self, index: SqliteDatabase) -> None:
        self._index = index
        self._jobs: dict[str, ServerJob] = {}
        self._numbers = 0

    def load(self) -> None:
        """Read what was known before."""
        for number, job_id, account, state in self._index.few(
            "SELECT number, id, account, state FROM jobs ORDER BY number"
        ):
            self._jobs[job_id] = ServerJob(number, job_id, account, **json.loads(state))
            self._numbers = number
        for job_id, index, state in self._index.few("SELECT job_id, task, state FROM tasks"):
            self._jobs[job_id].tasks[index] = ServerTask(index, **json.loads(state))
        for job_id, index, text in self._index.few(
            "SELECT job_id, task, text FROM printed ORDER BY number"
        ):
            self._jobs[job_id].tasks[index].printed.append(text)

    # What other rooms ask

    def add(self, job_id: str, account: str, fields: dict[str, Any]) -> ServerJob:
        """A new job, in the place of one with this id. Not in the index before it is saved."""
        before = self._jobs.get(job_id)
        self._numbers += 1
        number = self._numbers if before is None else before.number
        self._jobs[job_id] = job = ServerJob(number, job_id, account, fields)
        return job

    def named(self, job_id: str) -> ServerJob:
        """A job by its id. Raises `Refusal` 404."""
        job = self._jobs.get(job_id)
        if job is None:
            raise not_found(f"the job {job_id}")
        return job

    def seen_by(self, caller: Account, job_id: str) -> ServerJob:
        """A job of the caller's account. Raises `Refusal` 404, 403."""
        job = self.named(job_id)
        caller.owns(job.account, f"the job {job_id}")
        return job

    def of_project(self, account: str, project: str) -> list[ServerJob]:
        """The jobs of a project."""
        return [job for job in self._of(account) if job.project == project]

    def _of(self, account: str) -> list[ServerJob]:
        return [job for job in self._jobs.values() if job.account == account]

    @staticmethod
    def save(database: DatabaseBackend, job: ServerJob, state: str) -> None:
        """Write a job and nothing of its tasks. In the index's thread."""
        database.execute(
            "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?)",
            (job.number, job.id, job.account, state),
        )

    # The calls

    async def list(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET /jobs, newest first; the cursor is the number of the last one shown."""
        limit = min(number_in(request.query, "limit", USUAL_PAGE, least=1), MOST_PAGE)
        cursor = number_in(request.query, "cursor", self._numbers + 1)
        found = [job for job in self._of(caller.account) if job.number < cursor]
        found.sort(key=lambda job: job.number, reverse=True)
        following = str(found[limit - 1].number) if len(found) > limit else None
        shown = [job.document() for job in found[:limit]]
        return web.json_response({"jobs": shown, "next_cursor": following})

    async def projects(self, _: web.Request, caller: Account) -> web.StreamResponse:
        """GET /projects."""
        names = {job.project for job in self._of(caller.account) if job.project}
        return web.json_response({"projects": [{"name": name} for name in sorted(names)]})

    async def get(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET /jobs/<id>."""
        return web.json_response(self._asked(request, caller).document())

    async def tasks(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET /jobs/<id>/tasks."""
        return web.json_response({"tasks": self._asked(request, caller).all_tasks()})

    async def output(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET /jobs/<id>/output."""
        output = self._asked(request, caller).all_output().encode("utf-8", "replace")
        return web.Response(body=output, content_type="text/plain", charset="utf-8")

    async def result(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET /results/<id>."""
        job = self._asked(request, caller)
        if job.result is None:
            if job.ended:
                raise not_found(f"a result of the job {job.id}")
            raise Refusal(
                409, "not_ended", f"the job {job.id} is {job.status}", "ask again when it has ended"
            )
        return web.Response(body=job.result.encode(), content_type="application/json")

    def _asked(self, request: web.Request, caller: Account) -> ServerJob:
        return self.seen_by(caller, request.match_info["id"])
