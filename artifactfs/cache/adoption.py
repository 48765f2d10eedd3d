"""Makes a local file an artifact's cached content: what was just uploaded is not downloaded again.

Two steps, because the file's owner may write to it again at any time:

1. *Stage*: a hard link below the cache directory, or an open descriptor where no link is possible.
   Does not read the file, so that it can be done while the owner keeps its writers out. From then
   on the file has two names, and a writer that looks at ``st_nlink`` writes to a copy.
2. *Finish*: read the file once, from beginning to end, for its SHA-256 and the checksums of its
   blocks; what has no link is copied by the same pass. Only a file that has the artifact's size and
   SHA-256 is published, as verified. Anything else is discarded.

As long as the owner has its name too, the inode has two, and the cache does not write to it
(``files.may_write``).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
from array import array
from collections.abc import Callable
from typing import Final, Protocol

from artifactfs.cache.blocks import BLOCK_BYTES, checksum
from artifactfs.cache.cache_layout import CachePaths
from artifactfs.errors import Cancelled
from artifactfs.model import Artifact
from artifactfs.system import make_private

READ_BYTES: Final = 1 << 20


class Publish(Protocol):
    """Gives a whole file its place in the cache: ``store.Store``."""

    def __call__(
        self, place: CachePaths, path: str, descriptor: int, sums: array[int], *, verified: bool
    ) -> None: ...


class Adoption:
    """A staged file. Call `finish` or `discard`, once; neither needs the file's own name."""

    def __init__(
        self,
        artifact: Artifact,
        place: CachePaths,
        path: str,
        *,
        publish: Publish,
        is_wanted: Callable[[], bool],
        on_failure: Callable[[OSError], None],
        ended: threading.Event,
    ) -> None:
        """Link or open the file. Raises `OSError`."""
        self._artifact = artifact
        self._place = place
        self._publish = publish
        self._is_wanted = is_wanted
        self._on_failure = on_failure
        self._ended = ended
        self._staged: str | None = temporary_name(place)
        try:
            make_private(os.path.dirname(place.path))  # noqa: PTH120 - paths are text here
            os.link(path, self._staged)
        except OSError:
            self._staged = None
        try:
            self._descriptor = open_for_lock(self._staged or path)
        except BaseException:
            self._remove()
            raise

    def discard(self) -> None:
        """Leave the cache as it is."""
        self._remove()
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def finish(self) -> bool:
        """Read the file and publish it if it is the artifact's content; whether it was.

        Takes as long as reading and hashing the file. Ends early when the store is closed.
        """
        try:
            return self._is_wanted() and self._finish()
        except Cancelled:
            return False
        except OSError as error:
            self._on_failure(error)
            return False
        finally:
            self.discard()

    def _finish(self) -> bool:
        if os.fstat(self._descriptor).st_size != self._artifact.size_bytes:
            return False
        digest = hashlib.sha256()
        if self._staged is not None:
            sums = read_sums(self._descriptor, digest.update, self._ended)
            return self._compare_and_publish(digest.hexdigest(), self._descriptor, sums)
        self._staged = temporary_name(self._place)
        make_private(os.path.dirname(self._staged))  # noqa: PTH120
        target = os.open(self._staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:

            def copy(data: memoryview) -> None:
                digest.update(data)
                while data:
                    data = data[os.write(target, data) :]

            sums = read_sums(self._descriptor, copy, self._ended)
            return self._compare_and_publish(digest.hexdigest(), target, sums)
        finally:
            os.close(target)

    def _compare_and_publish(self, found: str, descriptor: int, sums: array[int]) -> bool:
        size_bytes = os.fstat(descriptor).st_size
        if found != self._artifact.sha256 or size_bytes != self._artifact.size_bytes:
            return False
        if self._staged is None:
            return False
        self._publish(self._place, self._staged, descriptor, sums, verified=True)
        return True

    def _remove(self) -> None:
        staged, self._staged = self._staged, None
        if staged is not None:
            with contextlib.suppress(OSError):
                os.unlink(staged)  # noqa: PTH108


def temporary_name(place: CachePaths) -> str:
    """Return a name beside the content's own, for a file that is not finished."""
    return f"{os.path.dirname(place.path)}/{secrets.token_hex(8)}.new"  # noqa: PTH120


def open_for_lock(path: str) -> int:
    """Open a file to be read, and for writing where that is allowed: a lock needs it.

    Nothing is written. Raises `OSError`.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR):
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def read_sums(
    descriptor: int, take: Callable[[memoryview], None], ended: threading.Event
) -> array[int]:
    """Read a file from its beginning to its end: the checksum of each of its blocks.

    `take` gets the bytes in order. Raises `OSError`, and `Cancelled` once `ended` is set.
    """
    sums = array("Q")
    buffer = memoryview(bytearray(READ_BYTES))
    position = filled = 0
    while True:
        if ended.is_set():
            raise Cancelled("the mount is ending")
        count = os.preadv(descriptor, [buffer[filled:]], position)
        position += count
        filled += count
        if count and filled < READ_BYTES:
            continue
        take(buffer[:filled])
        sums.extend(
            checksum(buffer[start : min(start + BLOCK_BYTES, filled)])
            for start in range(0, filled, BLOCK_BYTES)
        )
        filled = 0
        if not count:
            return sums


assert READ_BYTES % BLOCK_BYTES == 0
