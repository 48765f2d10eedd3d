"""Live logs, and who follows what they are made of.

A log is *followed* while somebody has it open, and for `LINGER_S` longer, so that ``watch cat``
does not begin anew each time: one follower, one stream, one thread, however many readers. Without
readers a log grows only when its job is asked about for another reason (`LiveLogs.glance`), which
costs nothing more. What was put together stays on disk (``log_store``) for as long as there is room
(``log_store``), and is taken up again where it was.

A *following* belongs to what is followed, a job or a project, and counts its readers.
`LiveLogs._lock` guards which logs are open, who reads them and which threads run; nothing is asked
and no file is touched while it is held. (`_opening` is held while a log is opened, so that none is
twice; `_wake` guards what the keeper waits for.) What a log takes in, it takes in under its own
lock, one change at a time.

One thread, the keeper, ends the streams that nobody reads any more, and sweeps the shelf.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

from artifactfs.errors import ArtifactfsError
from artifactfs.jobs.follow import (
    POLL_S,
    JobFollower,
    ProjectFollower,
    StreamSource,
)
from artifactfs.jobs.log_merge import (
    MARK,
    MISSING,
    LogMerger,
)
from artifactfs.jobs.log_store import (
    JOBS,
    PROJECTS,
    LogStore,
    StoredLog,
)
from artifactfs.model import (
    Change,
    Job,
    StreamEvent,
)

LINGER_S = 10.0
MOST_FOLLOWED = 256
MOST_IDLE = 64
SAVE_S = 2.0
FIRST_SWEEP_S = 60.0
SWEEP_S = 3600.0
CLOSE_S = 5.0
LIVE = "live.log"
EVENTS = "events.jsonl"

_log = logging.getLogger(__name__)


L = TypeVar("L", bound="WrittenLog")


class WrittenLog(ABC):
    """A log on disk and who writes it. `_writing` serialises what is appended.

    Once closed it takes in nothing more: what a follower still brings then will be asked for again.
    """

    def __init__(self, shelf: LogStore, kind: str, key: str, main: str) -> None:
        self.files = StoredLog(shelf.prepare(kind, key), main, shelf.scratch)
        self.complete = False
        self._key = key
        self._writing = threading.Lock()
        self._saved_s = time.monotonic()
        self._unsaved = False
        self._failed = False
        self._closed = False

    def save(self) -> None:
        """Write down how far it is."""
        with self._writing:
            if not self._closed:
                self._keep(now=True)

    def close(self) -> None:
        """Write down how far it is, and let another have it. It can still be read."""
        with self._writing:
            if not self._closed:
                self._keep(now=True)
            self._closed = True
        self.files.close()

    @abstractmethod
    def _keep(self, *, now: bool) -> None:
        """Save, at once or if it is time to."""

    def size(self, index: int | None) -> int:
        """How long it is, or the log of one of its tasks. At once."""
        return self.files.size(index)

    def _append(self, index: int | None, texts: list[str]) -> None:
        try:
            self.files.append(index, texts)
            self._unsaved = True
        except OSError as error:
            if not self._failed:
                _log.warning("the log of %s cannot be continued: %s", self._key, error)
            self._failed = True

    def _missed(self) -> list[str]:
        """A mark, once appending works again."""
        if not self._failed:
            return []
        self._failed = False
        return [f"\n{MARK}{MISSING} ---\n"]

    def _save(self, state: Callable[[], dict[str, object]], *, now: bool) -> None:
        if not self._unsaved or not (now or time.monotonic() - self._saved_s >= SAVE_S):
            return
        try:
            self.files.save(state())
        except OSError as error:
            _log.debug("the state of the log of %s cannot be kept: %s", self._key, error)
        self._saved_s = time.monotonic()
        self._unsaved = False


class JobLog(WrittenLog):
    """One job's ``live.log``, and the log of each of its tasks."""

    def __init__(self, shelf: LogStore, job_id: str) -> None:
        super().__init__(shelf, JOBS, job_id, LIVE)
        self.seen: object = None
        self.readers = 0  # guarded by the lock of `LiveLogs`
        state = self.files.state
        try:
            self._weaver = LogMerger(None if state is None else state["weaver"])
            self.complete = state is not None and bool(state["complete"])
        except (KeyError, TypeError, ValueError, AttributeError):
            _log.warning("the log of the job %s cannot be taken up again, it begins anew", job_id)
            self.files.clear()
            self._weaver = LogMerger()

    def take(self, change: Change) -> None:
        """Take in what has become known of the job."""
        with self._writing:
            if self.complete or self._closed:
                return
            woven = self._weaver.take(change)
            for index, texts in woven.tasks.items():
                self._append(index, texts)
            if woven.live:
                self._append(None, self._missed() + woven.live)
            if change.job is not None and change.job.ended and change.whole:
                self.complete = self._unsaved = True
            self._keep(now=self.complete)

    def _keep(self, *, now: bool) -> None:
        self._save(lambda: {"weaver": self._weaver.state(), "complete": self.complete}, now=now)


class ProjectLog(WrittenLog):
    """One project's ``events.jsonl``: an event a line."""

    def __init__(self, shelf: LogStore, project: str) -> None:
        super().__init__(shelf, PROJECTS, project, EVENTS)
        state = self.files.state
        self.last_id = str(state.get("last_id", "")) if state is not None else ""

    def take(self, event: StreamEvent) -> None:
        """Take in an event, as it came."""
        try:
            data = json.loads(event.data)
        except (ValueError, RecursionError):
            data = event.data
        line = json.dumps(
            {"event": event.kind, "id": event.id or None, "data": data}, ensure_ascii=False
        )
        with self._writing:
            if self._closed:
                return
            self._append(None, [line, "\n"])
            self.last_id = event.id
            self._keep(now=False)

    def _keep(self, *, now: bool) -> None:
        self._save(lambda: {"last_id": self.last_id}, now=now)


class _Follower(Protocol):
    def run(self) -> None: ...
    def close(self) -> None: ...


class FollowedLog:
    """One thread that follows for any number of readers. Guarded by `LiveLogs._lock`."""

    def __init__(self, follower: _Follower, name: str) -> None:
        self.readers = 0
        self.idle_since_s = 0.0
        self.begun = threading.Event()  # something was taken in, or will not be
        self.follower = follower
        self.thread = threading.Thread(target=self._run, name="artifactfs-follow", daemon=True)
        self._name = name

    def _run(self) -> None:
        try:
            self.follower.run()
        except ArtifactfsError as error:
            _log.warning("%s is not followed any more: %s", self._name, error)
        except Exception:  # noqa: BLE001 - its thread ends here, and the log says why
            _log.exception("%s is not followed any more", self._name)
        finally:
            self.begun.set()


class LiveLogs:
    """All logs of a mount. `on_job` is told of each job that events or polls tell of."""

    def __init__(
        self,
        source: StreamSource,
        shelf: LogStore,
        on_job: Callable[[Job], None],
        *,
        linger_s: float = LINGER_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._source = source
        self._shelf = shelf
        self._on_job = on_job
        self._linger_s = linger_s
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._jobs: dict[str, JobLog] = {}
        self._projects: dict[str, ProjectLog] = {}
        self._followings: dict[tuple[str, str], FollowedLog] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._released = False
        self._keeper: threading.Thread | None = None

    def start(self) -> None:
        """Start the keeper."""
        self._keeper = threading.Thread(target=self._keep, name="artifactfs-logs", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """End every stream and thread; bounded, also where a stream is stuck."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        with self._lock:
            followings = list(self._followings.values())
            self._followings.clear()
        for following in followings:
            following.follower.close()
        deadline_s = time.monotonic() + CLOSE_S
        threads = [following.thread for following in followings]
        for thread in threads + ([self._keeper] if self._keeper is not None else []):
            thread.join(max(0.0, deadline_s - time.monotonic()))
        with self._lock:
            logs: list[JobLog | ProjectLog] = [*self._jobs.values(), *self._projects.values()]
            self._jobs.clear()
            self._projects.clear()
        for log in logs:
            log.close()

    @property
    def followed(self) -> int:
        """How many streams or polls run."""
        with self._lock:
            return len(self._followings)

    # Jobs

    def known(self, job_id: str) -> JobLog | None:
        """The job's log if it is open here. At once."""
        return self._jobs.get(job_id)

    def job(self, job_id: str) -> JobLog:
        """The job's log. Raises `OSError`."""
        found = self._opened(self._jobs, job_id, lambda: JobLog(self._shelf, job_id))
        if len(self._jobs) > MOST_IDLE:
            self._close_idle(found)
        return found

    def glance(self, change: Change, seen: object) -> None:
        """Take in what was asked for other reasons, if nobody follows the job anyway.

        `seen` is what the log has then seen last (`JobLog.seen`). Raises `OSError`.
        """
        log = self.job(change.job_id)
        if not self.is_followed(change.job_id):
            log.take(change)
            log.save()
        log.seen = seen

    def is_followed(self, job_id: str) -> bool:
        """Whether the job's log grows by itself now. At once."""
        following = self._followings.get((JOBS, job_id))
        return following is not None and following.thread.is_alive() and following.begun.is_set()

    def open_job(self, job_id: str, wait_s: float) -> Callable[[], None]:
        """Follow the job from now on, until what is returned is called.

        Waits at most `wait_s` for what it has printed already. Raises `OSError`.
        """
        log = self._held(job_id)

        def close_log() -> None:
            with self._lock:
                log.readers -= 1

        if log.complete:
            return _once(close_log)

        def make() -> FollowedLog:
            def take(change: Change) -> None:
                log.take(change)
                if change.job is not None:
                    self._on_job(change.job)
                following.begun.set()

            follower = JobFollower(
                self._source, job_id, take, from_start=not log.size(None), poll_s=self._poll_s
            )
            following = FollowedLog(follower, f"the job {job_id}")
            return following

        close_following = self._open((JOBS, job_id), make, wait_s)

        def close() -> None:
            close_following()
            close_log()

        return _once(close)

    def _held(self, job_id: str) -> JobLog:
        """The job's log, which stays open until its readers are counted down again."""
        while True:
            log = self.job(job_id)
            with self._lock:
                if self._jobs.get(job_id) is log:
                    log.readers += 1
                    return log

    # Projects

    def known_project(self, project: str) -> ProjectLog | None:
        """The project's log if it is open here. At once."""
        return self._projects.get(project)

    def project(self, project: str) -> ProjectLog:
        """The project's log. Raises `OSError`."""
        return self._opened(self._projects, project, lambda: ProjectLog(self._shelf, project))

    def open_project(self, project: str, wait_s: float) -> Callable[[], None]:
        """Follow the project from now on, until what is returned is called. Raises `OSError`."""
        log = self.project(project)

        def make() -> FollowedLog:
            def take(event: StreamEvent) -> None:
                log.take(event)
                change = self._source.read_event(event)
                if change is not None and change.job is not None:
                    self._on_job(change.job)
                following.begun.set()

            follower = ProjectFollower(self._source, project, take, log.last_id)
            following = FollowedLog(follower, f"the project {project}")
            return following

        return _once(self._open((PROJECTS, project), make, wait_s))

    def _opened(self, table: dict[str, L], key: str, make: Callable[[], L]) -> L:
        found = table.get(key)
        if found is not None:
            return found
        with self._opening:
            found = table.get(key)
            if found is None:
                found = make()
                with self._lock:
                    table[key] = found
        return found

    # Followings

    def _open(
        self, key: tuple[str, str], make: Callable[[], FollowedLog], wait_s: float
    ) -> Callable[[], None]:
        with self._lock:
            following = self._followings.get(key)
            if following is None or not following.thread.is_alive():
                if self._closed or len(self._followings) >= MOST_FOLLOWED:
                    _log.warning("%s is not followed: %d are already", key[1], MOST_FOLLOWED)
                    return _nothing
                following = self._followings[key] = make()
                following.thread.start()
            following.readers += 1
        following.begun.wait(wait_s)

        def release() -> None:
            with self._lock:
                following.readers -= 1
                following.idle_since_s = time.monotonic()
            with self._wake:
                self._released = True
                self._wake.notify_all()

        return release

    def _keep(self) -> None:
        swept_s = time.monotonic() - SWEEP_S + FIRST_SWEEP_S
        while not self._closed:
            pause_s = self._end_idle()
            if time.monotonic() - swept_s > SWEEP_S:
                self._shelf.sweep()
                swept_s = time.monotonic()
            with self._wake:
                if not self._closed and not self._released:
                    self._wake.wait(pause_s)
                self._released = False

    def _end_idle(self) -> float:
        """End what nobody reads any more; how long until the next has been idle for long enough."""
        now_s = time.monotonic()
        ended: list[tuple[tuple[str, str], FollowedLog]] = []
        pause_s: float | None = None
        with self._lock:
            for key, following in self._followings.items():
                if following.readers:
                    continue
                left_s = following.idle_since_s + self._linger_s - now_s
                if left_s <= 0 or not following.thread.is_alive():
                    ended.append((key, following))
                else:
                    pause_s = left_s if pause_s is None else min(pause_s, left_s)
            for key, _ in ended:
                del self._followings[key]
        for (kind, name), following in ended:
            following.follower.close()
            log = self.known(name) if kind == JOBS else self.known_project(name)
            if log is not None:
                log.save()
        return FIRST_SWEEP_S if pause_s is None else pause_s

    def _close_idle(self, newest: JobLog) -> None:
        """Close the logs that nobody reads, the oldest first, if there are many."""
        with self._lock:
            idle = [
                job_id
                for job_id, log in self._jobs.items()
                if not log.readers and log is not newest and (JOBS, job_id) not in self._followings
            ]
            closed = [self._jobs.pop(one) for one in idle[: max(0, len(idle) - MOST_IDLE + 1)]]
        for log in closed:
            log.close()


def _once(act: Callable[[], None]) -> Callable[[], None]:
    """`act`, but not a second time."""
    done = threading.Lock()

    def do() -> None:
        if done.acquire(blocking=False):
            act()

    return do


def _nothing() -> None:
    return
