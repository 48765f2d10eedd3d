"""Bytes on disk: what was read once is read from here.

``store`` is the cache as a whole, ``content`` one content and its readers, ``grains`` which parts
of it are here, ``window`` how far to read ahead of which ``streams`` within whose ``allowance`` and
``lanes`` over how many connections (all pure), ``flights`` the threads that fetch, ``arrival`` what
they bring on its way to the disk, ``verifier`` the thread that hashes the whole, ``places`` the
files, ``evict`` the budget.
"""

from artifactfs.cache.content import Content
from artifactfs.cache.store import CachedContent, CacheStatistics, Store, Usage, VerifyReport

__all__ = ["CacheStatistics", "CachedContent", "Content", "Store", "Usage", "VerifyReport"]
