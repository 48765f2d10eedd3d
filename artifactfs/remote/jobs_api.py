"""The calls about jobs, their results and projects.

Documents come as the service sent them, in bytes that were seen to be JSON: they go to the user
unchanged. No list of jobs or projects is documented, so a service may know neither: `Unsupported`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from artifactfs.errors import (
    BadAnswer,
    Conflict,
    Gone,
    TooLarge,
)
from artifactfs.model import (
    Change,
    Job,
    StreamEvent,
    Task,
)
from artifactfs.remote import wire_artifacts, wire_jobs
from artifactfs.remote.artifacts_api import pages
from artifactfs.remote.session import HttpSession
from artifactfs.remote.sse import PATIENCE_S, EventStream
from artifactfs.remote.url import segment
from artifactfs.remote.wire_jobs import ResultVerdict

MOST_QUERY_CHARS = 6000


class JobsApi:
    """Lists jobs and projects, and tells about one."""

    def __init__(self, session: HttpSession) -> None:
        self._session = session
        self._warned: set[str] = set()

    def list(self) -> Iterator[Job]:
        """Every job, in the service's order. Raises `Unsupported` where it lists none."""
        for entries in pages(self._session, "jobs", wire_jobs.jobs_page, optional=True):
            yield from wire_jobs.jobs(entries, self._warned)

    def projects(self) -> Iterator[str]:
        """The name of every project. Raises `Unsupported` where the service lists none."""
        for entries in pages(self._session, "projects", wire_jobs.projects_page, optional=True):
            yield from wire_jobs.projects(entries, self._warned)

    def job(self, job_id: str, *, deadline_s: float | None = None) -> bytes:
        """The job's JSON. Raises `Gone`, `NotAllowed`."""
        return self._json(f"jobs/{segment(job_id)}", deadline_s)

    def tasks(self, job_id: str, *, deadline_s: float | None = None) -> bytes:
        """The JSON of its tasks. Raises `Gone`, `NotAllowed`."""
        return self._json(f"jobs/{segment(job_id)}/tasks", deadline_s)

    def result(self, job_id: str, *, deadline_s: float | None = None) -> bytes | None:
        """The JSON of its result, None while there is none."""
        try:
            return self._json(f"results/{segment(job_id)}", deadline_s)
        except (Gone, Conflict):
            return None

    def output(self, job_id: str, *, deadline_s: float | None = None) -> bytes | None:
        """What the service says now that the job has printed, None if it says nothing of it.

        Raises `TooLarge` where that is more than can be kept in memory.
        """
        try:
            data, headers = self._session.body(
                "GET", f"jobs/{segment(job_id)}/output", read=bytes, deadline_s=deadline_s
            )
        except (Gone, Conflict):
            return None
        except BadAnswer as error:
            remedy = f"`artifactfs logs -f {job_id}` shows what it prints from now on"
            raise TooLarge(error.message, remedy=remedy) from error
        return wire_jobs.output(data, headers.get("Content-Type", ""))

    def poll(self, job_id: str, *, deadline_s: float | None = None) -> Change:
        """All that is known of a job and its tasks now. Raises `Gone`, `NotAllowed`."""
        return self.read_poll(
            job_id,
            self.job(job_id, deadline_s=deadline_s),
            self.tasks(job_id, deadline_s=deadline_s),
        )

    def stream(self, job_id: str, *, last_id: str = "") -> EventStream:
        """What happens to one job."""
        return EventStream(self._session, f"jobs/{segment(job_id)}/stream", last_id=last_id)

    def watch(
        self, job_ids: Sequence[str], *, patience_s: float = PATIENCE_S
    ) -> tuple[EventStream, ...]:
        """What happens to several: one stream, or more where one URL cannot name them all."""
        groups: list[list[str]] = [[]]
        length = 0
        for job_id in job_ids:
            length += len(quote(job_id, safe="")) + 3
            if length > MOST_QUERY_CHARS and groups[-1]:
                groups.append([])
                length = 0
            groups[-1].append(job_id)
        return tuple(
            EventStream(
                self._session, "jobs/watch", params={"ids": ",".join(ids)}, patience_s=patience_s
            )
            for ids in groups
        )

    def project_stream(self, project: str, *, last_id: str = "") -> EventStream:
        """What happens in a project."""
        return EventStream(self._session, f"projects/{segment(project)}/stream", last_id=last_id)

    def has_project(self, project: str) -> bool:
        """Whether there is a stream of this project's events. Raises what else is the matter."""
        return self.project_stream(project).probe()

    # What their answers say

    @staticmethod
    def read_job(job_id: str, document: bytes) -> Job:
        """The job that `job` has answered. Raises `BadAnswer`."""
        return wire_jobs.answered_job(document, job_id)

    @staticmethod
    def read_tasks(job_id: str, document: bytes) -> Sequence[tuple[Task, Mapping[str, Any]]]:
        """The tasks that `tasks` has answered, each with its JSON. Raises `BadAnswer`."""
        return wire_jobs.tasks_of(document, f"GET /jobs/{job_id}/tasks")

    @classmethod
    def read_poll(cls, job_id: str, job: bytes, tasks: bytes) -> Change:
        """What both say together."""
        found = tuple(task for task, _ in cls.read_tasks(job_id, tasks))
        return Change(job_id, cls.read_job(job_id, job), found, whole=True)

    @staticmethod
    def read_event(event: StreamEvent, job_id: str | None = None) -> Change | None:
        """What an event says, None if it says nothing of a job; `job_id` if it can be no other."""
        return wire_jobs.change(event.kind, event.data, job_id)

    @staticmethod
    def read_verdict(document: bytes) -> ResultVerdict:
        """What a result says of itself."""
        return wire_jobs.verdict(document)

    def _json(self, path: str, deadline_s: float | None) -> bytes:
        def read(data: bytes) -> bytes:
            wire_artifacts.parse(data, f"GET /{path}")
            return data

        return self._session.body("GET", path, read=read, deadline_s=deadline_s)[0]
