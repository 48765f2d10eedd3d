"""What happens to jobs, as server-sent events.

Each change is an event with a number. A stream begins with a snapshot of what it is about, or, if
the client says by ``Last-Event-ID`` what it has seen, with all it has missed; then come the events
as they happen, and a comment now and then as a heartbeat. The streams of jobs end when the jobs
have; a project's does not.

    event: snapshot   {"job_id", "job": {…}, "tasks": [{…}]}
    event: job        the job as ``/jobs/<id>`` shows it, and its "job_id"
    event: task       {"job_id", "task_id", "index", "status", …, "live_feedback": {"output_tail"}}

The last events are kept, over a restart too. A client that has seen less than what is kept gets a
snapshot instead: nothing it needs is missing then, but what was between.
"""

from __future__ import annotations

import asyncio
import bisect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from artifactfs.server.auth import Account
from artifactfs.server.database import (
    Change,
    DatabaseBackend,
    SqliteDatabase,
)
from artifactfs.server.job_routes import JobRoutes, ServerJob
from artifactfs.server.responses import invalid

KEPT_EVENTS = 10_000
RETRY_MS = 250
MOST_WATCHED = 1000


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """Something that happened to a job. `data` is JSON."""

    number: int
    job_id: str
    account: str
    project: str | None
    kind: str
    data: str

    def frame(self) -> bytes:
        """The event as it goes over the line."""
        return frame(self.number, self.kind, self.data)


def frame(number: int, kind: str, data: str) -> bytes:
    """One server-sent event; each line of `data` is a ``data:`` line of its own."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"id: {number}\nevent: {kind}\n{lines}\n".encode()


class EventStreams:
    """The events, and everyone who follows them. For the event loop's thread."""

    def __init__(self, index: SqliteDatabase, jobs: JobRoutes, heartbeat_s: float) -> None:
        self._index = index
        self._jobs = jobs
        self._heartbeat_s = heartbeat_s
        self._events: list[StoredEvent] = []
        self._given = 0
        self._happened = asyncio.Event()
        self._closing = False

    def load(self) -> None:
        """Read the events that were kept."""
        rows = self._index.few(
            "SELECT number, job_id, account, project, kind, data FROM events"
            " ORDER BY number DESC LIMIT ?",
            KEPT_EVENTS,
        )
        self._events = [StoredEvent(*row) for row in reversed(rows)]
        self._given = self._events[-1].number if self._events else 0

    async def tell(self, job: ServerJob, kind: str, data: Any, *changes: Change[Any]) -> None:
        """Note an event together with `changes` to the index, then send it to who follows."""
        self._given += 1
        event = StoredEvent(self._given, job.id, job.account, job.project, kind, json.dumps(data))

        def change(database: DatabaseBackend) -> None:
            for one in changes:
                one(database)
            database.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                (event.number, event.job_id, event.account, event.project, kind, event.data),
            )
            database.execute("DELETE FROM events WHERE number <= ?", (event.number - KEPT_EVENTS,))

        await self._index.write(change)
        self._events.append(event)
        if len(self._events) > 2 * KEPT_EVENTS:
            del self._events[:-KEPT_EVENTS]
        self._wake()

    # The calls

    async def job(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET /jobs/<id>/stream."""
        job = self._jobs.seen_by(caller, request.match_info["id"])
        return await self._follow(request, lambda: [job.id], None)

    async def watch(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET /jobs/watch?ids=a,b."""
        ids = [one for one in request.query.get("ids", "").split(",") if one]
        if not 0 < len(ids) <= MOST_WATCHED:
            raise invalid(f"ids names between 1 and {MOST_WATCHED} jobs")
        for job_id in ids:
            self._jobs.seen_by(caller, job_id)
        return await self._follow(request, lambda: ids, None)

    async def project(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET /projects/<name>/stream."""
        name = request.match_info["name"]

        def ids() -> list[str]:
            return [job.id for job in self._jobs.of_project(caller.account, name)]

        return await self._follow(request, ids, (caller.account, name))

    async def _follow(
        self,
        request: web.Request,
        ids: Callable[[], list[str]],
        project: tuple[str, str] | None,
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        await response.write(f"retry: {RETRY_MS}\n\n".encode())
        seen = self._seen(request.headers.get("Last-Event-ID", ""))
        if seen is None:
            seen = self._events[-1].number if self._events else 0
            for job_id in ids():
                await response.write(self._snapshot(self._jobs.named(job_id), seen))
        watched = frozenset(ids())
        while not self._closing:
            happened = self._happened
            for event in self._after(seen):
                seen = event.number
                if event.job_id in watched or project == (event.account, event.project):
                    await response.write(event.frame())
            if self._happened is not happened:
                continue
            if project is None and all(self._jobs.named(one).ended for one in watched):
                break
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await happened.wait()
            except TimeoutError:
                await response.write(b": heartbeat\n\n")
        return response

    def _seen(self, last_event_id: str) -> int | None:
        """The number a client has seen, if all that came after it is kept."""
        if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 18:
            return None
        number = int(last_event_id)
        first = self._events[0].number if self._events else 1
        last = self._events[-1].number if self._events else 0
        return number if first - 1 <= number <= last else None

    def _after(self, number: int) -> list[StoredEvent]:
        first = bisect.bisect_right(self._events, number, key=lambda event: event.number)
        return self._events[first:]

    def _snapshot(self, job: ServerJob, number: int) -> bytes:
        data = {"job_id": job.id, "job": job.document(), "tasks": job.all_tasks()}
        return frame(number, "snapshot", json.dumps(data, indent=1))

    def _wake(self) -> None:
        happened, self._happened = self._happened, asyncio.Event()
        happened.set()

    async def close(self) -> None:
        """End every stream."""
        self._closing = True
        self._wake()
