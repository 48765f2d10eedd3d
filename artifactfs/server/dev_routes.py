"""``/api/v1/_dev/``: what tests and demonstrations tell the service to play.

Only for the service's own token, or one whose role is ``dev``. Times are seconds.

    POST   _dev/artifacts       {"artifacts": [ARTIFACT, …]}            → {"ids"}
                                {"count": N, "filename": "f-{n}.bin", "text": "content {n}", …}
    POST   _dev/artifacts/<id>  {"expires_in_s": -1}                    have it expire then
    POST   _dev/clean           {}                       → {"removed"}  let go what has expired, now
    POST   _dev/tokens          {"token"?, "account"?, "role"?}         → {"token"}
    DELETE _dev/tokens          {"token"}
    POST   _dev/jobs            {"id", "account"?, "tasks"?, FIELDS…}   make or replace a job
    POST   _dev/jobs/<id>       {FIELDS…}                               change it: status, error, …
    POST   _dev/jobs/<id>/end   {"status"?, FIELDS…}                    "completed" if not said
    POST   _dev/jobs/<id>/tasks {"tasks": [TASK, …]}                    these instead of all others
                                TASK                                    make or change one
    POST   _dev/jobs/<id>/event {"kind", "data"}                        any event, for its streams

ARTIFACT is ``{"filename" | "filename_base64", "text" | "content" (base64), "account"?, "job_id"?,
"created"? (since the epoch), "expires_in_s"?}``. Any name will do: NUL, ``..``, nothing, and with
base64 bytes that are no UTF-8, which the list shows as lone surrogates. With ``"listed"`` (any
JSON) or ``"listed_base64"`` (any bytes) the list shows just that in the artifact's place, so that
every answer of a service can be played.

Of a job, ``"output"`` is what ``/output`` says (else what its tasks print), ``"result"`` or
``"result_text"`` what ``/results`` says; all other fields are shown as they are given.

TASK is ``{"index", "append"?, "again"?, FIELDS…}``: `append` is printed and goes to the streams as
the task's new ``live_feedback.output_tail``, `again` begins a new attempt with nothing printed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from artifactfs.server.artifact_routes import ArtifactRoutes
from artifactfs.server.artifact_table import (
    ArtifactTable,
    NewArtifact,
    new_id,
)
from artifactfs.server.auth import (
    ACCOUNT,
    Account,
    Authenticator,
    make_token,
)
from artifactfs.server.database import Change, DatabaseBackend
from artifactfs.server.event_streams import EventStreams
from artifactfs.server.job_routes import (
    JobRoutes,
    ServerJob,
    ServerTask,
)
from artifactfs.server.responses import (
    bytes_of,
    invalid,
    iso,
    json_body,
    required,
)

MOST_BYTES = 512 << 20
MOST_MADE = 1_000_000


class DevRoutes:
    """The calls below ``/api/v1/_dev/``."""

    def __init__(
        self,
        accounts: Authenticator,
        records: ArtifactTable,
        artifacts: ArtifactRoutes,
        jobs: JobRoutes,
        streams: EventStreams,
        retention_s: float,
    ) -> None:
        self._accounts = accounts
        self._records = records
        self._artifacts = artifacts
        self._jobs = jobs
        self._streams = streams
        self._retention_s = retention_s

    # Artifacts and tokens

    async def make_artifacts(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST _dev/artifacts."""
        body = await _body(request, caller)
        wanted = _many(body) if "count" in body else required(body, "artifacts", list)
        drafts: list[NewArtifact] = []
        seeds: dict[str, bytes] = {}
        for one in wanted:
            try:
                content = _content(one)
                draft = self._draft(one, caller.account, content)
            except (binascii.Error, TypeError, ValueError, AttributeError, OverflowError):
                raise invalid("an artifact cannot be read") from None
            assert draft.sha256 is not None
            seeds[draft.sha256] = content
            drafts.append(draft)
        await self._records.add_all(drafts, seeds)
        return web.json_response({"ids": [draft.id for draft in drafts]}, status=201)

    def _draft(self, wanted: Mapping[str, Any], account: str, content: bytes) -> NewArtifact:
        if "filename_base64" in wanted:
            filename = base64.b64decode(wanted["filename_base64"], validate=True)
        else:
            filename = bytes_of(str(wanted.get("filename", "")))
        listed = None
        if "listed_base64" in wanted:
            listed = base64.b64decode(wanted["listed_base64"], validate=True)
        elif "listed" in wanted:
            listed = json.dumps(wanted["listed"]).encode()
        created = float(wanted["created"]) if "created" in wanted else None
        draft = NewArtifact(
            account=str(wanted.get("account", account)),
            filename=filename,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            created=created,
            lifetime_s=float(wanted.get("expires_in_s", self._retention_s)),
            id=str(wanted.get("id", new_id())),
            job_id=wanted.get("job_id"),
            listed=listed,
        )
        draft.document(time.time() if created is None else created)
        return draft

    async def change_artifact(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST _dev/artifacts/<id>."""
        body = await _body(request, caller)
        record = self._records.named(request.match_info["id"])
        wait_s = body.get("expires_in_s")
        if not isinstance(wait_s, int | float) or abs(wait_s) > 1e9:
            raise invalid("expires_in_s is missing or is no number")
        await self._records.change_expiry(record, time.time() + wait_s)
        return web.json_response({})

    async def clean(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST _dev/clean."""
        await _body(request, caller)
        return web.json_response({"removed": await self._artifacts.clean()})

    async def add_token(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST _dev/tokens."""
        body = await _body(request, caller)
        token = str(body.get("token") or make_token())
        account, role = str(body.get("account", ACCOUNT)), str(body.get("role", "member"))
        await self._accounts.add(token, account, role)
        return web.json_response({"token": token, "account": account, "role": role}, status=201)

    async def remove_token(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """DELETE _dev/tokens."""
        body = await _body(request, caller)
        await self._accounts.remove(required(body, "token", str))
        return web.Response(status=204)

    # Jobs

    async def put_job(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST _dev/jobs."""
        body = await _body(request, caller)
        job_id, account = required(body, "id", str), str(body.pop("account", caller.account))
        tasks = _tasks(body.pop("tasks", []))
        job = self._jobs.add(job_id, account, {"created_at": iso(time.time())})
        _apply(job, body)
        job.tasks = {task.index: task for task in tasks}
        await self._tell_job(job, _saved_tasks(job))
        return web.json_response(job.document(), status=201)

    async def change_job(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST _dev/jobs/<id>."""
        body = await _body(request, caller)
        job = self._jobs.named(request.match_info["id"])
        _apply(job, body)
        await self._tell_job(job)
        return web.json_response(job.document())

    async def end_job(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST _dev/jobs/<id>/end."""
        body = await _body(request, caller)
        job = self._jobs.named(request.match_info["id"])
        _apply(job, {"status": "completed"} | body)
        await self._tell_job(job)
        return web.json_response(job.document())

    async def change_tasks(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST _dev/jobs/<id>/tasks."""
        body = await _body(request, caller)
        job = self._jobs.named(request.match_info["id"])
        if "tasks" in body:
            job.tasks = {task.index: task for task in _tasks(body["tasks"])}
            await self._tell_job(job, _saved_tasks(job))
            return web.json_response({"tasks": job.all_tasks()})
        index = required(body, "index", int)
        task = job.tasks.setdefault(index, ServerTask(index))
        again, text = bool(body.pop("again", False)), str(body.pop("append", ""))
        if again:
            task.before, task.printed = task.output, []
        if text:
            task.printed.append(text)
        task.fields |= body
        shown = task.document()
        delta = {key: value for key, value in shown.items() if key not in ("id", "output")}
        await self._streams.tell(
            job,
            "task",
            {"job_id": job.id, "task_id": shown["id"]} | delta,
            _saved_task(job.id, index, task.state(), text, again=again),
        )
        return web.json_response(shown)

    async def event(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST _dev/jobs/<id>/event."""
        body = await _body(request, caller)
        job = self._jobs.named(request.match_info["id"])
        kind = required(body, "kind", str)
        await self._streams.tell(job, kind, body.get("data"))
        return web.json_response({})

    async def _tell_job(self, job: ServerJob, *changes: Change[Any]) -> None:
        state = job.state()
        await self._streams.tell(
            job,
            "job",
            {"job_id": job.id} | job.document(),
            lambda database: self._jobs.save(database, job, state),
            *changes,
        )


async def _body(request: web.Request, caller: Account) -> dict[str, Any]:
    caller.may_direct()
    return await json_body(request, MOST_BYTES)


def _content(wanted: Mapping[str, Any]) -> bytes:
    if "text" in wanted:
        return str(wanted["text"]).encode("utf-8", "surrogatepass")
    return base64.b64decode(wanted.get("content", ""), validate=True)


def _many(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    count = required(body, "count", int)
    if not 0 <= count <= MOST_MADE:
        raise invalid(f"count is at most {MOST_MADE}")
    name, text = str(body.get("filename", "file-{n}.txt")), str(body.get("text", "{n}\n"))
    common = {key: value for key, value in body.items() if key not in ("count", "content")}
    return [
        common | {"filename": name.replace("{n}", str(n)), "text": text.replace("{n}", str(n))}
        for n in range(count)
    ]


def _apply(job: ServerJob, body: dict[str, Any]) -> None:
    if "output" in body:
        output = body.pop("output")
        job.output = None if output is None else str(output)
    if "result" in body:
        result = body.pop("result")
        job.result = None if result is None else json.dumps(result)
    if "result_text" in body:
        job.result = str(body.pop("result_text"))
    job.fields |= body


def _tasks(wanted: Any) -> list[ServerTask]:
    if not isinstance(wanted, list):
        raise invalid("tasks is a list")
    tasks = []
    for number, one in enumerate(wanted):
        if not isinstance(one, dict):
            raise invalid("a task is an object")
        index = one.get("index", number)
        if type(index) is not int:
            raise invalid("a task's index is a number")
        fields = {key: value for key, value in one.items() if key not in ("append", "again")}
        text = str(one.get("append", ""))
        tasks.append(ServerTask(index, fields, [text] if text else []))
    return tasks


def _saved_tasks(job: ServerJob) -> Change[None]:
    states = [(job.id, task.index, task.state()) for task in job.tasks.values()]
    texts = [(job.id, task.index, text) for task in job.tasks.values() for text in task.printed]

    def change(database: DatabaseBackend) -> None:
        database.execute("DELETE FROM tasks WHERE job_id = ?", (job.id,))
        database.execute("DELETE FROM printed WHERE job_id = ?", (job.id,))
        database.executemany("INSERT INTO tasks VALUES (?, ?, ?)", states)
        database.executemany("INSERT INTO printed VALUES (NULL, ?, ?, ?)", texts)

    return change


def _saved_task(job_id: str, index: int, state: str, text: str, *, again: bool) -> Change[None]:
    def change(database: DatabaseBackend) -> None:
        database.execute("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?)", (job_id, index, state))
        if again:
            database.execute("DELETE FROM printed WHERE job_id = ? AND task = ?", (job_id, index))
        if text:
            database.execute("INSERT INTO printed VALUES (NULL, ?, ?, ?)", (job_id, index, text))

    return change
