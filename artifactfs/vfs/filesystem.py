"""The root directory, and the tree that ``fuse`` drives.

Everything that the root shows is always there. ``jobs/`` and ``projects/`` stand in it if the tree
is given the room that knows of them, and ``drop/`` if it is given an outbox: a read-only mount has
none.

`ArtifactTree` listens to the catalog and passes on to its own listeners which names have changed
their meaning, on the catalog's thread. Names in ``drop/`` are never told: the kernel keeps none of
them (their lifetime is 0), and to drop one it would need the lock of a directory in which a request
may be under way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from artifactfs.catalog import Catalog, Snapshot
from artifactfs.clock import SYSTEM_CLOCK, Clock
from artifactfs.jobs import JobRegistry
from artifactfs.vfs import xattrs
from artifactfs.vfs.artifact_dirs import (
    BY_ID,
    BY_SHA256,
    ArtifactIndex,
)
from artifactfs.vfs.artifact_file import nanoseconds
from artifactfs.vfs.control_dir import (
    CONTROL,
    ControlContext,
    ControlDirectory,
    Facts,
)
from artifactfs.vfs.drop_dir import DROP, DropContext
from artifactfs.vfs.inode_numbers import ROOT_INO, SameByNumber
from artifactfs.vfs.interfaces import CacheView, OutboxView
from artifactfs.vfs.jobs_dir import (
    JOBS,
    JobDirectories,
    JobsDirectory,
)
from artifactfs.vfs.node import (
    FOREVER_S,
    Attributes,
    Directory,
    DirectoryEntry,
    EntryChanged,
    FilesystemSpace,
    Kind,
    Node,
)
from artifactfs.vfs.projects_dir import PROJECTS, ProjectsDirectory

ARTIFACTS = "artifacts"

Listener = Callable[[EntryChanged], None]


class RootDirectory(SameByNumber, Directory):
    """What is mounted."""

    __slots__ = ("_commands", "_directories", "_made_ns", "_on_leave", "ino")

    ino: int

    def __init__(
        self,
        directories: Mapping[str, Directory],
        given: xattrs.Commands,
        made_ns: int,
        on_leave: Callable[[bool], None],
    ) -> None:
        self.ino = ROOT_INO
        self._directories = directories
        self._commands = given
        self._made_ns = made_ns
        self._on_leave = on_leave

    @property
    def lifetime_s(self) -> float:
        return FOREVER_S

    def attributes(self) -> Attributes:
        nlink = 2 + len(self._directories)
        return Attributes(self.ino, Kind.DIRECTORY, 0o555, 0, nlink, self._made_ns, self._made_ns)

    def find(self, name: str) -> Node | None:
        return self._directories.get(name)

    def entries(self) -> Sequence[DirectoryEntry]:
        return [DirectoryEntry(name, directory) for name, directory in self._directories.items()]

    @property
    def listing_version(self) -> int:
        return 1

    def set_xattr(self, name: str, value: bytes) -> None:
        if name == xattrs.LEAVE:
            self._on_leave(xattrs.yes_or_no(name, value))
        else:
            self._commands.refresh_or_refuse(name, value)


class ArtifactTree:
    """All of it, as `node.Tree`.

    `facts` says what ``status.json`` begins with: the service's URL, the mount point and the like.
    `on_leave` is told whether uploads are not to be waited for after the unmount.
    `_updating` guards the taking-in of snapshots, `_listening` the list of listeners.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: CacheView,
        outbox: OutboxView | None,
        *,
        facts: Facts,
        jobs: JobRegistry | None = None,
        on_leave: Callable[[bool], None] = lambda _: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._commands = given = xattrs.Commands(catalog, store, jobs)
        self._artifacts = ArtifactIndex(catalog, store, given, clock=clock)
        self._control = control = ControlContext(catalog, store, outbox, facts, clock, given.orders)
        directories: dict[str, Directory] = {
            ARTIFACTS: self._artifacts.by_name,
            BY_ID: self._artifacts.by_id,
            BY_SHA256: self._artifacts.by_sha256,
        }
        if outbox is not None:
            directories[DROP] = DropContext(outbox, given).root
        if jobs is not None:
            rooms = JobDirectories(jobs, catalog, given, clock)
            directories[JOBS] = JobsDirectory(rooms)
            directories[PROJECTS] = ProjectsDirectory(rooms)
        directories[CONTROL] = ControlDirectory(control, given, clock)
        self._root = RootDirectory(directories, given, nanoseconds(clock.now()), on_leave)
        self._updating = threading.Lock()
        self._listening = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()

    def start(self) -> None:
        """Take in what the catalog has, and from now on what changes."""
        self._catalog.subscribe(self._take_in)
        self._take_in(self._catalog.snapshot, self._catalog.snapshot)

    def close(self) -> None:
        """Take in no more, and begin no further order; what was there stays."""
        self._catalog.unsubscribe(self._take_in)
        self._commands.close()

    @property
    def root(self) -> Directory:
        """The directory that is mounted."""
        return self._root

    def space(self) -> FilesystemSpace:
        """The cache's budget. At once."""
        total_bytes, free_bytes = self._store.space()
        return FilesystemSpace(total_bytes, free_bytes, len(self._catalog.snapshot.artifacts))

    def metrics(self) -> bytes:
        """What ``metrics.prom`` says now. At once."""
        return self._control.metrics()

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` called for each name that changes its meaning; it must not wait."""
        with self._listening:
            self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Stop calling `listener`."""
        with self._listening:
            self._listeners = tuple(one for one in self._listeners if one != listener)

    def _take_in(self, _: Snapshot, new: Snapshot) -> None:
        with self._updating:
            if new.version < self._artifacts.snapshot.version:
                return
            changes = self._artifacts.update(new)
        self._tell(changes)

    def _tell(self, changes: Sequence[EntryChanged]) -> None:
        for listener in self._listeners:
            for change in changes:
                listener(change)
