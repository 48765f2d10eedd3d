"""Bytes on disk: what was read once is read from here.

| module | what it has |
|---|---|
| `cache` | the cache as a whole: which contents are open, and what is known of the others |
| `cached_file`, `cached_file_handle` | one open content, and one of its openings |
| `block_map`, `blocks`, `memory_blocks`, `waiters` | the state of each block, and who waits |
| `block_reader`, `block_writer`, `download_sink` | reading, checking, writing blocks |
| `disk_file`, `data_file`, `hole_punching` | the two open files of a content; punching |
| `disk_format`, `cache_layout` | the sidecar's format; where the files are |
| `readahead`, `readahead_streams`, `readahead_budget` | what to fetch ahead of a reader |
| `fetcher`, `concurrency` | the threads that fetch, over how many connections |
| `verification`, `verdict` | hashing the whole, and what follows from it |
| `eviction`, `eviction_order`, `block_check` | the budget; what goes first; stored blocks |
| `adoption` | an uploaded file becomes the cached content |
| `stats`, `disk_warning` | counters; saying once that the disk takes nothing |
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
