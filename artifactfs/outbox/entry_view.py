"""What is in the outbox, in memory, for everyone who looks.

The journal is what counts; this shows what it says. Changes come after they are committed, one at a
time; lookers wait for nothing but the moment in which a dictionary changes. Sizes and times of a
file that is being written come from the file itself (`LiveEntry`). How many entries are in which
state is counted as they come and go, so that asking costs the same for ten and for a hundred
thousand.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from artifactfs.outbox.filenames import (
    TemporaryNames,
    above,
    lies_below,
    parent_of,
)
from artifactfs.outbox.state import (
    EntryState,
    OutboxDirectory,
    OutboxEntry,
)

ROOT_ID = 0


class LiveEntry(Protocol):
    """A file that is open, as it is this moment."""

    def shown(self, entry: OutboxEntry) -> OutboxEntry: ...


@dataclass(frozen=True, slots=True)
class OutboxTally:
    """How many entries there are in each state; of those on their way, files and bytes."""

    states: dict[EntryState, int]
    pending_files: int
    pending_bytes: int
    sent_bytes: int


class EntryView:
    """Names and entries. Guarded by `_lock`, which is never held over I/O."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._temporary = TemporaryNames(patterns)
        now_ns = time.time_ns()
        self._root = OutboxDirectory(ROOT_ID, "", 0o755, now_ns, now_ns)
        self._entries: dict[str, OutboxEntry] = {}
        self._paths: dict[int, str] = {}
        self._folders: dict[str, OutboxDirectory] = {}
        self._names: dict[str, dict[str, None]] = {"": {}}
        self._live: dict[int, LiveEntry] = {}
        self._progress: dict[int, float] = {}
        self._states: Counter[EntryState] = Counter()
        self._pending_files = 0
        self._pending_bytes = 0
        self._changes = 0
        self.version = 0

    @property
    def revision(self) -> Hashable:
        """Differs whenever `entries` would tell anything else.

        Files that are open change without a word, so they are looked at; the others are counted.
        """
        with self._lock:
            paths = [self._paths[one] for one in self._live if one in self._paths]
            return self._changes, tuple(self._shown(self._entries[path]) for path in paths)

    def find(self, path: str) -> OutboxEntry | OutboxDirectory | None:
        """The entry or folder at `path`."""
        with self._lock:
            if not path:
                return self._root
            entry = self._entries.get(path)
            if entry is None:
                return self._folders.get(path)
            return self._shown(entry)

    def children(self, path: str) -> list[OutboxEntry | OutboxDirectory]:
        """What lies directly in a folder, by name."""
        with self._lock:
            paths = sorted(self._names.get(path, ()))
            found: list[OutboxEntry | OutboxDirectory] = []
            for one in paths:
                entry = self._entries.get(one)
                found.append(self._folders[one] if entry is None else self._shown(entry))
            return found

    def by_id(self, entry_id: int) -> OutboxEntry | None:
        """An entry that has a name."""
        with self._lock:
            path = self._paths.get(entry_id)
            return None if path is None else self._shown(self._entries[path])

    def stored(self, entry_id: int) -> OutboxEntry | None:
        """An entry that has a name, as its row says."""
        with self._lock:
            path = self._paths.get(entry_id)
            return None if path is None else self._entries[path]

    def tally(self) -> OutboxTally:
        """How many there are. Takes as long for many as for few, but for those being sent."""
        with self._lock:
            sent_bytes = sum(
                int(self._entries[self._paths[one]].size_bytes * part)
                for one, part in self._progress.items()
                if part < 1 and one in self._paths
            )
            states = {state: self._states[state] for state in EntryState}
            return OutboxTally(states, self._pending_files, self._pending_bytes, sent_bytes)

    def entries(self) -> list[OutboxEntry]:
        """Every entry, by path."""
        with self._lock:
            return [self._shown(self._entries[path]) for path in sorted(self._entries)]

    def below(self, path: str) -> tuple[list[OutboxEntry], list[OutboxDirectory]]:
        """All entries and folders below a folder."""
        with self._lock:
            entries = [one for key, one in self._entries.items() if lies_below(key, path)]
            folders = [one for key, one in self._folders.items() if lies_below(key, path)]
            return entries, folders

    def is_empty(self, path: str) -> bool:
        """Whether a folder has nothing in it."""
        with self._lock:
            return not self._names.get(path)

    def _shown(self, entry: OutboxEntry) -> OutboxEntry:
        live = self._live.get(entry.id)
        if live is not None:
            entry = live.shown(entry)
        progress = self._progress.get(entry.id)
        return entry if progress is None else dataclasses.replace(entry, progress=progress)

    # Changes

    def put(self, entry: OutboxEntry) -> OutboxEntry:
        """An entry is new, or is like this now; as it is shown. Its path does not change here."""
        waits = self._temporary.match(entry.path)
        if waits != entry.waits_for_name:
            entry = dataclasses.replace(entry, waits_for_name=waits)
        with self._lock:
            before = self._entries.get(entry.path)
            if before is None:
                self._name(entry.path)
            else:
                self._count(before, -1)
            self._count(entry, 1)
            self._entries[entry.path] = entry
            self._paths[entry.id] = entry.path
            self._changes += 1
        return entry

    def load(self, entries: Iterable[OutboxEntry]) -> list[OutboxEntry]:
        """All of them are new, at the start; as they are shown."""
        shown: list[OutboxEntry] = []
        with self._lock:
            for entry in entries:
                if self._temporary.match(entry.path):
                    entry = dataclasses.replace(entry, waits_for_name=True)
                self._names.setdefault(parent_of(entry.path), {})[entry.path] = None
                self._count(entry, 1)
                self._entries[entry.path] = entry
                self._paths[entry.id] = entry.path
                shown.append(entry)
            self._changes += 1
            self.version += 1
        return shown

    def clear(self) -> None:
        """Nothing is there any more."""
        with self._lock:
            for table in (self._entries, self._paths, self._folders, self._names, self._progress):
                table.clear()
            self._names[""] = {}
            self._states.clear()
            self._pending_files = self._pending_bytes = 0
            self._changes += 1
            self.version += 1

    def _count(self, entry: OutboxEntry, by: int) -> None:
        self._states[entry.state] += by
        if entry.is_pending:
            self._pending_files += by
            self._pending_bytes += by * entry.size_bytes

    def put_folder(self, folder: OutboxDirectory) -> None:
        """A folder is new, or is like this now."""
        with self._lock:
            if folder.path not in self._folders:
                self._name(folder.path)
                self._names.setdefault(folder.path, {})
            self._folders[folder.path] = folder

    def drop(self, path: str) -> None:
        """The name is gone."""
        with self._lock:
            self._drop(path)

    def rename(self, old: str, entry: OutboxEntry) -> OutboxEntry:
        """An entry has another path, in place of what was there; in one step for all who look."""
        entry = dataclasses.replace(entry, waits_for_name=self._temporary.match(entry.path))
        with self._lock:
            self._drop(old)
            if entry.path in self._entries:
                self._drop(entry.path)
            self._name(entry.path)
            self._count(entry, 1)
            self._entries[entry.path] = entry
            self._paths[entry.id] = entry.path
        return entry

    def _drop(self, path: str) -> None:
        entry = self._entries.pop(path, None)
        if entry is not None:
            self._count(entry, -1)
            self._paths.pop(entry.id, None)
            self._progress.pop(entry.id, None)
            self._changes += 1
        if self._folders.pop(path, None) is not None:
            self._names.pop(path, None)
        self._names.get(parent_of(path), {}).pop(path, None)
        self._touch(parent_of(path))

    def _name(self, path: str) -> None:
        self._names.setdefault(parent_of(path), {})[path] = None
        self._touch(parent_of(path))

    def _touch(self, folder: str) -> None:
        self.version += 1
        now_ns = time.time_ns()
        if not folder:
            self._root = dataclasses.replace(self._root, mtime_ns=now_ns, ctime_ns=now_ns)
        elif folder in self._folders:
            self._folders[folder] = dataclasses.replace(
                self._folders[folder], mtime_ns=now_ns, ctime_ns=now_ns
            )

    def set_live(self, entry_id: int, live: LiveEntry | None) -> None:
        """A file is open from now on, or not any more."""
        with self._lock:
            if live is None:
                self._live.pop(entry_id, None)
            else:
                self._live[entry_id] = live

    def set_progress(self, entry_id: int, progress: float | None) -> None:
        """How much of an entry has been sent."""
        with self._lock:
            self._changes += 1
            if progress is None:
                self._progress.pop(entry_id, None)
            else:
                self._progress[entry_id] = progress

    def set_progress_of(self, entry: OutboxEntry, progress: float) -> None:
        """How much of an entry has been sent, if it is still of this state and generation."""
        with self._lock:
            path = self._paths.get(entry.id)
            row = None if path is None else self._entries[path]
            if row is not None and (row.state, row.generation) == (entry.state, entry.generation):
                self._changes += 1
                self._progress[entry.id] = progress

    def empty_folders(self, changed_before_ns: int) -> list[OutboxDirectory]:
        """Folders whose entries have all left, the deepest first."""
        with self._lock:
            return sorted(
                (
                    folder
                    for path, folder in self._folders.items()
                    if not folder.fresh
                    and not self._names.get(path)
                    and folder.mtime_ns < changed_before_ns
                ),
                key=lambda folder: -len(folder.path),
            )

    def folders_above(self, path: str) -> list[OutboxDirectory]:
        """The folders above a path."""
        with self._lock:
            return [self._folders[one] for one in above(path) if one in self._folders]
