"""What a cache tells of itself: values, and the counters that they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(slots=True)
class Counters:
    """What a store has done, in bytes and times. Races lose a count at most."""

    hits: int = 0
    misses: int = 0
    read_bytes: int = 0
    fetched_bytes: int = 0
    evicted_bytes: int = 0
    verified_bytes: int = 0
    mismatches: int = 0
    refetched_grains: int = 0
    uncached_grains: int = 0


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """How much of a content is cached; `size_bytes` is None while nobody knows."""

    cached_bytes: int
    size_bytes: int | None
    verified: bool


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What a store holds and has done since it started. `cached_bytes` is the last survey's."""

    cached_bytes: int
    size_bytes: int
    open_contents: int
    hits: int
    misses: int
    read_bytes: int
    fetched_bytes: int
    evicted_bytes: int
    verified_bytes: int
    mismatches: int
    refetched_grains: int
    uncached_grains: int


@dataclass(frozen=True, slots=True)
class CachedContent:
    """One content of the cache directory. `key` is its SHA-256, or what `DiskCache.key_of` says."""

    key: str
    size_bytes: int
    cached_bytes: int
    disk_bytes: int
    verified: bool
    pinned: bool
    used_at: datetime


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What checking every cached grain has shown."""

    contents: int
    grains: int
    dropped_grains: int
