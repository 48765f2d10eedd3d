"""Whether one content has its SHA-256: how far it is hashed, and what comes of the answer.

The hashing itself is the ``verification``'s, which has one thread for all contents; this is what it
works on. It follows the bytes from the beginning on as they come (`HashPosition`), of one epoch:
when bytes were dropped it begins anew.

A content that has its SHA-256 is checked as a whole, and may be handed to the kernel. One that has
not is dropped as a whole, since nobody knows which of its bytes are wrong, and fetched again for
whoever reads on; the second time it has failed (``waiters``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from artifactfs.cache.block_map import BlockMap
from artifactfs.cache.block_reader import BlockReader
from artifactfs.cache.blocks import BLOCK_BYTES, CHECKED
from artifactfs.cache.disk_file import CacheFile
from artifactfs.cache.stats import Counters
from artifactfs.cache.waiters import Waiter, Waiters
from artifactfs.errors import ContentMismatch
from artifactfs.model import Artifact

MOST_ATTEMPTS = 2

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class HashPosition:
    """How far a content is hashed, from its beginning; of the bytes of one epoch."""

    digest: Any
    position: int
    epoch: int


class ContentVerdict:
    """The hashing of one content. `following` is the verifying thread's own."""

    def __init__(
        self,
        artifact: Artifact,
        table: BlockMap,
        backing: CacheFile,
        waiters: Waiters,
        *,
        reading: BlockReader,
        counters: Counters,
    ) -> None:
        self.artifact = artifact
        self.table = table
        self.backing = backing
        self.reading = reading
        self.following: HashPosition | None = None
        self._waiters = waiters
        self._counters = counters
        self._attempts = 0

    @property
    def to_verify(self) -> bool:
        """Whether there is something to hash for the comparison with its SHA-256."""
        table = self.table
        if self.artifact.sha256 is None or table.checked_whole:
            return False
        if table.stored_whole:
            return True
        following = self.following
        begun = following is not None and following.epoch == table.epoch
        position = following.position if following is not None and begun else 0
        first = position // BLOCK_BYTES
        return table.flags[first : first + 1] == bytes([CHECKED])

    def compared(self, right: bool, epoch: int) -> bool:
        """The SHA-256 of the whole has been compared, as it was in this epoch.

        False: bytes were dropped since, so that it says nothing of what is here.
        """
        table, sidecar = self.table, self.backing.sidecar
        if epoch != table.epoch:
            return False
        if not right and sidecar is not None:
            # First, or whoever asks for a grain as soon as it is absent would take it over again.
            self.backing.write_down(lambda: sidecar.forget(0, len(table.flags)))
        with table.lock:
            if right and epoch != table.epoch:
                return False
            if right:
                table.all_right()
                table.verified = table.checked_whole = table.unsaved = True
                self._attempts = 0
                self._counters.verified_bytes += table.size_bytes
                return True
            self._counters.mismatches += 1
            self._attempts += 1
            table.clear()
            table.unsaved = True
            final = self._attempts >= MOST_ATTEMPTS
            error = ContentMismatch(
                f"{self.artifact.filename!r} ({self.artifact.id}) does not have its SHA-256"
            )
            told: list[Waiter] = self._waiters.fail(error) if final else []
        _log.error(
            "%s: the cached content does not have its SHA-256 and was dropped%s",
            self.artifact.id, "" if final else "; it is fetched again",
        )  # fmt: skip
        for waiter in told:
            waiter.done(error)
        return True
