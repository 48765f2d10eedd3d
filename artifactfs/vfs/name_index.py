"""Which artifact has which name below ``artifacts/``.

Artifacts that the service calls alike form a *group*; its path is what ``names.safe_path`` makes of
that name. In a group

* of several artifacts with one content only the newest is shown;
* the newest has the plain name, every other ``name~<first 8 of its sha256>.ext``, or of a hash of
  its id where the content's is unknown. The name depends on the artifact alone, so it is the same
  from listing to listing, and also from mount to mount;
* if a directory has the plain name (``a`` beside ``a/b``), the newest too is told apart that way.

A told-apart name that is already some other artifact's plain name, a directory's, or that of an
older one in the group, takes 16, 32, 64 digits, and then counts. So the names depend on nothing but
on which artifacts there are: no order of arrival changes them (the tests compare with a tree built
anew).

**Changes are cheap.** `NameIndex.apply` takes what left and what came. Only groups that they touch
get names anew: their own; the one a new or vanished plain name may be in the way of
(``names.untagged``); and the file beside a directory that came or went. Each changed folder gets a
new dictionary, which is put in place in one step: readers take `NameDirectory.entries` once and
need no lock. One listing's thread at a time calls `apply`.

**Many at once are cheap too.** When the first listing brings 100 000 artifacts, nearly all of them
have a safe name that nobody else has. Those are *fresh*: they go into the top folder by whole sets
and dictionaries, and only what is left is looked at one by one. What makes a name fresh leaves no
other name to be thought over; a directory that comes later in the same change and has this name
finds the group there, as if it had been there before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from operator import attrgetter

from artifactfs.model import Artifact
from artifactfs.vfs.filenames import (
    joined,
    odd_names,
    parted,
    safe_path,
    tagged,
    untagged,
)

MANY = 500  # from so many on it pays to look for the fresh ones

_age = attrgetter("created_at", "id")
_TAG_DIGITS = (8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class NameChange:
    """A name in the folder at `folder` that came, went (`was_there`) or means something else."""

    folder: str
    name: str
    was_there: bool


@dataclass(frozen=True, slots=True)
class AppliedChanges:
    """What one `NameIndex.apply` did: to names, and which folders came and left, by their paths.

    `fresh` are names in the top folder that came as well, and are not in `changed`.
    """

    changed: Sequence[NameChange]
    fresh: Collection[str]
    came: Sequence[str]
    left: Sequence[str]


class NameDirectory:
    """One directory. `entries` is never changed, only replaced.

    `version` grows when names in it come, go or change their meaning, also over the death and
    return of the folder; `changed_ns` is when. `folders` counts its directories, `members` all
    groups and directories in it.
    """

    __slots__ = ("changed_ns", "entries", "folders", "members", "path", "version")

    def __init__(self, path: str, version: int, changed_ns: int) -> None:
        self.path = path
        self.entries: Mapping[str, Artifact | NameDirectory] = {}
        self.version = version
        self.changed_ns = changed_ns
        self.folders = 0
        self.members = 0


Group = Artifact | tuple[Artifact, ...]
"""Artifacts of one name, newest first; nearly always it is one, which then stands alone."""


class NameIndex:
    """All names. See the module for who calls what."""

    def __init__(self, now_ns: int) -> None:
        self._version = 0
        self._folders = {"": NameDirectory("", 0, now_ns)}
        self._groups: dict[str, Group] = {}
        self._given: dict[str, tuple[str, ...]] = {}  # only where it is not just the plain name
        self._nameless: set[str] = set()

    def get(self, path: str) -> NameDirectory | None:
        """The folder with this path ("" is the top), if there is one. At once."""
        return self._folders.get(path)

    def __iter__(self) -> Iterator[NameDirectory]:
        """All folders, in no order."""
        return iter(tuple(self._folders.values()))

    def has_name(self, artifact_id: str) -> bool:
        """Whether a listed artifact has one: not if a newer one has its name and content."""
        return artifact_id not in self._nameless

    def apply(
        self, removed: Iterable[Artifact], added: Sequence[Artifact], now_ns: int
    ) -> AppliedChanges:
        """Take away and add artifacts; an artifact that has changed is in both."""
        update = _Update()
        self._version += 1
        fresh = update.fresh = self._put_fresh(added) if len(added) >= MANY else {}
        for artifact in added:
            if fresh and fresh.get(artifact.filename) is artifact:
                continue
            path = safe_path(artifact.filename)
            update.note(path, self._names_of(path))
            self._put(path, artifact, update, now_ns)
        for artifact in removed:
            path = safe_path(artifact.filename)
            update.note(path, self._names_of(path))
            self._take(path, artifact, update)
        self._note_neighbours(update)
        for path, names in update.old_names.items():
            folder, _ = parted(path)
            for name in names:
                update.set(folder, name, None)
        for path in update.left:
            update.set(*parted(path), None)
        for path in update.came:
            update.set(*parted(path), self._folders.get(path))
        for path in update.old_names:
            folder, _ = parted(path)
            for name, artifact in self._give_names(path):
                update.set(folder, name, artifact)
        return AppliedChanges(self._commit(update, now_ns), fresh, update.came, update.left)

    def _put_fresh(self, added: Sequence[Artifact]) -> dict[str, Artifact]:
        """Put in those whose name is safe, nobody else's, and in no told-apart name's way."""
        by_name = {one.filename: one for one in added}
        others = set(odd_names(by_name))
        others |= by_name.keys() & self._groups.keys()
        others |= by_name.keys() & self._folders.keys()
        if len(by_name) < len(added):
            counted = Counter(one.filename for one in added)
            others |= {name for name, count in counted.items() if count > 1}
        fresh = {
            name: one for name, one in by_name.items() if name not in others and "~" not in name
        }
        self._groups.update(fresh)
        self._folders[""].members += len(fresh)
        return fresh

    def _put(self, path: str, artifact: Artifact, update: _Update, now_ns: int) -> None:
        group = self._groups.get(path)
        if group is None:
            self._groups[path] = artifact
            self._folder(parted(path)[0], update, now_ns).members += 1
            return
        others = [one for one in _each(group) if one.id != artifact.id]
        ordered = sorted([artifact, *others], key=_age, reverse=True)
        self._groups[path] = tuple(ordered) if others else artifact

    def _take(self, path: str, artifact: Artifact, update: _Update) -> None:
        group = self._groups.get(path)
        if group is None or not any(one is artifact for one in _each(group)):
            return
        rest = tuple(one for one in _each(group) if one is not artifact)
        self._nameless.discard(artifact.id)
        if rest:
            self._groups[path] = rest if len(rest) > 1 else rest[0]
            return
        del self._groups[path]
        self._leave(parted(path)[0], update)

    def _folder(self, path: str, update: _Update, now_ns: int) -> NameDirectory:
        folder = self._folders.get(path)
        if folder is None:
            folder = self._folders[path] = NameDirectory(path, self._version, now_ns)
            parent = self._folder(parted(path)[0], update, now_ns)
            parent.members += 1
            parent.folders += 1
            update.came.append(path)
        return folder

    def _leave(self, path: str, update: _Update) -> None:
        """One member of the folder at `path` has gone; with the last one the folder goes too."""
        folder = self._folders[path]
        folder.members -= 1
        if folder.members or not path:
            return
        del self._folders[path]
        update.left.append(path)
        parent = parted(path)[0]
        self._folders[parent].folders -= 1
        self._leave(parent, update)

    def _note_neighbours(self, update: _Update) -> None:
        """Groups that did not change themselves but whose names may have to."""
        for path in (*update.came, *update.left):
            if path in self._groups:
                update.note(path, self._names_of(path))
        for path in (*update.old_names, *update.came, *update.left):
            if "~" not in path:
                continue
            folder, name = parted(path)
            base = untagged(name)
            if base is not None and (group := joined(folder, base)) in self._given:
                update.note(group, self._names_of(group))

    def _names_of(self, path: str) -> tuple[str, ...]:
        given = self._given.get(path)
        if given is not None:
            return given
        return (parted(path)[1],) if path in self._groups else ()

    def _give_names(self, path: str) -> Iterable[tuple[str, Artifact]]:
        """The names of a group's artifacts, as things are now."""
        self._given.pop(path, None)
        group = self._groups.get(path)
        if group is None:
            return ()
        plain = parted(path)[1]
        has_directory = path in self._folders
        if isinstance(group, Artifact) and not has_directory:
            self._nameless.discard(group.id)
            return ((plain, group),)
        named = dict(self._told_apart(path, _each(group), has_directory))
        self._given[path] = tuple(named)
        shown = {artifact.id for artifact in named.values()}
        for artifact in _each(group):
            (self._nameless.discard if artifact.id in shown else self._nameless.add)(artifact.id)
        return named.items()

    def _told_apart(
        self, path: str, group: tuple[Artifact, ...], has_directory: bool
    ) -> Iterator[tuple[str, Artifact]]:
        folder, plain = parted(path)
        shown = list({one.sha256 or (one.id,): one for one in reversed(group)}.values())
        shown.sort(key=_age)
        if not has_directory:
            yield plain, shown.pop()
        used: set[str] = set()
        for artifact in shown:
            for name in _candidates(plain, artifact):
                place = joined(folder, name)
                if name not in used and place not in self._groups and place not in self._folders:
                    used.add(name)
                    yield name, artifact
                    break

    def _commit(self, update: _Update, now_ns: int) -> list[NameChange]:
        changed: list[NameChange] = []
        if update.fresh:
            top = self._folders[""]
            update.edits.setdefault("", {})
            top.version = self._version
            top.changed_ns = now_ns
        for path, edits in update.edits.items():
            folder = self._folders.get(path)
            if folder is None:
                changed.extend(NameChange(path, name, was_there=True) for name in edits)
                continue
            entries = dict(folder.entries)
            if not path:
                entries.update(update.fresh)
            before = len(changed)
            for name, value in edits.items():
                old = entries.get(name)
                if value is None:
                    entries.pop(name, None)
                else:
                    entries[name] = value
                if not _means_the_same(old, value):
                    changed.append(NameChange(path, name, was_there=old is not None))
            folder.entries = entries
            if len(changed) > before:
                folder.version = self._version
                folder.changed_ns = now_ns
        return changed


def names_of(artifacts: Sequence[Artifact]) -> dict[str, Artifact]:
    """What lies below ``artifacts/``, by its path there, in the order of `artifacts`.

    Those that are not shown, a newer one having their name and content, are left out.
    """
    folders = NameIndex(0)
    folders.apply((), artifacts, 0)
    paths = {
        value.id: joined(folder.path, name)
        for folder in folders
        for name, value in folder.entries.items()
        if isinstance(value, Artifact)
    }
    return {paths[one.id]: one for one in artifacts if one.id in paths}


class _Update:
    """What one `apply` gathers: groups to name anew with their old names, folders, and edits."""

    __slots__ = ("came", "edits", "fresh", "left", "old_names")

    def __init__(self) -> None:
        self.fresh: dict[str, Artifact] = {}
        self.old_names: dict[str, tuple[str, ...]] = {}
        self.came: list[str] = []
        self.left: list[str] = []
        self.edits: dict[str, dict[str, Artifact | NameDirectory | None]] = {}

    def note(self, path: str, names: tuple[str, ...]) -> None:
        """Have the group at `path` named anew; `names` are those it has had."""
        self.old_names.setdefault(path, names)

    def set(self, folder: str, name: str, value: Artifact | NameDirectory | None) -> None:
        """Let `name` mean `value`; a later call counts more."""
        edits = self.edits.get(folder)
        if edits is None:
            edits = self.edits[folder] = {}
        edits[name] = value


def _each(group: Group) -> tuple[Artifact, ...]:
    return group if isinstance(group, tuple) else (group,)


def _candidates(plain: str, artifact: Artifact) -> Iterator[str]:
    """The names that `artifact` may have beside `plain`, the best first. Endless."""
    seed = artifact.sha256
    if seed is None:
        seed = sha256(artifact.id.encode("utf-8", "surrogatepass")).hexdigest()
    for digits in _TAG_DIGITS:
        yield tagged(plain, seed[:digits])
    count = 2
    while True:
        yield tagged(plain, f"{seed}~{count}")
        count += 1


def _means_the_same(
    old: Artifact | NameDirectory | None, new: Artifact | NameDirectory | None
) -> bool:
    if isinstance(old, Artifact) and isinstance(new, Artifact):
        return old.id == new.id
    return old is new
