"""Keeps the cache within its budget.

Nothing is counted at the start: a directory with a million contents mounts as fast as an empty one.
A *survey* walks the directory, in the background, for the first time some seconds after the mount
and then whenever enough was fetched to matter; between surveys the total is the last one plus what
was fetched since. If it is over `cache.size`, or the disk has less than `cache.min_free` left, the
contents that were used least recently (their sidecar's time, which each opening renews) are removed
until a twentieth is free. Open and pinned contents stay, whichever process has them open: an open
content holds a shared flock on its file, and only who gets the exclusive one may remove it. Where
that is not enough, open contents give back what they used least recently (``hole_punching``).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from artifactfs.cache.cache_layout import CacheLayout, CachePaths

HEADROOM = 20


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
    """One content as a survey saw it."""

    place: CachePaths
    used_ns: int
    disk_bytes: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """What the cache may use, in bytes."""

    size_bytes: int
    min_free_bytes: int


def survey(places: CacheLayout) -> Iterator[EvictionCandidate]:
    """Every content that is there, and whatever else downloads that were ended have left."""
    for place in places.all():
        here = [found for path in (place.sidecar, place.path) if (found := _stat(path))]
        disk_bytes = 512 * sum(one.st_blocks for one in here)
        pinned = os.path.exists(place.pin)  # noqa: PTH110 - a million of them
        if here:
            yield EvictionCandidate(place, here[0].st_mtime_ns, disk_bytes, pinned)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - a million of them
    except OSError:
        return None


def excess_bytes(total_bytes: int, free_bytes: int, budget: Budget) -> int:
    """How much must go; with some headroom, so that not every flight evicts."""
    over_bytes = max(total_bytes - budget.size_bytes, budget.min_free_bytes - free_bytes)
    return over_bytes + budget.size_bytes // HEADROOM if over_bytes > 0 else 0


def choose(
    found: Collection[EvictionCandidate], excess: int, in_use: Callable[[str], bool]
) -> list[EvictionCandidate]:
    """Whom to remove: least recently used first, never in use or pinned. Pure."""
    victims = []
    for one in sorted(found, key=lambda each: each.used_ns):
        if excess <= 0:
            break
        if not one.pinned and not in_use(one.place.key):
            victims.append(one)
            excess -= one.disk_bytes
    return victims


def remove(place: CachePaths) -> bool:
    """Remove a content's files unless somebody has it open."""
    try:
        descriptor = os.open(place.path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = -1
    except OSError:
        return False
    try:
        if descriptor >= 0:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in (place.sidecar, place.path):
            Path(path).unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True
