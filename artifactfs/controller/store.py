"""Contents by their SHA-256, in a directory.

``blobs/<first two digits>/<digest>`` holds each content once; ``incoming/`` what is being received;
``parts/<upload>/<number>`` the parts of multipart uploads. Whatever comes in is hashed on the way,
written to ``incoming``, brought to the disk (fsync), renamed to its place, and the directory
brought to the disk too: a crash leaves either the whole content or nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Received:
    """What has come in and lies in ``incoming``."""

    path: Path
    sha256: str
    size_bytes: int

    def discard(self) -> None:
        """Throw it away."""
        self.path.unlink(missing_ok=True)


class TooMuch(Exception):
    """More bytes came than are allowed."""


class Store:
    """The directory. Files are written by worker threads, one request's in order."""

    def __init__(self, directory: Path) -> None:
        self._blobs = directory / "blobs"
        self._incoming = directory / "incoming"
        self._parts = directory / "parts"
        shutil.rmtree(self._incoming, ignore_errors=True)
        for path in (self._blobs, self._incoming, self._parts):
            path.mkdir(mode=0o700, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a content lies, or would."""
        return self._blobs / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether the content is here."""
        return self.path(sha256).is_file()

    async def receive(self, pieces: AsyncIterator[bytes], most_bytes: int) -> Received:
        """Write and hash what comes. Raises `TooMuch`, and whatever breaks the stream."""
        path = self._incoming / secrets.token_hex(16)
        digest = hashlib.sha256()
        size_bytes = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

        def write(batch: list[bytes]) -> None:
            for piece in batch:
                digest.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(descriptor, view) :]

        try:
            batch: list[bytes] = []
            held_bytes = 0
            async for piece in pieces:
                size_bytes += len(piece)
                if size_bytes > most_bytes:
                    raise TooMuch
                batch.append(piece)
                held_bytes += len(piece)
                if held_bytes >= BATCH_BYTES:
                    await asyncio.to_thread(write, batch)
                    batch, held_bytes = [], 0
            if batch:
                await asyncio.to_thread(write, batch)
            await asyncio.to_thread(os.fsync, descriptor)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return Received(path, digest.hexdigest(), size_bytes)

    def keep(self, received: Received) -> None:
        """Give what was received its place as a content."""
        self._move(received.path, self.path(received.sha256))

    def keep_part(self, received: Received, upload_id: str, number: int) -> None:
        """Give what was received its place as a part."""
        self._move(received.path, self._parts / upload_id / str(number))

    def join(self, upload_id: str, numbers: Sequence[int]) -> Received:
        """The parts in this order as one content in ``incoming``. Blocks."""
        path = self._incoming / secrets.token_hex(16)
        digest = hashlib.sha256()
        size_bytes = 0
        try:
            with path.open("xb", buffering=0) as joined:
                for number in numbers:
                    with (self._parts / upload_id / str(number)).open("rb", buffering=0) as part:
                        while piece := part.read(BATCH_BYTES):
                            digest.update(piece)
                            size_bytes += len(piece)
                            joined.write(piece)
                os.fsync(joined.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Received(path, digest.hexdigest(), size_bytes)

    def discard_parts(self, upload_id: str) -> None:
        """Throw an upload's parts away."""
        shutil.rmtree(self._parts / upload_id, ignore_errors=True)

    def remove(self, sha256: str) -> None:
        """Throw a content away."""
        self.path(sha256).unlink(missing_ok=True)

    def _move(self, source: Path, target: Path) -> None:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        source.replace(target)
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
