"""Gives back disk space of a content that is open: the budget's last resort (``eviction_order``).

A file that is larger than all the cache may hold would fill it while it is open. So its *stretches*
of `STRETCH_BYTES` are punched out of it, those that were used least recently first: a hole in the
file, and its grains are absent again. None that was used within `SPARED_S`, none that somebody
waits for or that a flight is bringing. When each was used is remembered to the second.

Who asks for a grain as soon as it is absent must not have it yet: it would be taken over again by
the sum that is still written down, or fetched, and then punched with what was there before. So the
grains are marked as `GOING` until they have gone, and whoever has asked meanwhile waits till then.

What else is left alone: what the kernel reads by itself (`pass_through`), because it would read
zeros; a content that another mount has open, because nobody there would know that the bytes have
gone; and a file that has another name, such as the outbox's (``files.may_write``).
"""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable

from artifactfs.cache.block_map import BlockMap
from artifactfs.cache.blocks import BLOCK_BYTES, range_of
from artifactfs.cache.disk_file import CacheFile
from artifactfs.cache.disk_format import Sidecar
from artifactfs.cache.waiters import Waiters
from artifactfs.model import Artifact
from artifactfs.system import (
    KEEP_SIZE,
    PUNCH_HOLE,
    fallocate,
)

STRETCH_BYTES = 4 << 20
SPARED_S = 5

_log = logging.getLogger(__name__)


class HolePuncher:
    """What one content can give back.

    `used_s` has the second in which each stretch was last used; whoever reads or brings something
    writes it there, without a lock. Whether the kernel reads by itself is guarded by the table's.
    """

    def __init__(
        self, artifact: Artifact, table: BlockMap, backing: CacheFile, waiters: Waiters
    ) -> None:
        self.used_s = array("Q", bytes(8 * -(-table.size_bytes // STRETCH_BYTES)))
        self._artifact = artifact
        self._table = table
        self._backing = backing
        self._waiters = waiters
        self._is_passed_through = False

    def pass_through(self) -> int | None:
        """The descriptor, for the kernel to read by itself, if every byte is here and right."""
        table, backing = self._table, self._backing
        with table.lock:
            if not table.checked_whole or not table.on_disk or backing.descriptor < 0:
                return None
            self._is_passed_through = True
            return backing.descriptor

    def closed_everywhere(self) -> None:
        """The last opening is over, and so is the kernel's reading."""
        with self._table.lock:
            self._is_passed_through = False

    def punch(self, wanted_bytes: int, gone: Callable[[list[tuple[int, int]]], None]) -> int:
        """Give back disk space, least recently used first; how many bytes.

        `gone` is called with the ranges of grains that nobody could claim while they were going.
        """
        self._backing.retain()  # or its number may be another file's by the time that it is punched
        try:
            descriptor, sidecar = self._backing.writable(), self._backing.sidecar
            if descriptor < 0 or sidecar is None:
                return 0
            return self._punch(descriptor, sidecar, wanted_bytes, gone)
        finally:
            self._backing.release()

    def _punch(
        self,
        descriptor: int,
        sidecar: Sidecar,
        wanted_bytes: int,
        gone: Callable[[list[tuple[int, int]]], None],
    ) -> int:
        freed_bytes = 0
        going: list[tuple[int, int]] = []
        try:
            if not sidecar.own():
                return 0
            going = self._give_up(wanted_bytes)
            for first, stop in going:
                span = range_of(first, stop, self._table.size_bytes)
                sidecar.forget(first, stop)
                fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, span.start, len(span))
                freed_bytes += len(span)
        except OSError as error:
            _log.debug("no holes in %s: %s", self._artifact.id, error.strerror)
        finally:
            sidecar.share()
            gone(going)
        return freed_bytes

    def _give_up(self, wanted_bytes: int) -> list[tuple[int, int]]:
        """Make grains absent; which. Readers that looked before see it by the epoch."""
        table = self._table
        each = STRETCH_BYTES // BLOCK_BYTES
        spared_from_s = int(time.monotonic()) - SPARED_S
        gone: list[tuple[int, int]] = []
        with table.lock:
            if self._is_passed_through:
                return []
            for stretch in sorted(range(len(self.used_s)), key=self.used_s.__getitem__):
                if wanted_bytes <= 0 or self.used_s[stretch] >= spared_from_s:
                    break
                first, stop = stretch * each, min((stretch + 1) * each, len(table.flags))
                if any(table.claims[first:stop]) or self._waiters.touch(first, stop):
                    continue
                found = table.give_up(first, stop)
                wanted_bytes -= sum(end - start for start, end in found) * BLOCK_BYTES
                gone += found
        return gone
