"""Which jobs and projects there are, and everything that is known of them.

There is a list, where the service has one, asked for as the list of artifacts is (``refresher``),
but not before somebody looks. And there are jobs that no list has named: `JobRegistry.ask` asks for
one by its id, and from then on it is there as well; those of earlier mounts are remembered where
the service lists none. A job that the service does not know any more leaves.

What was learned last of a job counts, whoever learned it: the list, its document, its stream. Only
that a job has ended is never taken back.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from artifactfs.catalog.refresher import Refresher
from artifactfs.clock import SYSTEM_CLOCK, Clock
from artifactfs.errors import (
    Gone,
    RemoteError,
    Unsupported,
)
from artifactfs.jobs import documents, follow
from artifactfs.jobs.documents import (
    Document,
    DocumentPage,
    Documents,
)
from artifactfs.jobs.follow import POLL_S
from artifactfs.jobs.live_logs import LINGER_S, LiveLogs
from artifactfs.jobs.log_store import JOBS, LogStore
from artifactfs.model import (
    Change,
    Job,
    lacks_beginning,
    with_beginning,
)

ASK_WAIT_S = 2.0
MOST_REMEMBERED = 10_000


class JobSource(documents.DocumentSource, follow.StreamSource, Protocol):
    """The service."""

    def list(self) -> Iterable[Job]: ...
    def projects(self) -> Iterable[str]: ...
    def has_project(self, project: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class KnownJob:
    """All jobs by their id, in the order of the list, and all projects. Swapped whole."""

    jobs: Mapping[str, Job] = field(default_factory=dict)
    projects: Mapping[str, None] = field(default_factory=dict)
    version: int = 0


class JobRegistry:
    """What there is to know of jobs. `_lock` guards the making of a new `known`."""

    def __init__(
        self,
        source: JobSource,
        directory: Path,
        *,
        origin: str,
        ttl_s: float,
        clock: Clock = SYSTEM_CLOCK,
        linger_s: float = LINGER_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._source = source
        self._shelf = LogStore(directory, origin)
        self._lock = threading.Lock()
        self._known = KnownJob()
        self._named: dict[str, Job] = {}
        self._named_projects: dict[str, None] = {}
        self._listed: dict[str, Job] = {}
        self._listed_projects: dict[str, None] = {}
        self._lists_projects = True
        self._was_listed = False
        self._remembered = False
        self._refresher = Refresher(self._list_once, ttl_s=ttl_s, what="jobs", clock=clock)
        self.documents = Documents(source, self._shelf, self._has_ended, self._on_page, clock)
        self.logs = LiveLogs(source, self._shelf, self.note, linger_s=linger_s, poll_s=poll_s)

    def start(self) -> None:
        """Start the threads. Nothing is asked yet."""
        self._refresher.start(at_once=False)
        self.documents.start()
        self.logs.start()

    def close(self) -> None:
        """End them, and every stream. Bounded."""
        self.logs.close()
        self.documents.close()
        self._refresher.close()

    @property
    def known(self) -> KnownJob:
        """All there is. At once, without a lock."""
        return self._known

    def is_fresh(self) -> bool:
        """Whether the list is as new as promised. At once."""
        return self._refresher.is_fresh()

    def freshen(self, wait_s: float) -> bool:
        """Wait for a list as new as promised, if the service is well; see `Refresher.freshen`."""
        return self._refresher.freshen(wait_s)

    def refresh(self, wait_s: float) -> bool:
        """Have the service asked for its list now, if anybody has ever wanted it."""
        return not self._was_listed or self._refresher.refresh(wait_s)

    def ask(self, job_id: str, wait_s: float = ASK_WAIT_S) -> Job | None:
        """The job of this id as the service knows it now, None if it knows none.

        Raises `NotAllowed` for another account's, and what `Documents.get` raises.
        """
        try:
            page = self.documents.get(job_id, Document.JOB, wait_s)
        except Gone:
            self._forget(job_id)
            return None
        job: Job = page.read
        self.note(job)
        return job

    def ask_project(self, project: str, wait_s: float = ASK_WAIT_S) -> None:
        """Find out about a project that is not known, for a bounded time.

        Where the service lists none, one that has events is there.
        """
        self._refresher.ask(wait_s)
        if self._lists_projects or project in self._known.projects:
            return

        def probe() -> None:
            with contextlib.suppress(RemoteError):
                if self._source.has_project(project):
                    with self._lock:
                        self._named_projects[project] = None
                        self._publish()

        thread = threading.Thread(target=probe, name="artifactfs-probe", daemon=True)
        thread.start()
        thread.join(wait_s)

    def look(self, job_id: str, wait_s: float = ASK_WAIT_S) -> None:
        """Bring the job, its tasks and its logs up to date.

        Raises what `Documents.get` raises, and `OSError`.
        """
        both = (Document.JOB, Document.TASKS)
        job, tasks = self.documents.get_all(job_id, both, wait_s)
        log = self.logs.job(job_id)
        if log.complete or log.seen is tasks:
            return
        found = tuple(task for task, _ in tasks.read)
        ended = job.read.ended and tasks.final
        about = job.read if ended or not job.read.ended else None
        change = Change(job_id, about, found, whole=ended)
        if not log.size(None) and lacks_beginning(change):
            with contextlib.suppress(RemoteError):  # else the log says that it may be missing
                output = self.documents.get(job_id, Document.OUTPUT, wait_s).data or b""
                change = with_beginning(change, output.decode("utf-8", "replace"))
        self.logs.glance(change, tasks)

    def is_current(self, job_id: str) -> bool:
        """Whether `look` would bring nothing. At once."""
        log = self.logs.known(job_id)
        tasks = self.documents.peek(job_id, Document.TASKS)
        if log is None or tasks is None:
            return False
        if log.complete or self.logs.is_followed(job_id):
            return True
        both = (Document.JOB, Document.TASKS)
        fresh = all(self.documents.is_fresh(job_id, which) for which in both)
        return fresh and log.seen is tasks

    def note(self, job: Job) -> None:
        """Take in what is known of a job."""
        with self._lock:
            before = self._listed.get(job.id) or self._named.get(job.id)
            if before is not None and before.ended and not job.ended:
                return
            merged = job.over(before)
            if before == merged:
                return
            if job.id in self._listed:
                self._listed[job.id] = merged
            else:
                self._named[job.id] = merged
            self._publish()
        if merged.ended and before is not None and not before.ended:
            self.documents.forget(job.id)

    def _forget(self, job_id: str) -> None:
        with self._lock:
            gone = [self._listed.pop(job_id, None), self._named.pop(job_id, None)]
            if any(one is not None for one in gone):
                self._publish()

    def _has_ended(self, job_id: str) -> bool:
        job = self._known.jobs.get(job_id)
        return job is not None and job.ended

    def _on_page(self, _job_id: str, which: Document, page: DocumentPage) -> None:
        """Carry on what a document says of its job."""
        if which is Document.JOB:
            self.note(page.read)

    def _list_once(self) -> None:
        jobs: dict[str, Job] = {}
        projects: dict[str, None] | None = None
        try:
            jobs = {job.id: job for job in self._source.list()}
        except Unsupported:
            self._remember()
        try:
            projects = dict.fromkeys(self._source.projects())
        except Unsupported:
            self._lists_projects = False
        with self._lock:
            self._was_listed = True
            for job_id, job in jobs.items():
                before = self._listed.get(job_id) or self._named.get(job_id)
                if before is not None and before.ended and not job.ended:
                    jobs[job_id] = before
            self._listed = jobs
            self._listed_projects = projects or {}
            self._publish()

    def _remember(self) -> None:
        if self._remembered:
            return
        self._remembered = True
        ids = list(itertools.islice(self._shelf.remembered(JOBS), MOST_REMEMBERED))
        with self._lock:
            for job_id in ids:
                self._named.setdefault(job_id, Job(job_id))

    def _publish(self) -> None:
        jobs = {**self._named, **self._listed} if self._named else dict(self._listed)
        projects = dict(self._listed_projects) | self._named_projects
        for job in jobs.values():
            if job.project is not None and job.project not in projects:
                projects[job.project] = None
        before = self._known
        same = jobs.keys() == before.jobs.keys() and projects.keys() == before.projects.keys()
        self._known = KnownJob(jobs, projects, before.version + (not same))
