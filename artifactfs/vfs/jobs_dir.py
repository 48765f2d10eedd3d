"""``jobs/``: what jobs produced, and what they are doing now.

    jobs/<id>/job.json  result.json  tasks.json     the service's JSON, set out for people
              result.raw.json                       the same byte for byte
              output.log                            what the service says now that it has printed
              live.log                              what its tasks print, as they print it
              tasks/<n>/task.json  output.log       each task's own
              artifacts/                            links to the artifacts that name this job

Listing ``jobs/`` costs the service's list and nothing per job. Only what a job's own directory
shows is asked for, when that is opened or one of its names is looked up and what is known is older
than a second: the look-up waits, for two seconds at most, so that the attributes that follow it
are honest and nobody has to wait for *them*. That is the one place where a look-up of a known name
may wait, and it does not while the service does not answer. A result is there once there is one;
the extended attributes of a job that has ended tell of it, and wait for it the same way.

An id that no list has named is looked up the same way: it appears, or is ENOENT, or is EACCES where
it is another account's. Names that begin with a dot are never asked for: shells and desktops look
for such in every directory.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from artifactfs.catalog import Catalog
from artifactfs.clock import Clock
from artifactfs.errors import RemoteError, TimedOut
from artifactfs.jobs import (
    Document,
    DocumentPage,
    JobRegistry,
)
from artifactfs.model import (
    Artifact,
    Job,
    Task,
)
from artifactfs.vfs import xattrs
from artifactfs.vfs.artifact_file import nanoseconds
from artifactfs.vfs.filenames import (
    decoded,
    is_shortened,
    joined,
    safe_name,
)
from artifactfs.vfs.inode_numbers import SameByNumber, fixed_ino
from artifactfs.vfs.name_index import names_of
from artifactfs.vfs.node import (
    Attributes,
    Directory,
    DirectoryEntry,
    File,
    Handle,
    Kind,
    Link,
    ListedEntries,
    Node,
)
from artifactfs.vfs.text_file import (
    GrowingText,
    LogFile,
    TextHandle,
    blocks,
    refuse_writing,
)
from artifactfs.vfs.xattrs import Commands

JOBS = "jobs"
DIRECTORY_LIFETIME_S = 1.0
FRESHEN_WAIT_S = 1.0
LOOK_WAIT_S = 2.0
OPEN_WAIT_S = 20.0

_DOCUMENTS: Final[Mapping[str, Document]] = {
    "job.json": Document.JOB,
    "result.json": Document.RESULT,
    "result.raw.json": Document.RESULT,
    "tasks.json": Document.TASKS,
    "output.log": Document.OUTPUT,
}
_RAW = "result.raw.json"
_LIVE = "live.log"
_TASKS = "tasks"
_ARTIFACTS = "artifacts"


class JobDirectories:
    """What all nodes of ``jobs/`` and ``projects/`` need.

    `_by_job` is made anew when the catalog's snapshot has changed, by whoever needs it first.
    `_lock` guards how often each document is open.
    """

    def __init__(self, jobs: JobRegistry, catalog: Catalog, given: Commands, clock: Clock) -> None:
        self.jobs = jobs
        self.catalog = catalog
        self.commands = given
        self.made_ns = nanoseconds(clock.now())
        self._lock = threading.Lock()
        self._open: Counter[tuple[str, Document]] = Counter()
        self._by_job: tuple[int, Mapping[str, list[Artifact]]] = (-1, {})
        self._odd: tuple[int, Mapping[str, str]] = (-1, {})

    def open_document(self, job_id: str, which: Document, by: int) -> None:
        """Count one more that is open, or one less."""
        with self._lock:
            self._open[job_id, which] += by
            if not self._open[job_id, which]:
                del self._open[job_id, which]

    def page(self, job_id: str, which: Document) -> DocumentPage | None:
        """What is known of a document. Where it is open it is kept up to date. At once."""
        documents = self.jobs.documents
        if (job_id, which) in self._open and not documents.is_fresh(job_id, which):
            documents.order(job_id, which)
        return documents.peek(job_id, which)

    def job_id(self, name: str) -> str | None:
        """The id that `name` stands for."""
        if is_shortened(name):
            known = self.jobs.known
            if self._odd[0] != known.version:
                odd = {safe_name(one): one for one in known.jobs if len(one) > 60}
                self._odd = (known.version, odd)
            return self._odd[1].get(name)
        found = decoded(name)
        return found if found is not None and safe_name(found) == name else None

    def artifacts_of(self, job_id: str) -> Mapping[str, Artifact]:
        """The artifacts that name this job, by their names. At once."""
        snapshot = self.catalog.snapshot
        version, by_job = self._by_job
        if version != snapshot.version:
            found: dict[str, list[Artifact]] = {}
            for artifact in snapshot.artifacts:
                if artifact.job_id is not None:
                    found.setdefault(artifact.job_id, []).append(artifact)
            self._by_job, by_job = (snapshot.version, found), found
        return names_of(by_job.get(job_id, []))

    def changed_ns(self, job: Job | None) -> int:
        """When something happened to a job last, as far as anybody has said."""
        moment = (job.changed_at or job.created_at) if job is not None else None
        return nanoseconds(moment) if moment is not None else self.made_ns

    def text_changed_ns(self, job_id: str, page: DocumentPage | None) -> int:
        """When a document changed: with its job, if that has ended and says when it did."""
        job = self.jobs.known.jobs.get(job_id)
        if page is None or (page.final and job is not None and job.changed_at is not None):
            return self.changed_ns(job)
        return page.changed_ns


class StillDirectory(SameByNumber, Directory):
    """What the directories here have in common."""

    __slots__ = ("_rooms", "ino")

    ino: int

    def __init__(self, rooms: JobDirectories, path: str) -> None:
        self._rooms = rooms
        self.ino = fixed_ino(path)

    def attributes(self) -> Attributes:
        changed_ns = self._changed_ns()
        return Attributes(self.ino, Kind.DIRECTORY, 0o555, 0, 2, changed_ns, changed_ns)

    def _changed_ns(self) -> int:
        return self._rooms.made_ns

    def set_xattr(self, name: str, value: bytes) -> None:
        self._rooms.commands.refresh_or_refuse(name, value)


class ListedDirectory(StillDirectory):
    """One that shows what the service lists of jobs."""

    __slots__ = ()

    @property
    def lifetime_s(self) -> float:
        return DIRECTORY_LIFETIME_S

    def is_fresh(self) -> bool:
        return self._rooms.jobs.is_fresh()

    def freshen(self) -> None:
        self._rooms.jobs.freshen(FRESHEN_WAIT_S)


class JobsDirectory(ListedDirectory):
    """``jobs/``."""

    __slots__ = ()

    def __init__(self, rooms: JobDirectories) -> None:
        super().__init__(rooms, JOBS)

    def find(self, name: str) -> Node | None:
        job_id = self._rooms.job_id(name)
        if job_id is None or job_id not in self._rooms.jobs.known.jobs:
            return None
        return JobDirectory(self._rooms, job_id)

    @property
    def may_know_more(self) -> bool:
        return True

    def look_up(self, name: str) -> Node | None:
        job_id = None if name.startswith(".") else self._rooms.job_id(name)
        if job_id is None or self._rooms.jobs.ask(job_id, LOOK_WAIT_S) is None:
            return None
        return JobDirectory(self._rooms, job_id)

    def entries(self) -> Sequence[DirectoryEntry]:
        ids = tuple(self._rooms.jobs.known.jobs)
        names = tuple(safe_name(one) for one in ids)
        return ListedEntries(names, ids, lambda one: JobDirectory(self._rooms, one))

    @property
    def listing_version(self) -> int:
        return self._rooms.jobs.known.version


class JobDirectory(StillDirectory):
    """``jobs/<id>/``."""

    __slots__ = ("_id", "_path")

    def __init__(self, rooms: JobDirectories, job_id: str) -> None:
        self._id = job_id
        self._path = joined(JOBS, job_id)
        super().__init__(rooms, self._path)

    @property
    def lifetime_s(self) -> float:
        return DIRECTORY_LIFETIME_S

    def _changed_ns(self) -> int:
        return self._rooms.changed_ns(self._rooms.jobs.known.jobs.get(self._id))

    def xattrs(self) -> Mapping[str, bytes]:
        page = self._rooms.jobs.documents.peek(self._id, Document.RESULT)
        verdict = page.read if page is not None else None
        return xattrs.of_job(self._rooms.jobs.known.jobs.get(self._id), verdict)

    @property
    def knows_xattrs(self) -> bool:
        jobs = self._rooms.jobs
        job = jobs.known.jobs.get(self._id)
        if job is None or not job.ended or jobs.documents.in_trouble:
            return True
        return jobs.documents.is_fresh(self._id, Document.RESULT)

    def learn_xattrs(self) -> None:
        with contextlib.suppress(RemoteError):
            self._rooms.jobs.documents.get(self._id, Document.RESULT, LOOK_WAIT_S)

    def find(self, name: str) -> Node | None:
        jobs = self._rooms.jobs
        which = _DOCUMENTS.get(name)
        if which is not None:
            page = jobs.documents.peek(self._id, which)
            stale = not jobs.documents.in_trouble and not jobs.documents.is_fresh(self._id, which)
            return None if page is None or page.data is None or stale else self._document(name)
        if name == _ARTIFACTS:
            return LinksDirectory(self._rooms, self._id, "")
        if name not in (_LIVE, _TASKS):
            return None
        if jobs.is_current(self._id) or (jobs.documents.in_trouble and jobs.logs.known(self._id)):
            return self._live() if name == _LIVE else TasksDirectory(self._rooms, self._id)
        return None

    @property
    def may_know_more(self) -> bool:
        return True

    def look_up(self, name: str) -> Node | None:
        which = _DOCUMENTS.get(name)
        if which is not None:
            try:
                page = self._rooms.jobs.documents.get(self._id, which, LOOK_WAIT_S)
            except TimedOut:
                if which is Document.RESULT:
                    raise
                return self._document(name)  # it is there, and on its way: opening it waits longer
            return self._document(name) if page.data is not None else None
        if name in (_LIVE, _TASKS):
            self._rooms.jobs.look(self._id, LOOK_WAIT_S)
            return self._live() if name == _LIVE else TasksDirectory(self._rooms, self._id)
        return self.find(name)

    def is_fresh(self) -> bool:
        documents = self._rooms.jobs.documents
        fresh = all(documents.is_fresh(self._id, which) for which in Document)
        return fresh and self._rooms.jobs.is_current(self._id)

    def freshen(self) -> None:
        jobs = self._rooms.jobs
        for which in Document:
            jobs.documents.order(self._id, which)
        try:
            jobs.look(self._id, LOOK_WAIT_S)
            jobs.documents.get_all(self._id, list(Document), LOOK_WAIT_S)
        except (RemoteError, OSError):
            return  # what is known is shown; looking up a name says what is the matter

    def entries(self) -> Sequence[DirectoryEntry]:
        documents = self._rooms.jobs.documents
        found: list[DirectoryEntry] = []
        for name, which in _DOCUMENTS.items():
            page = documents.peek(self._id, which)
            if page is not None and page.data is not None:
                found.append(DirectoryEntry(name, self._document(name)))
        return [
            *found,
            DirectoryEntry(_LIVE, self._live()),
            DirectoryEntry(_TASKS, TasksDirectory(self._rooms, self._id)),
            DirectoryEntry(_ARTIFACTS, LinksDirectory(self._rooms, self._id, "")),
        ]

    def _document(self, name: str) -> DocumentFile:
        return DocumentFile(
            self._rooms, self._id, _DOCUMENTS[name], joined(self._path, name), raw=name == _RAW
        )

    def _live(self) -> LogFile:
        return log_file(self._rooms, self._id, joined(self._path, _LIVE), None)


def log_file(rooms: JobDirectories, job_id: str, path: str, index: int | None) -> LogFile:
    """The job's ``live.log``, or the log of one of its tasks."""
    logs = rooms.jobs.logs

    def known() -> GrowingText | None:
        log = logs.known(job_id)
        return log.files if log is not None else None

    def opened() -> tuple[GrowingText, Callable[[], None]]:
        close = logs.open_job(job_id, LOOK_WAIT_S)
        return logs.job(job_id).files, close

    made_ns = rooms.changed_ns(rooms.jobs.known.jobs.get(job_id))
    return LogFile(fixed_ino(path), known, opened, index=index, made_ns=made_ns)


class DocumentFile(SameByNumber, File):
    """A document of a job, as it was told last."""

    __slots__ = ("_id", "_raw", "_rooms", "_which", "ino")

    ino: int

    def __init__(
        self, rooms: JobDirectories, job_id: str, which: Document, path: str, *, raw: bool
    ) -> None:
        self._rooms = rooms
        self._id = job_id
        self._which = which
        self._raw = raw
        self.ino = fixed_ino(path)

    def attributes(self) -> Attributes:
        page = self._rooms.page(self._id, self._which)
        if page is None:
            changed_ns = self._rooms.made_ns
            return Attributes(self.ino, Kind.FILE, 0o444, 0, 1, changed_ns, changed_ns)
        size = len((page.data or b"") if self._raw else page.shown)
        changed_ns = self._rooms.text_changed_ns(self._id, page)
        return Attributes(self.ino, Kind.FILE, 0o444, size, 1, changed_ns, changed_ns, blocks(size))

    def open(self, flags: int) -> Handle:
        refuse_writing(flags)
        rooms, job_id, which = self._rooms, self._id, self._which
        known = rooms.jobs.documents.peek(job_id, which) is not None
        wait_s = LOOK_WAIT_S if known else OPEN_WAIT_S
        last = rooms.jobs.documents.get(job_id, which, wait_s)
        rooms.open_document(job_id, which, 1)

        def newest() -> bytes:
            nonlocal last
            last = rooms.page(job_id, which) or last
            return (last.data or b"") if self._raw else last.shown

        return TextHandle(newest, lambda: rooms.open_document(job_id, which, -1))


class TasksDirectory(StillDirectory):
    """``jobs/<id>/tasks/``, a directory for each task by its index."""

    __slots__ = ("_id", "_path")

    def __init__(self, rooms: JobDirectories, job_id: str) -> None:
        self._id = job_id
        self._path = joined(joined(JOBS, job_id), _TASKS)
        super().__init__(rooms, self._path)

    def _changed_ns(self) -> int:
        page = self._rooms.jobs.documents.peek(self._id, Document.TASKS)
        return page.changed_ns if page is not None else self._rooms.made_ns

    def find(self, name: str) -> Node | None:
        stale = not self._rooms.jobs.documents.in_trouble and not self.is_fresh()
        return None if stale else self._known(name)

    def _known(self, name: str) -> Node | None:
        if name in self._tasks():
            return TaskDirectory(self._rooms, self._id, int(name))
        return None

    @property
    def may_know_more(self) -> bool:
        return not self.is_fresh()

    def look_up(self, name: str) -> Node | None:
        self._rooms.jobs.documents.get(self._id, Document.TASKS, LOOK_WAIT_S)
        return self._known(name)

    def is_fresh(self) -> bool:
        return self._rooms.jobs.documents.is_fresh(self._id, Document.TASKS)

    def freshen(self) -> None:
        try:
            self._rooms.jobs.documents.get(self._id, Document.TASKS, LOOK_WAIT_S)
        except RemoteError:
            return  # what is known is shown

    def entries(self) -> Sequence[DirectoryEntry]:
        return [
            DirectoryEntry(name, TaskDirectory(self._rooms, self._id, int(name)))
            for name in self._tasks()
        ]

    def _tasks(self) -> Mapping[str, tuple[Task, Any]]:
        return tasks_by_name(self._rooms, self._id)


def tasks_by_name(rooms: JobDirectories, job_id: str) -> Mapping[str, tuple[Task, Any]]:
    """The tasks of a job, as they were told last, each with its JSON."""
    page = rooms.jobs.documents.peek(job_id, Document.TASKS)
    found = page.read if page is not None else []
    return {
        str(task.index): (task, raw)
        for task, raw in found or []
        if task.index is not None and task.index >= 0
    }


class TaskDirectory(StillDirectory):
    """``jobs/<id>/tasks/<n>/``."""

    __slots__ = ("_id", "_index", "_path")

    def __init__(self, rooms: JobDirectories, job_id: str, index: int) -> None:
        self._id = job_id
        self._index = index
        self._path = f"{JOBS}/{job_id}/{_TASKS}/{index}"
        super().__init__(rooms, self._path)

    def xattrs(self) -> Mapping[str, bytes]:
        found = tasks_by_name(self._rooms, self._id).get(str(self._index))
        return xattrs.of_task(found[0]) if found is not None else {}

    def find(self, name: str) -> Node | None:
        return next((one.node for one in self.entries() if one.name == name), None)

    def is_fresh(self) -> bool:
        return self._rooms.jobs.is_current(self._id)

    def freshen(self) -> None:
        try:
            self._rooms.jobs.look(self._id, LOOK_WAIT_S)
        except (RemoteError, OSError):
            return  # what is known is shown

    def entries(self) -> Sequence[DirectoryEntry]:
        log = log_file(self._rooms, self._id, joined(self._path, "output.log"), self._index)
        task = TaskFile(self._rooms, self._id, self._index, joined(self._path, "task.json"))
        return [DirectoryEntry("task.json", task), DirectoryEntry("output.log", log)]


class TaskFile(SameByNumber, File):
    """``jobs/<id>/tasks/<n>/task.json``."""

    __slots__ = ("_id", "_index", "_rooms", "ino")

    ino: int

    def __init__(self, rooms: JobDirectories, job_id: str, index: int, path: str) -> None:
        self._rooms = rooms
        self._id = job_id
        self._index = index
        self.ino = fixed_ino(path)

    def attributes(self) -> Attributes:
        page = self._rooms.jobs.documents.peek(self._id, Document.TASKS)
        changed_ns = self._rooms.text_changed_ns(self._id, page)
        size = len(self._text())
        return Attributes(self.ino, Kind.FILE, 0o444, size, 1, changed_ns, changed_ns, blocks(size))

    def open(self, flags: int) -> Handle:
        refuse_writing(flags)
        self._rooms.jobs.documents.get(self._id, Document.TASKS, LOOK_WAIT_S)
        return TextHandle(self._text, lambda: None)

    def _text(self) -> bytes:
        found = tasks_by_name(self._rooms, self._id).get(str(self._index))
        if found is None:
            return b""
        text = json.dumps(found[1], indent=2, ensure_ascii=False) + "\n"
        return text.encode("utf-8", "surrogatepass")


class LinksDirectory(StillDirectory):
    """``jobs/<id>/artifacts/``, or a directory in it: the artifacts that name this job."""

    __slots__ = ("_depth", "_folder", "_id")

    def __init__(self, rooms: JobDirectories, job_id: str, folder: str) -> None:
        self._id = job_id
        self._folder = folder
        super().__init__(rooms, joined(f"{JOBS}/{job_id}/{_ARTIFACTS}", folder).rstrip("/"))

    def find(self, name: str) -> Node | None:
        return self._all().get(name)

    @property
    def may_know_more(self) -> bool:
        return self._rooms.catalog.may_ask

    def look_up(self, name: str) -> Node | None:
        self._rooms.catalog.ask(LOOK_WAIT_S)
        return self.find(name)

    def is_fresh(self) -> bool:
        return self._rooms.catalog.is_fresh()

    def freshen(self) -> None:
        self._rooms.catalog.freshen(FRESHEN_WAIT_S)

    def entries(self) -> Sequence[DirectoryEntry]:
        return [DirectoryEntry(name, node) for name, node in self._all().items()]

    def _all(self) -> Mapping[str, Node]:
        found: dict[str, Node] = {}
        begins = f"{self._folder}/" if self._folder else ""
        up = "../" * (3 + begins.count("/"))
        for path, artifact in self._rooms.artifacts_of(self._id).items():
            if not path.startswith(begins):
                continue
            name, slash, _ = path[len(begins) :].partition("/")
            if slash:
                found[name] = LinksDirectory(self._rooms, self._id, begins + name)
            else:
                target = f"{up}by-id/{safe_name(artifact.id)}"
                changed_ns = nanoseconds(artifact.created_at)
                found[name] = TextLink(f"{JOBS}/{self._id}/{_ARTIFACTS}/{path}", target, changed_ns)
        return found


class TextLink(SameByNumber, Link):
    """A symbolic link."""

    __slots__ = ("_changed_ns", "_target", "ino")

    ino: int

    def __init__(self, path: str, target: str, changed_ns: int) -> None:
        self.ino = fixed_ino(path)
        self._target = target
        self._changed_ns = changed_ns

    def attributes(self) -> Attributes:
        size = len(self._target.encode("utf-8", "surrogateescape"))
        return Attributes(self.ino, Kind.LINK, 0o777, size, 1, self._changed_ns, self._changed_ns)

    def target(self) -> str:
        return self._target
