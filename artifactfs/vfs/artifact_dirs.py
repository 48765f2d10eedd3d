"""``artifacts/``, ``by-id/`` and ``by-sha256/``: three kinds of directories of one kind of file.

Nodes are made when they are asked for and hold next to nothing: a directory of ``artifacts/`` knows
its path, a file (``artifact_file``) the artifact it was made for. 100 000 artifacts cost no nodes.
What there is to know lies in the catalog's snapshot (ids and hashes) and in ``name_index`` (names);
`ArtifactIndex.update` carries over what changed from one snapshot to the next, and says which names
the kernel may remember wrongly.

A directory's attributes live for a second: when it changed is not told. Its names are, so that the
kernel may keep a listing for as long as `listing_version` stays.

Opening a directory whose listing is older than promised waits for the service for a second at most,
looking up an unknown name for two, and both not at all while the service is in trouble. What was
known before is shown then.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from artifactfs.catalog import Catalog, Snapshot
from artifactfs.catalog.snapshot import differences
from artifactfs.clock import SYSTEM_CLOCK, Clock
from artifactfs.model import Artifact
from artifactfs.vfs.artifact_file import ArtifactFile, nanoseconds
from artifactfs.vfs.filenames import odd_names, safe_name
from artifactfs.vfs.inode_numbers import (
    InodeNumbers,
    NumberedThing,
    SameByNumber,
    fixed_ino,
)
from artifactfs.vfs.interfaces import CacheView
from artifactfs.vfs.name_index import NameDirectory, NameIndex
from artifactfs.vfs.node import (
    Attributes,
    Directory,
    DirectoryEntry,
    EntryChanged,
    Kind,
    ListedEntries,
    Node,
    Number,
)
from artifactfs.vfs.xattrs import Commands

DIRECTORY_LIFETIME_S = 1.0
FRESHEN_WAIT_S = 1.0
ASK_WAIT_S = 2.0

BY_ID = "by-id"
BY_SHA256 = "by-sha256"

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArtifactIndex:
    """All artifacts as nodes.

    `update` is called by one thread at a time; everything else reads without a lock what it has put
    in place whole.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: CacheView,
        given: Commands,
        *,
        inodes: InodeNumbers | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.catalog = catalog
        self.store = store
        self.commands = given
        self.inodes = inodes or InodeNumbers()
        self._clock = clock
        self.folders = NameIndex(self._now_ns())
        self.snapshot = Snapshot()
        self._odd_ids: dict[str, str] = {}  # id → name, where the id is no safe name,
        self._odd_names: dict[str, str] = {}  # and back
        self.ids_version = 0
        self.hashes_version = 0
        self.changed_ns = self._now_ns()
        self.inodes.claim(NumberedThing.FOLDER, "")
        self.by_name = NamesDirectory(self, "")
        self.by_id = IdsDirectory(self)
        self.by_sha256 = HashesDirectory(self)

    def update(self, new: Snapshot) -> Sequence[EntryChanged]:
        """Carry over what changed up to `new`; the names that have another meaning now.

        Until the first listing is there, names that come are not told: nobody can have seen that
        they were not there, and there may be 100 000.
        """
        old = self.snapshot
        differ = differences(old, new)
        if not differ.removed and not differ.added:
            self.snapshot = new
            return ()
        now_ns = self.changed_ns = self._now_ns()
        gone = [one.id for one in differ.removed if one.id not in new.by_id]
        came = [one.id for one in differ.added if one.id not in old.by_id]
        self._claim(came)
        named = self.folders.apply(differ.removed, differ.added, now_ns)
        for path in named.came:
            self.inodes.claim(NumberedThing.FOLDER, path)
        self.snapshot = new
        first = old.fetched_at is None
        if first and not old.artifacts:
            self.ids_version += 1
            self.hashes_version += 1
            return []
        went_ids = [self.name_of_id(artifact_id) for artifact_id in gone]
        came_ids = [self.name_of_id(artifact_id) for artifact_id in came]
        for artifact_id in gone:
            self._release(artifact_id)
        hashes = _hashes_changed(old, new, (*differ.removed, *differ.added))
        self.ids_version += bool(went_ids or came_ids)
        self.hashes_version += bool(hashes)
        changes = [
            *(
                EntryChanged(self.folder_ino(one.folder), one.name)
                for one in named.changed
                if one.was_there or not first
            ),
            *(EntryChanged(self.by_name.ino, name) for name in named.fresh if not first),
            *(EntryChanged(self.by_id.ino, name) for name in went_ids),
            *(EntryChanged(self.by_id.ino, name) for name in came_ids if not first),
            *(
                EntryChanged(self.by_sha256.ino, sha256)
                for sha256 in hashes
                if sha256 in old.by_sha256 or not first
            ),
        ]
        for path in named.left:
            self.inodes.release(NumberedThing.FOLDER, path)
        return changes

    def file(self, artifact: Artifact) -> ArtifactFile:
        """The node of an artifact."""
        return ArtifactFile(self, artifact)

    def node(self, value: Artifact | NameDirectory) -> Node:
        """The node of what a name in ``artifacts/`` means."""
        if isinstance(value, Artifact):
            return ArtifactFile(self, value)
        return NamesDirectory(self, value.path)

    def file_number(self, artifact: Artifact) -> Number:
        """What `file` would have for number and kind."""
        return self.inodes.of(NumberedThing.ARTIFACT, artifact.id), Kind.FILE

    def number(self, value: Artifact | NameDirectory) -> Number:
        """What `node` would have for number and kind."""
        if isinstance(value, Artifact):
            return self.file_number(value)
        return self.folder_ino(value.path), Kind.DIRECTORY

    def current(self, artifact: Artifact) -> Artifact:
        """The newest record of this artifact; the last that was known if it has expired."""
        return self.snapshot.by_id.get(artifact.id, artifact)

    def count_names(self, artifact: Artifact) -> int:
        """How many names lead to it: its own, its id, its hash; none when it has expired."""
        snapshot = self.snapshot
        if artifact.id not in snapshot.by_id:
            return 0
        newest = snapshot.by_sha256.get(artifact.sha256) if artifact.sha256 else None
        stands_for_content = newest is not None and newest.id == artifact.id
        return 1 + self.folders.has_name(artifact.id) + stands_for_content

    def folder_ino(self, path: str) -> int:
        """The number of the directory at `path` in ``artifacts/``."""
        return self.inodes.of(NumberedThing.FOLDER, path)

    def id_of_name(self, name: str) -> str | None:
        """The id that `name` stands for in ``by-id/``, whether it is known or not."""
        artifact_id = self._odd_names.get(name)
        if artifact_id is not None:
            return artifact_id
        return None if name in self._odd_ids else name

    def name_of_id(self, artifact_id: str) -> str:
        """The name of an id in ``by-id/``."""
        return self._odd_ids.get(artifact_id) or safe_name(artifact_id)

    def names_of_ids(self, ids: Mapping[str, Artifact]) -> Sequence[str]:
        """All names of ``by-id/``, in the order of `ids`."""
        odd = self._odd_ids
        return [odd.get(one) or safe_name(one) for one in ids] if odd else tuple(ids)

    def _claim(self, artifact_ids: Collection[str]) -> None:
        self.inodes.claim_all(NumberedThing.ARTIFACT, artifact_ids)
        for artifact_id in odd_names(artifact_ids):
            name = safe_name(artifact_id)
            if name != artifact_id:
                self._odd_ids[artifact_id] = name
                self._odd_names[name] = artifact_id

    def _release(self, artifact_id: str) -> None:
        self.inodes.release(NumberedThing.ARTIFACT, artifact_id)
        name = self._odd_ids.pop(artifact_id, None)
        if name is not None:
            del self._odd_names[name]

    def _now_ns(self) -> int:
        return nanoseconds(self._clock.now())


class ArtifactDirectory(SameByNumber, Directory):
    """What the three kinds of directories have in common: where their news comes from."""

    __slots__ = ("_all", "ino")

    ino: int

    def __init__(self, all_: ArtifactIndex, ino: int) -> None:
        self._all = all_
        self.ino = ino

    @property
    def lifetime_s(self) -> float:
        return DIRECTORY_LIFETIME_S

    @property
    def may_know_more(self) -> bool:
        return self._all.catalog.may_ask

    def look_up(self, name: str) -> Node | None:
        found = self.find(name)
        if found is None:
            self._all.catalog.ask(ASK_WAIT_S)
            found = self.find(name)
        return found

    def is_fresh(self) -> bool:
        return self._all.catalog.is_fresh()

    def freshen(self) -> None:
        self._all.catalog.freshen(FRESHEN_WAIT_S)

    def attributes(self) -> Attributes:
        changed_ns = self._all.changed_ns
        return Attributes(self.ino, Kind.DIRECTORY, 0o555, 0, 2, changed_ns, changed_ns)

    def set_xattr(self, name: str, value: bytes) -> None:
        self._all.commands.refresh_or_refuse(name, value)


class NamesDirectory(ArtifactDirectory):
    """``artifacts/`` or a directory in it. It is empty once its last artifact has gone."""

    __slots__ = ("_path",)

    def __init__(self, all_: ArtifactIndex, path: str) -> None:
        super().__init__(all_, all_.folder_ino(path))
        self._path = path

    def find(self, name: str) -> Node | None:
        folder = self._all.folders.get(self._path)
        value = folder.entries.get(name) if folder is not None else None
        return self._all.node(value) if value is not None else None

    def entries(self) -> Sequence[DirectoryEntry]:
        folder = self._all.folders.get(self._path)
        entries = folder.entries if folder is not None else {}
        values = tuple(entries.values())
        return ListedEntries(tuple(entries), values, self._all.node, self._all.number)

    @property
    def listing_version(self) -> int:
        folder = self._all.folders.get(self._path)
        return folder.version if folder is not None else 0

    def attributes(self) -> Attributes:
        folder = self._all.folders.get(self._path)
        if folder is None:
            changed_ns = self._all.changed_ns
            return Attributes(self.ino, Kind.DIRECTORY, 0o555, 0, 0, changed_ns, changed_ns)
        changed_ns = folder.changed_ns
        return Attributes(
            self.ino, Kind.DIRECTORY, 0o555, 0, 2 + folder.folders, changed_ns, changed_ns
        )


class IdsDirectory(ArtifactDirectory):
    """``by-id/``: ids that are no safe names are escaped as names are."""

    __slots__ = ()

    def __init__(self, all_: ArtifactIndex) -> None:
        super().__init__(all_, fixed_ino(BY_ID))

    def find(self, name: str) -> Node | None:
        artifact_id = self._all.id_of_name(name)
        if artifact_id is None:
            return None
        artifact = self._all.snapshot.by_id.get(artifact_id)
        return self._all.file(artifact) if artifact is not None else None

    def entries(self) -> Sequence[DirectoryEntry]:
        by_id = self._all.snapshot.by_id
        names = self._all.names_of_ids(by_id)
        return ListedEntries(names, tuple(by_id.values()), self._all.file, self._all.file_number)

    @property
    def listing_version(self) -> int:
        return self._all.ids_version


class HashesDirectory(ArtifactDirectory):
    """``by-sha256/``: of several artifacts with one content the newest stands for all."""

    __slots__ = ()

    def __init__(self, all_: ArtifactIndex) -> None:
        super().__init__(all_, fixed_ino(BY_SHA256))

    def find(self, name: str) -> Node | None:
        artifact = self._all.snapshot.by_sha256.get(name)
        return self._all.file(artifact) if artifact is not None else None

    def look_up(self, name: str) -> Node | None:
        return super().look_up(name) if _SHA256.fullmatch(name) else None

    def entries(self) -> Sequence[DirectoryEntry]:
        by_sha256 = self._all.snapshot.by_sha256
        values = tuple(by_sha256.values())
        return ListedEntries(tuple(by_sha256), values, self._all.file, self._all.file_number)

    @property
    def listing_version(self) -> int:
        return self._all.hashes_version


def _hashes_changed(old: Snapshot, new: Snapshot, touched: Sequence[Artifact]) -> list[str]:
    """The hashes that came, went or are another artifact's now."""
    changed = []
    for sha256 in {one.sha256 for one in touched if one.sha256 is not None}:
        before, after = old.by_sha256.get(sha256), new.by_sha256.get(sha256)
        if before is None or after is None or before.id != after.id:
            changed.append(sha256)
    return changed
