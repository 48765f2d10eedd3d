"""Bytes on disk: what was read once is read from here.

``store`` is the cache as a whole, ``keeper`` keeps it in order, ``checking`` looks through what is
there. ``content`` is one opening, ``shared`` what all openings of one content have in common: its
``table`` of ``grains``, the files ``backing`` it, its ``waiters``, ``reading``, ``intake`` and
``proof``, and the ``holes`` it gives back. ``window`` says how far to read ahead of which
``streams`` within whose ``allowance``, ``lanes`` over how many connections (all pure). ``flights``
are the threads that fetch, ``arrival`` what they bring on its way to the disk, ``verifier`` the
thread that hashes the whole. ``adoption`` takes in a local file. ``places`` names the files,
``sidecar`` is the one beside each content, ``evict`` the budget.
"""

from artifactfs.cache.adoption import Adoption
from artifactfs.cache.cache import DiskCache
from artifactfs.cache.cached_file_handle import CachedFileHandle
from artifactfs.cache.stats import (
    CachedContent,
    CacheStatistics,
    CacheUsage,
    VerifyReport,
)

__all__ = [
    "Adoption",
    "CacheStatistics",
    "CacheUsage",
    "CachedContent",
    "CachedFileHandle",
    "DiskCache",
    "VerifyReport",
]
