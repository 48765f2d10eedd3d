"""The two files of one content, open as long as anything uses them.

Bytes and grain table belong to one open file: as long as anything may still write to it or note
what it wrote, neither the descriptor nor the table may become another file's. So each opening, each
flight and each verification retains them (`retain`, `release`), and so does the keeper while it
writes to them. The last one that is done with them closes them, and they can be opened again. What
of the table still holds then, the sidecar's generation says: if they are the files that were
closed, what was seen to be right is right; else the table begins anew with what the sidecar says.

Nothing here raises for the disk's sake: a content whose files cannot be opened, or whose sidecar
takes nothing, is read all the same, without caching, and that is said once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from artifactfs.cache.block_map import BlockMap
from artifactfs.cache.cache_layout import CachePaths
from artifactfs.cache.data_file import (
    OPENING_S,
    may_write,
    open_pair,
    wait_until,
)
from artifactfs.cache.disk_format import Sidecar
from artifactfs.cache.disk_warning import DiskWarning
from artifactfs.model import Artifact


class CacheFile:
    """A content's open file and sidecar, and who uses them.

    `descriptor` is -1 and `sidecar` None while they are not open. Both, the version and the number
    of users change under the table's lock; `unused` is called, with it, when nobody uses them any
    more.
    """

    def __init__(
        self,
        artifact: Artifact,
        place: CachePaths,
        table: BlockMap,
        unused: Callable[[], None],
        warning: DiskWarning,
    ) -> None:
        self.descriptor = -1
        self.sidecar: Sidecar | None = None
        self._artifact = artifact
        self._place = place
        self._table = table
        self._unused = unused
        self._generation: int | None = None
        self._version = 0
        self._users = 0
        self._warning = warning

    def open(self) -> None:
        """Open the file, made sparse at its full size, and its sidecar. Never raises.

        Who calls this has retained them before.
        """
        if self.descriptor >= 0:
            return
        try:
            self.descriptor, sidecar = open_pair(self._place, self._table.size_bytes)
            self._take(sidecar)
        except OSError as error:
            with self._table.lock:
                self._table.clear()
                descriptor, self.descriptor = self.descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)
            self.tell_of_disk(error)

    def _take(self, sidecar: Sidecar) -> None:
        """Know what the sidecar says."""
        table = self._table
        try:
            end_s = time.monotonic() + OPENING_S
            while not sidecar.share():
                wait_until(end_s, "another mount gives back parts of it")
            flags, version = sidecar.flags(), sidecar.version()
        except BaseException:
            sidecar.close()
            raise
        with table.lock:
            if sidecar.generation == self._generation:
                table.reopened(flags)
            else:
                table.clear()
                table.flags[:] = flags
                table.verified = sidecar.is_verified and table.complete
            self._generation = sidecar.generation
            self._version = version
            self.sidecar = sidecar

    def retain(self) -> None:
        """Keep the files open: for an opening, a flight, a verification, or to write to them."""
        with self._table.lock:
            self._users += 1

    def release(self) -> None:
        """The opposite of `retain`. The last one closes the files; they can be opened again."""
        with self._table.lock:
            self._users -= 1
            if self._users:
                return
            descriptor, self.descriptor = self.descriptor, -1
            sidecar, self.sidecar = self.sidecar, None
            self._unused()
        if sidecar is not None:
            sidecar.close()
        if descriptor >= 0:
            os.close(descriptor)

    def writable(self) -> int:
        """The descriptor, or -1 while nothing may be written to the file (``files.may_write``).

        Whoever calls this has retained them.
        """
        descriptor = self.descriptor
        return descriptor if descriptor >= 0 and may_write(descriptor, self._place.path) else -1

    def known_version(self) -> int:
        """Of which version the bytes are that are here, or 0."""
        sidecar = self.sidecar
        if self._version or sidecar is None:
            return self._version
        try:
            return sidecar.version()
        except OSError:
            return 0

    def settle_version(self, known: int, version: int) -> bool:
        """Whether bytes of this version are of the one that is `known`. The lock is held."""
        self._version = self._version or known or version
        return self._version == version

    def save(self) -> None:
        """Write down what may be known of it without opening it. Never raises."""
        table = self._table
        with table.lock:
            if not table.unsaved or self.sidecar is None:
                return
            table.unsaved = False
            sidecar = self.sidecar
            self._users += 1
        try:
            self.write_down(lambda: sidecar.describe(table.cached_bytes, verified=table.verified))
        finally:
            self.release()

    def write_down(self, act: Callable[[], None]) -> None:
        """Do something to the sidecar. Never raises."""
        try:
            act()
        except OSError as error:
            self.tell_of_disk(error)

    def tell_of_disk(self, error: OSError) -> None:
        """Say once that the disk does not take what is read."""
        self._warning.tell(f"{self._artifact.id} is read without caching", error)
