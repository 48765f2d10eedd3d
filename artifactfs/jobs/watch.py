"""One job's log or result, for the command line, without a mount.

Watching several jobs at once, or a project: for the command line, without a mount.

The jobs are asked about once each, then one stream tells of all of them. Its events are taken in on
one thread and told as a `WatchedJob`, what there is to say of a job now. Where the service has no
such stream the jobs are asked about again and again. When one ends it is asked about once more, and
for its result, which says how good it is. A watch ends when every job it knows has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

from artifactfs.errors import Cancelled, Unsupported
from artifactfs.jobs import follow
from artifactfs.jobs.follow import JobFollower, begun
from artifactfs.jobs.log_merge import LogMerger
from artifactfs.model import (
    Change,
    Job,
    StreamEvent,
    Task,
)
from artifactfs.remote import (
    EventStream,
    ResultVerdict,
    TooLargeEvent,
)

LOOK_S = 0.1
CLOSE_S = 2.0
RESULT_S = 10.0
RESULT_STEP_S = 0.5


class LogSource(follow.StreamSource, Protocol):
    """The service, as far as this needs it."""

    def result(self, job_id: str, *, deadline_s: float | None = None) -> bytes | None: ...


def read_log(source: LogSource, job_id: str, write: Callable[[str], None]) -> None:
    """Write the log as it is now. Raises what the service says."""
    change = begun(source, source.poll(job_id))
    write("".join(LogMerger().take(change).live))


def follow_log(
    source: LogSource, job_id: str, write: Callable[[str], None], cancelled: threading.Event
) -> None:
    """Write the log until the job has ended.

    Raises what cannot be mended, and `Cancelled` once `cancelled` is set.
    """
    weaver = LogMerger()

    def take(change: Change) -> None:
        woven = weaver.take(change)
        if woven.live:
            write("".join(woven.live))

    _follow(JobFollower(source, job_id, take), cancelled)


def read_result(
    source: LogSource, job_id: str, *, wait: bool, cancelled: threading.Event
) -> bytes | None:
    """The result's JSON, None if there is none; `wait` for the job's end before.

    Raises what the service says, and `Cancelled` once `cancelled` is set.
    """
    if not wait:
        found = source.result(job_id)
        if found is None:
            source.poll(job_id)  # which says so if there is no such job
        return found
    _follow(JobFollower(source, job_id, lambda _: None), cancelled)
    end_s = time.monotonic() + RESULT_S  # it may take a moment until it is there
    while (found := source.result(job_id)) is None and time.monotonic() < end_s:
        if cancelled.wait(RESULT_STEP_S):
            raise Cancelled("the waiting was stopped")
    return found


def _follow(follower: JobFollower, cancelled: threading.Event) -> None:
    failure: list[BaseException] = []

    def run() -> None:
        try:
            follower.run()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            failure.append(error)

    thread = threading.Thread(target=run, name="artifactfs-follow", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LOOK_S)
            if cancelled.is_set():
                raise Cancelled("the following was stopped")
    finally:
        follower.close()
        thread.join(CLOSE_S)
    if failure:
        raise failure[0]


POLL_S = 2.0
PATIENCE_S = 60.0


class WatchSource(Protocol):
    """The service, as far as watching needs it."""

    def list(self) -> Iterable[Job]: ...
    def poll(self, job_id: str, *, deadline_s: float | None = None) -> Change: ...
    def result(self, job_id: str, *, deadline_s: float | None = None) -> bytes | None: ...
    def watch(
        self, job_ids: Sequence[str], *, patience_s: float = ...
    ) -> tuple[EventStream, ...]: ...
    def project_stream(self, project: str, *, last_id: str = "") -> EventStream: ...
    def read_event(self, event: StreamEvent, job_id: str | None = None) -> Change | None: ...
    def read_verdict(self, document: bytes) -> ResultVerdict: ...


@dataclass(frozen=True, slots=True)
class WatchedJob:
    """What there is to say of a job. `progress` and `quality` go from 0 to 1."""

    job: Job
    tasks: int
    progress: float | None
    quality: float | None
    last_line: str


class JobWatch:
    """One watch. `run` tells of every change and returns the jobs as they are at its end."""

    def __init__(
        self, source: WatchSource, job_ids: Sequence[str], project: str | None = None
    ) -> None:
        self._source = source
        self._ids = list(dict.fromkeys(job_ids))
        self._project = project
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, dict[int, Task]] = {}
        self._names: dict[tuple[str, str], int] = {}
        self._lines: dict[str, str] = {}
        self._qualities: dict[str, float] = {}
        self._news: SimpleQueue[Change | BaseException] = SimpleQueue()

    def run(
        self, tell: Callable[[WatchedJob], None], cancelled: threading.Event
    ) -> list[WatchedJob]:
        """Raises what stands in the way, and `Cancelled` once `cancelled` is set."""
        if self._project is not None:
            self._ids = [job.id for job in self._listed() if job.project == self._project]
        for job_id in self._ids:
            tell(self._taken(self._source.poll(job_id)))
        streams = self._streams()
        threads = [
            threading.Thread(target=self._follow, args=(stream,), daemon=True) for stream in streams
        ]
        try:
            for thread in threads:
                thread.start()
            while not self._is_over():
                if cancelled.is_set():
                    raise Cancelled("the watch was stopped")
                try:
                    news = self._news.get(timeout=LOOK_S)
                except Empty:
                    continue
                if isinstance(news, Unsupported | TooLargeEvent):
                    self._poll(tell, cancelled)
                elif isinstance(news, BaseException):
                    raise news
                elif self._is_ours(news):
                    tell(self._taken(news))
        finally:
            for stream in streams:
                stream.close()
            for thread in threads:
                thread.join(CLOSE_S)
        return [self._watched(job_id) for job_id in self._jobs]

    def _listed(self) -> list[Job]:
        try:
            return list(self._source.list())
        except Unsupported:
            return []

    def _streams(self) -> tuple[EventStream, ...]:
        if self._project is not None:
            return (self._source.project_stream(self._project),)
        left = [job_id for job_id in self._ids if not self._jobs[job_id].ended]
        return self._source.watch(left, patience_s=PATIENCE_S) if left else ()

    def _follow(self, stream: EventStream) -> None:
        def take(event: StreamEvent) -> bool:
            change = self._source.read_event(event)
            if change is not None:
                self._news.put(change)
            return True

        try:
            stream.follow(take)
        except Cancelled:
            return
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            self._news.put(error)

    def _poll(self, tell: Callable[[WatchedJob], None], cancelled: threading.Event) -> None:
        """Ask again and again, until it is over."""
        while not self._is_over():
            if cancelled.wait(POLL_S):
                raise Cancelled("the watch was stopped")
            if self._project is not None:
                for job in self._listed():
                    if job.project == self._project:
                        self._jobs.setdefault(job.id, job)
            for job_id, job in list(self._jobs.items()):
                if not job.ended:
                    before = self._watched(job_id)
                    now = self._taken(self._source.poll(job_id))
                    if now != before:
                        tell(now)

    def _is_ours(self, change: Change) -> bool:
        return self._project is not None or change.job_id in self._jobs

    def _is_over(self) -> bool:
        return bool(self._jobs) and all(job.ended for job in self._jobs.values())

    def _taken(self, change: Change) -> WatchedJob:
        job_id = change.job_id
        before = self._jobs.get(job_id)
        if before is not None and before.ended:
            return self._watched(job_id)
        self._note(change)
        job = self._jobs[job_id]
        if job.ended:
            if before is not None:
                self._note(self._source.poll(job_id))
            result = self._source.result(job_id)
            quality = self._source.read_verdict(result).quality if result is not None else None
            if quality is not None:
                self._qualities[job_id] = quality
        return self._watched(job_id)

    def _note(self, change: Change) -> None:
        job_id = change.job_id
        before = self._jobs.get(job_id) or Job(job_id)
        self._jobs[job_id] = before if change.job is None else change.job.over(before)
        tasks = self._tasks.setdefault(job_id, {})
        for task in change.tasks:
            index = task.index
            if index is None and task.id is not None:
                index = self._names.get((job_id, task.id))
            if index is None:
                continue
            if task.id is not None:
                self._names[job_id, task.id] = index
            tasks[index] = task.over(tasks.get(index))
            lines = (task.output_tail or task.output or "").split("\n")
            said = [line for line in lines if line.strip()]
            if said:
                self._lines[job_id] = said[-1].rpartition("\r")[2] or said[-1]

    def _watched(self, job_id: str) -> WatchedJob:
        job, tasks = self._jobs[job_id], self._tasks.get(job_id, {})
        quality = self._qualities.get(job_id, job.quality)
        if quality is None:
            known = [one.quality for one in tasks.values() if one.quality is not None]
            quality = min(known, default=None)
        progress = job.progress
        if job.status == "completed":
            progress = 1.0
        elif progress is None and tasks:
            parts = [1.0 if one.ended else one.progress for one in tasks.values()]
            if any(part is not None for part in parts):
                progress = sum(part or 0.0 for part in parts) / len(parts)
        last_line = self._lines.get(job_id, "") if not job.error else job.error
        return WatchedJob(job, len(tasks), progress, quality, last_line)
