"""What the service lists, as names and folders.

A `ListingSnapshot` never changes. `Listing` has the newest and asks for another when that is older
than ``list.ttl``, or when a name is looked up that is not known, then at most once a second.
Whoever asks while an answer is on its way waits for that one. While the service is away, the last
listing stays.

What this process has written shows at once (`wrote`). Of several artifacts with one name the newest
has it, and the service's times may be whole seconds; of its own, a process knows the order.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from artifactfs.assembly import names_of
from artifactfs.errors import TimedOut, Unreachable
from artifactfs.model import Artifact

AGAIN_S: Final = 1.0
KNOWN_S: Final = 10.0
AWAY_S: Final = 10.0
BY_ID: Final = "id"
BY_SHA256: Final = "sha256"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListingDirectory:
    """A directory: it is there because a file is below it. `names` are those in it, sorted."""

    path: str
    names: tuple[str, ...]


class ListingSnapshot:
    """Everything that was listed at one time."""

    def __init__(self, artifacts: Sequence[Artifact]) -> None:
        self._by_name: Mapping[str, Artifact] = names_of(artifacts)
        self._by_id = {one.id: one for one in artifacts}
        self._by_sha256 = {one.sha256: one for one in artifacts if one.sha256 is not None}
        children: dict[str, set[str]] = {"": set()}
        for name in self._by_name:
            while name:
                folder, _, last = name.rpartition("/")
                known = folder in children
                children.setdefault(folder, set()).add(last)
                if known:
                    break
                name = folder
        self._folders = {
            path: ListingDirectory(path, tuple(sorted(of))) for path, of in children.items()
        }

    def find(self, path: str) -> Artifact | ListingDirectory | None:
        """What is at `path`: ``id/<id>``, ``sha256/<hex>``, or a name as a mount shows it."""
        head, _, rest = path.partition("/")
        special: Artifact | None = None
        if head == BY_ID:
            special = self._by_id.get(rest)
        elif head == BY_SHA256:
            special = self._by_sha256.get(rest.lower())
        return special or self._by_name.get(path) or self._folders.get(path)

    def within(self, folder: ListingDirectory) -> Iterator[tuple[str, Artifact | ListingDirectory]]:
        """What lies directly in a folder, with its path."""
        for name in folder.names:
            path = f"{folder.path}/{name}" if folder.path else name
            yield path, self._by_name.get(path) or self._folders[path]


class Listing:
    """The newest snapshot. `_lock` guards all of it, and is held while the service is asked.

    `ask` lists all artifacts, within so many seconds if a number is given.
    """

    def __init__(self, ask: Callable[[float | None], Iterable[Artifact]], ttl_s: float) -> None:
        self._ask = ask
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._artifacts: dict[str, Artifact] | None = None
        self._snapshot: ListingSnapshot | None = None
        self._asked_s = -math.inf
        self._not_before_s = -math.inf
        self._own: dict[str, Artifact] = {}
        self._last = datetime.min.replace(tzinfo=UTC)

    def now(self) -> ListingSnapshot:
        """One that is not older than it may be. Raises what the service says."""
        return self._younger_than(self._ttl_s)

    def again(self) -> ListingSnapshot:
        """One for a name that the last did not have."""
        return self._younger_than(min(AGAIN_S, self._ttl_s))

    def wrote(self, artifact: Artifact) -> None:
        """Take down that this one was written, after all that were before."""
        with self._lock:
            self._last = max(artifact.created_at, self._last + timedelta(microseconds=1))
            self._own[artifact.id] = replace(artifact, created_at=self._last)
            self._snapshot = None

    def expire(self) -> None:
        """Ask again before the next answer."""
        with self._lock:
            self._asked_s = -math.inf

    def _younger_than(self, age_s: float) -> ListingSnapshot:
        with self._lock:
            now_s = time.monotonic()
            if self._asked_s < now_s - age_s and self._not_before_s <= now_s:
                self._list(now_s)
            if self._snapshot is None:
                listed = self._artifacts or {}
                self._snapshot = ListingSnapshot([*(listed | self._own).values()])
            return self._snapshot

    def _list(self, now_s: float) -> None:
        try:
            listed = self._ask(None if self._artifacts is None else KNOWN_S)
            self._artifacts = {one.id: one for one in listed}
        except (TimedOut, Unreachable) as error:
            if self._artifacts is None:
                raise
            _log.warning("the listing of %.0f s ago is used: %s", now_s - self._asked_s, error)
            self._not_before_s = time.monotonic() + AWAY_S
            return
        self._asked_s = now_s
        self._own = {key: one for key, one in self._own.items() if key in self._artifacts}
        self._snapshot = None
