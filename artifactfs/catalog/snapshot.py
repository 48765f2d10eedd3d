"""Snapshots: one listing of the service as immutable values, and how the next is made of the last.

A `Snapshot` is swapped whole and read without a lock. Making one must be quick and must not hold
two listings in memory: with 100 000 artifacts a listing is some 60 MB of objects. So `gathered`
takes the service's answer as a stream, and where an artifact is as it was it keeps the old object
and lets the new one go. That has a second use: whoever compares two snapshots compares by identity
(`differences`), and a listing that brought nothing new shares its containers with the last.

`version` counts changes of the artifacts. A failed refresh makes a snapshot with the same artifacts
and the same version that is marked stale.

Expiry: an artifact leaves when its `expires_at` passes, also if the service is not asked again. But
what the service lists although its time is past (its clock and ours differ, it prolonged, or the
time is only our guess of seven days) stays for as long as it is listed: the service knows better.
`Snapshot.fetched_at` tells the two apart; it is the moment the request began.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter, is_

from artifactfs.model import Artifact

_age = attrgetter("created_at", "id")
_created = attrgetter("created_at")
_id = attrgetter("id")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What exists, as far as is known.

    `artifacts` is ordered newest first, each id once. `by_sha256` has the newest artifact of each
    content. `fetched_at` is when the listing was asked for, UTC, or None before the first one.
    `stale` says that the service was asked since and failed to answer, `error` why. `version` grows
    whenever the artifacts change.
    """

    artifacts: tuple[Artifact, ...] = ()
    by_id: Mapping[str, Artifact] = field(default_factory=dict)
    by_sha256: Mapping[str, Artifact] = field(default_factory=dict)
    fetched_at: datetime | None = None
    stale: bool = False
    error: str | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotDifferences:
    """What two snapshots do not share. A changed artifact is in both."""

    removed: tuple[Artifact, ...]
    added: tuple[Artifact, ...]


def gathered(known: Mapping[str, Artifact], artifacts: Iterable[Artifact]) -> dict[str, Artifact]:
    """The service's answer by id, with the objects of `known` wherever nothing has changed.

    An id that is listed twice (pages shift while they are read) counts once, as it came last.
    """
    by_id: dict[str, Artifact] = {}
    for artifact in artifacts:
        old = known.get(artifact.id)
        by_id[artifact.id] = old if old is not None and _same(old, artifact) else artifact
    return by_id


def listed(before: Snapshot, by_id: Mapping[str, Artifact], asked_at: datetime) -> Snapshot:
    """The snapshot that a new listing, `gathered`, makes of `before`."""
    known = before.by_id
    if len(by_id) == len(known) and all(known.get(one.id) is one for one in by_id.values()):
        return dataclasses.replace(before, fetched_at=asked_at, stale=False, error=None)
    return _built(_newest_first(by_id.values()), before, fetched_at=asked_at)


def with_artifacts(before: Snapshot, added: Iterable[Artifact]) -> Snapshot:
    """`before` and some artifacts more; older ones of their ids are replaced."""
    fresh = {one.id: one for one in added}
    for artifact_id, artifact in list(fresh.items()):
        old = before.by_id.get(artifact_id)
        if old is not None and _same(old, artifact):
            del fresh[artifact_id]
    if not fresh:
        return before
    before = without(before, fresh)
    artifacts = list(before.artifacts)
    by_id = dict(before.by_id) | fresh
    by_sha256 = dict(before.by_sha256)
    for artifact in fresh.values():
        bisect.insort_left(artifacts, artifact, key=_NewestFirst)
        if artifact.sha256 is not None:
            rival = by_sha256.get(artifact.sha256, artifact)
            by_sha256[artifact.sha256] = max(artifact, rival, key=_age)
    return dataclasses.replace(
        before,
        artifacts=tuple(artifacts),
        by_id=by_id,
        by_sha256=by_sha256,
        version=before.version + 1,
    )


def without(before: Snapshot, ids: Collection[str]) -> Snapshot:
    """`before` but for the artifacts with these ids."""
    if not any(one in before.by_id for one in ids):
        return before
    return _built([one for one in before.artifacts if one.id not in ids], before)


def failed(before: Snapshot, error: str) -> Snapshot:
    """`before`, marked stale."""
    return dataclasses.replace(before, stale=True, error=error)


def expired(snapshot: Snapshot, now: datetime) -> set[str]:
    """The ids of what has expired since it was listed."""
    listed_at = snapshot.fetched_at or _LONG_AGO
    return {one.id for one in snapshot.artifacts if listed_at < one.expires_at <= now}


def next_expiry(snapshot: Snapshot, among: Sequence[Artifact] | None = None) -> datetime | None:
    """When `expired` will have something to say (of those), or None for never."""
    listed_at = snapshot.fetched_at or _LONG_AGO
    times = (one.expires_at for one in (snapshot.artifacts if among is None else among))
    return min((time for time in times if time > listed_at), default=None)


def differences(old: Snapshot, new: Snapshot) -> SnapshotDifferences:
    """What left and what came from `old` to `new`."""
    if old.artifacts is new.artifacts:
        return SnapshotDifferences((), ())
    first = _alike(old.artifacts, new.artifacts)
    older, newer = old.artifacts[first:], new.artifacts[first:]
    last = _alike(older[::-1], newer[::-1])
    get_new, get_old = new.by_id.get, old.by_id.get
    return SnapshotDifferences(
        tuple(one for one in older[: len(older) - last] if get_new(one.id) is not one),
        tuple(one for one in newer[: len(newer) - last] if get_old(one.id) is not one),
    )


class _NewestFirst:
    """Orders artifacts as a snapshot does, for `bisect`, which knows only rising order."""

    __slots__ = ("_key",)

    def __init__(self, artifact: Artifact) -> None:
        self._key = _age(artifact)

    def __lt__(self, other: _NewestFirst) -> bool:
        return bool(self._key > other._key)


def _alike(old: Sequence[Artifact], new: Sequence[Artifact]) -> int:
    """With how many identical artifacts both begin; quick, as most listings are nearly the same."""
    identical = list(map(is_, old, new))
    return identical.index(False) if False in identical else len(identical)


def _newest_first(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """In the order of `_age`, reversed; quick where they come in that order, but for their ids."""
    by_time = sorted(artifacts, key=_created, reverse=True)
    newest_first: list[Artifact] = []
    for _, alike in groupby(by_time, _created):
        newest_first += sorted(alike, key=_id, reverse=True)
    return newest_first


def _same(old: Artifact, new: Artifact) -> bool:
    return old == new and old.metadata == new.metadata


def _built(
    newest_first: list[Artifact], before: Snapshot, *, fetched_at: datetime | None = None
) -> Snapshot:
    return Snapshot(
        artifacts=tuple(newest_first),
        by_id={one.id: one for one in newest_first},
        by_sha256={one.sha256: one for one in reversed(newest_first) if one.sha256 is not None},
        fetched_at=fetched_at or before.fetched_at,
        stale=before.stale and fetched_at is None,
        error=before.error if fetched_at is None else None,
        version=before.version + 1,
    )
