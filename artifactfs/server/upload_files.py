"""The files of uploads: parts come in any order, at once, and again.

    uploads/<upload>/data              every part at its own offset
    uploads/<upload>/<part>-<random>   a part that came again, or twice at once

A part is written into ``data`` at its offset, so that completion has nothing to copy: ``data`` is
the content. Only if that part is there already, or on its way, another one of the same number gets
a file of its own: what was answered with an ETag is never overwritten by something that may yet
break off. Completion copies all parts into a fresh file then, because whoever was first on its way
may still be writing into ``data``.

The SHA-256 of the whole cannot be computed out of order. `PartHash` follows the parts in a thread:
it has hashed what has come without a gap, so that at completion little is left to do. A direct
upload has one part, which is hashed as it comes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from artifactfs.server.blob_store import BlobStore
from artifactfs.server.request_body import (
    BUFFER_BYTES,
    BodyReceiver,
    BodySink,
)
from artifactfs.server.thread_pools import ThreadPools
from artifactfs.server.upload_table import PartRow, UploadRow

DATA = "data"


class PartHash:
    """The SHA-256 of an upload's parts from the first on. `_lock` is held while it hashes."""

    def __init__(self, directory: Path, ticket: UploadRow, workers: ThreadPools) -> None:
        self._directory = directory
        self._ticket = ticket
        self._workers = workers
        self._lock = threading.Lock()
        self._digest = hashlib.sha256()
        self._hashed: list[str] = []

    def know(self, part: PartRow, digest: hashlib._Hash) -> None:
        """Take over the digest of the one part there is, which was hashed as it came. Blocks."""
        with self._lock:
            self._digest, self._hashed = digest, [part.etag]

    def follow(self, parts: Sequence[PartRow]) -> bool:
        """Hash what has come without a gap; False if there was nothing to do. Blocks."""
        with self._lock:
            before = len(self._hashed)
            self._advance(_without_gap(parts))
            return len(self._hashed) > before

    def finish(self, parts: Sequence[PartRow]) -> str:
        """The digest of all parts, which must be complete. Blocks."""
        with self._lock:
            self._advance(parts)
            return self._digest.hexdigest()

    def _advance(self, parts: Sequence[PartRow]) -> None:
        etags = [part.etag for part in parts]
        if etags[: len(self._hashed)] != self._hashed:
            if len(etags) < len(self._hashed):
                return
            self._digest, self._hashed = hashlib.sha256(), []
        buffer = memoryview(bytearray(BUFFER_BYTES))
        for part in parts[len(self._hashed) :]:
            digest = self._digest.copy()
            self._hash(part, digest, buffer)
            self._digest = digest
            self._hashed.append(part.etag)

    def _hash(self, part: PartRow, digest: hashlib._Hash, buffer: memoryview) -> None:
        position = self._ticket.offset_of(part.number) if part.place == DATA else 0
        stop = position + part.size
        with (self._directory / part.place).open("rb", buffering=0) as file:
            while position < stop:
                self._workers.check()
                piece = buffer[: min(len(buffer), stop - position)]
                count = os.preadv(file.fileno(), [piece], position)
                if not count:
                    raise OSError(f"{self._directory / part.place} is shorter than it was")
                digest.update(piece[:count])
                position += count


class UploadFiles:
    """The files of all uploads. What is claimed and followed is the event loop's."""

    def __init__(
        self, directory: Path, store: BlobStore, workers: ThreadPools, *, sync: bool
    ) -> None:
        self._directory = directory / "uploads"
        self._store = store
        self._workers = workers
        self._sync = sync
        self._claimed: set[tuple[str, int]] = set()
        self._hashing: dict[str, PartHash] = {}

    def prepare(self) -> None:
        """Make the directory."""
        self._directory.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def claim(self, ticket: UploadRow, number: int, *, is_there: bool) -> Iterator[str]:
        """The place for a part, until it is noted that it has come.

        `is_there` says whether it has come before. Nothing may be awaited between finding that out
        and this.
        """
        claim = (ticket.id, number)
        if is_there or claim in self._claimed:
            yield f"{number}-{secrets.token_hex(8)}"
            return
        self._claimed.add(claim)
        try:
            yield DATA
        finally:
            self._claimed.discard(claim)

    async def receive(
        self, ticket: UploadRow, number: int, place: str, receiver: BodyReceiver
    ) -> PartRow:
        """A part's bytes on the disk. Raises what `BodyReceiver.receive` raises."""
        path = self._directory / ticket.id / place
        offset = ticket.offset_of(number) if place == DATA else 0
        hashing = self._workers.pieces if ticket.part_count == 1 else None
        follower = self._hashing_of(ticket)
        sink = BodySink(lambda: self._open(path), offset, sync=self._sync, hashing=hashing)

        def finish() -> PartRow:
            sink.settle()
            part = PartRow(number, sink.size_bytes, sink.etag(), place)
            if hashing is not None:
                follower.know(part, sink.sha256())
            return part

        try:
            return await receiver.receive(sink, ticket.size_of(number), finish)
        finally:
            sink.close()

    def discard(self, ticket: UploadRow, place: str) -> None:
        """Throw away a part that has a file of its own."""
        if place != DATA:
            (self._directory / ticket.id / place).unlink(missing_ok=True)

    async def follow(self, ticket: UploadRow, parts: Sequence[PartRow]) -> bool:
        """Have hashed what can be; False if there was nothing."""
        return await self._workers.hash(self._hashing_of(ticket).follow, parts)

    async def digest(self, ticket: UploadRow, parts: Sequence[PartRow]) -> str:
        """The SHA-256 of all parts, which must be complete."""
        return await self._workers.hash(self._hashing_of(ticket).finish, parts)

    async def keep(self, ticket: UploadRow, parts: Sequence[PartRow]) -> None:
        """Give the parts, joined, their place among the contents; they stay until `forget`."""
        path = self._directory / ticket.id / DATA
        if any(part.place != DATA for part in parts):
            path = await self._workers.hash(self._copy, ticket, parts)
        await self._workers.do(self._store.keep_linked, path, ticket.sha256)

    async def forget(self, upload_id: str) -> None:
        """Throw an upload's files away."""
        self._hashing.pop(upload_id, None)
        path = self._directory / upload_id
        await self._workers.do(shutil.rmtree, path, ignore_errors=True)

    async def sweep(self, open_ids: Callable[[], set[str]]) -> None:
        """Throw away the files of uploads that are not open."""
        names = await self._workers.do(os.listdir, self._directory)
        for name in set(names) - open_ids():  # asked after what is there was listed
            await self.forget(name)

    def _hashing_of(self, ticket: UploadRow) -> PartHash:
        found = self._hashing.get(ticket.id)
        if found is None:
            found = PartHash(self._directory / ticket.id, ticket, self._workers)
            self._hashing[ticket.id] = found
        return found

    def _open(self, path: Path) -> int:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._store.settle_directory(self._directory)
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_WRONLY)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._store.settle_directory(path.parent)
        return descriptor

    def _copy(self, ticket: UploadRow, parts: Sequence[PartRow]) -> Path:
        """All parts in one fresh file."""
        path = self._directory / ticket.id / f"joined-{secrets.token_hex(8)}"
        with contextlib.closing(BodySink(lambda: self._open(path), sync=self._sync)) as joined:
            for piece in self._pieces(ticket, parts):
                joined.write(piece)
            joined.settle()
        return path

    def _pieces(self, ticket: UploadRow, parts: Sequence[PartRow]) -> Iterator[bytes]:
        for part in parts:
            position = ticket.offset_of(part.number) if part.place == DATA else 0
            left = part.size
            with (self._directory / ticket.id / part.place).open("rb", buffering=0) as file:
                while left:
                    self._workers.check()
                    piece = os.pread(file.fileno(), min(left, BUFFER_BYTES), position)
                    if not piece:
                        raise OSError(f"part {part.number} of {ticket.id} is shorter than it was")
                    yield piece
                    position += len(piece)
                    left -= len(piece)


def _without_gap(parts: Sequence[PartRow]) -> list[PartRow]:
    return [part for index, part in enumerate(parts) if part.number == index + 1]
