"""SHA-256 while bytes are written.

As long as a file is written from its start on, each byte is hashed once, as it comes: small pieces
by the writer, large ones by a thread that follows him through the page cache, so that ``write``
does not wait for the hash, which takes longer than the copying. A close does not wait for it
either: whoever uploads the file has the rest hashed (`finish`).

What was hashed (or is being hashed) and is changed later, or cut off, ends it: the file is then
read again before its upload. A gap that is filled later does not: hashing stands still at the gap.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from artifactfs import system
from artifactfs.byte_range import ByteRange
from artifactfs.errors import Cancelled

INLINE_BYTES = 128 << 10
PIECE_BYTES = 4 << 20
_READ_BYTES = 1 << 20

Sent = Callable[[int, int], None]


class IncrementalHash:
    """The hash of a file that is being written.

    `_lock` guards how far it is; `_advancing` is held by whoever hashes, and the lock is not then.
    """

    def __init__(self, path: Path, followers: Executor) -> None:
        self._path = path
        self._followers = followers
        self._lock = threading.Lock()
        self._advancing = threading.Lock()
        self._digest = hashlib.sha256()
        self._written_bytes = 0  # from the start on, without a gap
        self._claimed_bytes = 0  # hashed, or being hashed
        self._broken = False
        self._following = False

    def wrote(self, offset: int, data: bytes | memoryview) -> None:
        """These bytes were written there. The writer's calls come one at a time."""
        with self._lock:
            if self._broken or offset > self._written_bytes:
                return
            if offset < self._claimed_bytes:
                self._broken = True
                return
            inline = offset == self._claimed_bytes == self._written_bytes
            self._written_bytes = max(self._written_bytes, offset + len(data))
            if inline and len(data) <= INLINE_BYTES and not self._following:
                self._digest.update(data)
                self._claimed_bytes = self._written_bytes
                return
            if self._following or self._written_bytes - self._claimed_bytes < PIECE_BYTES:
                return
            self._following = True
        try:
            self._followers.submit(self._follow)
        except RuntimeError:  # the outbox is closing
            with self._lock:
                self._broken = True

    def cut(self, size_bytes: int) -> None:
        """The file was truncated or extended to this size, not 0."""
        with self._lock:
            if size_bytes < self._claimed_bytes:
                self._broken = True
            self._written_bytes = min(self._written_bytes, size_bytes)

    def known(self, size_bytes: int) -> str | None:
        """The hash of a file of this size, if it takes no more than a moment to tell."""
        with self._lock:
            if self._broken or self._following or self._written_bytes != size_bytes:
                return None
            if self._claimed_bytes == size_bytes:
                return self._digest.hexdigest()
            if size_bytes - self._claimed_bytes > INLINE_BYTES:
                return None
        return self.finish(size_bytes, threading.Event())

    def finish(self, size_bytes: int, cancelled: threading.Event) -> str | None:
        """The hash of a file that is written no more; None if it must be read from the start.

        Raises `OSError`, or `Cancelled`.
        """
        with self._advancing:
            self._advance_all(1, cancelled)
            with self._lock:
                if self._broken or self._claimed_bytes != size_bytes:
                    return None
                return self._digest.hexdigest()

    def close(self) -> None:
        """It is not wanted any more."""
        with self._lock:
            self._broken = True

    def _follow(self) -> None:
        try:
            with self._advancing:
                self._advance_all(PIECE_BYTES, None)
        except OSError:
            self.close()
        finally:
            with self._lock:
                self._following = False

    def _advance_all(self, least_bytes: int, cancelled: threading.Event | None) -> None:
        """Hash what is there, as long as it is so much. `_advancing` is held."""
        descriptor = -1
        piece = memoryview(b"")
        try:
            while (span := self._claim(least_bytes)) is not None:
                if descriptor < 0:
                    descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                    piece = memoryview(bytearray(min(_READ_BYTES, span.stop - span.start)))
                for start in range(span.start, span.stop, len(piece)):
                    wanted = piece[: span.stop - start]
                    if os.preadv(descriptor, [wanted], start) != len(wanted):
                        raise OSError(f"{self._path.name} is shorter than it was")
                    self._digest.update(wanted)
                if cancelled is not None and cancelled.is_set():
                    raise Cancelled(f"{self._path.name}: stopped while hashing")
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _claim(self, least_bytes: int) -> ByteRange | None:
        with self._lock:
            start = self._claimed_bytes
            stop = min(self._written_bytes, start + PIECE_BYTES)
            if self._broken or stop - start < least_bytes:
                return None
            self._claimed_bytes = stop
            return ByteRange(start, stop)


def hash_file(path: Path, cancelled: threading.Event, sent: Sent | None = None) -> tuple[str, int]:
    """SHA-256 and size of a file. Raises `OSError`, or `Cancelled`."""
    digest = hashlib.sha256()
    buffer = bytearray(PIECE_BYTES)
    view = memoryview(buffer)
    size_bytes = 0
    with path.open("rb", buffering=0) as file:
        total_bytes = os.fstat(file.fileno()).st_size
        with contextlib.suppress(OSError):
            system.will_read_in_order(file.fileno())
        while count := file.readinto(buffer):
            if cancelled.is_set():
                raise Cancelled(f"{path.name}: stopped while hashing")
            digest.update(view[:count])
            size_bytes += count
            if sent is not None:
                sent(size_bytes, total_bytes)
    return digest.hexdigest(), size_bytes


class KeptHashes:
    """Hashes of files that are closed and wait for their upload. Guarded by `_lock`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[int, IncrementalHash]] = {}

    def keep(self, entry_id: int, generation: int, rolling: IncrementalHash) -> None:
        """Whoever uploads this entry, as it is, will want it."""
        with self._lock:
            self._kept[entry_id] = generation, rolling

    def take(self, entry_id: int, generation: int) -> IncrementalHash | None:
        """The hash of an entry, if it was kept of these bytes; and none is kept any more."""
        with self._lock:
            kept = self._kept.pop(entry_id, None)
        if kept is None:
            return None
        if kept[0] != generation:
            kept[1].close()
            return None
        return kept[1]

    def drop(self, entry_id: int) -> None:
        """The entry has changed, or has gone."""
        with self._lock:
            kept = self._kept.pop(entry_id, None)
        if kept is not None:
            kept[1].close()
