"""``projects/``: what happens in a project, as it happens.

    projects/<name>/events.jsonl    the project's events, one JSON object a line
                    jobs/           links to ../../jobs/<id>

``events.jsonl`` is followed while somebody has it open, as a ``live.log`` is: each line is
``{"event", "id", "data"}``, the data as the service has sent them. Projects are those that the
service lists, and those that a known job names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from artifactfs.vfs.filenames import (
    decoded,
    joined,
    safe_name,
)
from artifactfs.vfs.inode_numbers import fixed_ino
from artifactfs.vfs.jobs_dir import (
    DIRECTORY_LIFETIME_S,
    JOBS,
    LOOK_WAIT_S,
    JobDirectories,
    ListedDirectory,
    StillDirectory,
    TextLink,
)
from artifactfs.vfs.node import DirectoryEntry, Node
from artifactfs.vfs.text_file import GrowingText, LogFile

PROJECTS = "projects"
_EVENTS = "events.jsonl"


class ProjectsDirectory(ListedDirectory):
    """``projects/``."""

    __slots__ = ()

    def __init__(self, rooms: JobDirectories) -> None:
        super().__init__(rooms, PROJECTS)

    def find(self, name: str) -> Node | None:
        known = self._rooms.jobs.known.projects
        project = decoded(name)
        if project is None or project not in known:
            project = next((one for one in known if safe_name(one) == name), None)
        return ProjectDirectory(self._rooms, project) if project is not None else None

    @property
    def may_know_more(self) -> bool:
        return True

    def look_up(self, name: str) -> Node | None:
        project = decoded(name)
        if project is not None and not name.startswith("."):
            self._rooms.jobs.ask_project(project, LOOK_WAIT_S)
        return self.find(name)

    def entries(self) -> Sequence[DirectoryEntry]:
        return [
            DirectoryEntry(safe_name(one), ProjectDirectory(self._rooms, one))
            for one in self._rooms.jobs.known.projects
        ]


class ProjectDirectory(StillDirectory):
    """``projects/<name>/``."""

    __slots__ = ("_path", "_project")

    def __init__(self, rooms: JobDirectories, project: str) -> None:
        self._project = project
        self._path = joined(PROJECTS, project)
        super().__init__(rooms, self._path)

    @property
    def lifetime_s(self) -> float:
        return DIRECTORY_LIFETIME_S

    def find(self, name: str) -> Node | None:
        return next((one.node for one in self.entries() if one.name == name), None)

    def entries(self) -> Sequence[DirectoryEntry]:
        logs = self._rooms.jobs.logs

        def known() -> GrowingText | None:
            log = logs.known_project(self._project)
            return log.files if log is not None else None

        def opened() -> tuple[GrowingText, Callable[[], None]]:
            close = logs.open_project(self._project, LOOK_WAIT_S)
            return logs.project(self._project).files, close

        ino = fixed_ino(joined(self._path, _EVENTS))
        events = LogFile(ino, known, opened, made_ns=self._rooms.made_ns)
        return [
            DirectoryEntry(_EVENTS, events),
            DirectoryEntry("jobs", ProjectJobsDirectory(self._rooms, self._project)),
        ]

    @property
    def listing_version(self) -> int:
        return 1


class ProjectJobsDirectory(ListedDirectory):
    """``projects/<name>/jobs/``."""

    __slots__ = ("_path", "_project")

    def __init__(self, rooms: JobDirectories, project: str) -> None:
        self._project = project
        self._path = f"{PROJECTS}/{project}/jobs"
        super().__init__(rooms, self._path)

    def find(self, name: str) -> Node | None:
        job_id = self._rooms.job_id(name)
        job = self._rooms.jobs.known.jobs.get(job_id) if job_id is not None else None
        return self._link(job.id) if job is not None and job.project == self._project else None

    def entries(self) -> Sequence[DirectoryEntry]:
        return [
            DirectoryEntry(safe_name(job.id), self._link(job.id))
            for job in self._rooms.jobs.known.jobs.values()
            if job.project == self._project
        ]

    def _link(self, job_id: str) -> TextLink:
        target = f"../../../{JOBS}/{safe_name(job_id)}"
        changed_ns = self._rooms.changed_ns(self._rooms.jobs.known.jobs.get(job_id))
        return TextLink(joined(self._path, job_id), target, changed_ns)
