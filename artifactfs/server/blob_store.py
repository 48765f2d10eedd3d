"""Who needs a content, or an upload, just now.

A content that no artifact has may be let go, so it has to be *held* from before it is there until
an artifact that has it is listed. Whoever lets go must be *alone* with it from looking until it is
gone. One controller knows this by itself; several that share a bucket ask the database they share
(``postgres``).

Contents by their SHA-256, in a directory.

    blobs/<first two digits>/<digest>     each content once, however many artifacts have it
    incoming/<random>                     what is being received; emptied at every start

What comes in is hashed on the way, written to ``incoming``, brought to the disk (fsync), renamed to
its place, and the directory brought to the disk too: a crash leaves the whole content or nothing. A
content has to be held (``blob_store``) from before it is here until an artifact that has it is
listed; what nobody holds and no artifact has may be let go at any time.

Contents by their SHA-256, in an S3 bucket.

What comes through the service itself is received as with `BlobStore`, hashed on the way, and then
put into the bucket. Nobody reads from here: downloads are redirected to presigned URLs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from artifactfs.server.request_body import BodyReceiver, BodySink
from artifactfs.server.responses import disposition
from artifactfs.server.s3_bucket import S3Bucket
from artifactfs.server.thread_pools import ThreadPools


class BlobLocks(Protocol):
    """For the event loop's thread. Keys are digests and upload ids."""

    def holding(self, key: str) -> AbstractContextManager[None]:
        """Keep others from being alone with it. Several may hold it at once."""
        ...

    def alone(self, key: str) -> AbstractContextManager[bool]:
        """Whether nobody holds it; if so, nobody will before the block ends."""
        ...


class LocalBlobLocks:
    """One controller's. Inside `alone` nothing may be awaited."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Count who holds it."""
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[bool]:
        """Whether that is nobody."""
        yield key not in self._held


@dataclass(frozen=True, slots=True)
class ReceivedBlob:
    """What has come in and lies in ``incoming``, on the disk."""

    path: Path
    sha256: str
    size_bytes: int


class BlobStore:
    """The directory. `holding` and `alone` are the guard's; all that touches files may block."""

    def __init__(
        self,
        directory: Path,
        workers: ThreadPools,
        *,
        sync: bool = True,
        guard: BlobLocks | None = None,
    ) -> None:
        self._blobs = directory / "blobs"
        self._incoming = directory / "incoming"
        self._workers = workers
        self._sync = sync
        self._guard = guard or LocalBlobLocks()
        self.holding = self._guard.holding
        self.alone = self._guard.alone

    def prepare(self) -> None:
        """Make the directories, and throw away what a crash left half received."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        for path in (self._blobs, self._incoming):
            path.mkdir(mode=0o700, exist_ok=True)
        for number in range(256):
            (self._blobs / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        self.settle_directory(self._blobs)

    def path(self, sha256: str) -> Path:
        """Where a content lies, or would."""
        return self._blobs / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether the content is here."""
        return self.path(sha256).is_file()

    async def receive(self, receiver: BodyReceiver, most_bytes: int) -> ReceivedBlob:
        """A request's body in ``incoming``; nothing stays of one that breaks off.

        Raises what `BodyReceiver.receive` raises.
        """
        path = self._incoming / secrets.token_hex(16)
        sink = BodySink(_creating(path), sync=self._sync, hashing=self._workers.pieces)

        def finish() -> ReceivedBlob:
            sink.settle()
            return ReceivedBlob(path, sink.sha256().hexdigest(), sink.size_bytes)

        try:
            return await receiver.receive(sink, most_bytes, finish)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            sink.close()

    def discard(self, received: ReceivedBlob) -> None:
        """Throw away what was received."""
        received.path.unlink(missing_ok=True)

    def keep(self, received: ReceivedBlob) -> None:
        """Give what was received its place."""
        target = self.path(received.sha256)
        received.path.replace(target)
        self.settle_directory(target.parent)

    def keep_linked(self, path: Path, sha256: str) -> None:
        """Give a file, whose content this is and which stays where it is, a place here too."""
        target = self.path(sha256)
        with contextlib.suppress(FileExistsError):
            os.link(path, target)
        self.settle_directory(target.parent)

    def keep_bytes(self, content: bytes, sha256: str) -> None:
        """Give a small content its place."""
        path = self._incoming / secrets.token_hex(16)
        with contextlib.closing(BodySink(_creating(path), sync=self._sync)) as sink:
            sink.write(content)
            sink.settle()
        self.keep(ReceivedBlob(path, sha256, len(content)))

    def url(self, sha256: str, filename: str) -> str | None:
        """Where a content is read, if that is not here."""
        _ = sha256, filename
        return None

    def remove(self, sha256: str) -> None:
        """Let a content go. Downloads that have begun still get it whole."""
        self.path(sha256).unlink(missing_ok=True)

    def all(self) -> Iterator[str]:
        """Every content that is here. Looks through the whole directory."""
        for directory in self._blobs.iterdir():
            yield from (path.name for path in directory.iterdir())

    def settle_directory(self, directory: Path) -> None:
        """Bring the names in a directory to the disk."""
        if not self._sync:
            return
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _creating(path: Path) -> Callable[[], int]:
    return lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


class S3BlobStore(BlobStore):
    """A `BlobStore` whose contents lie in a bucket. What touches it blocks."""

    def __init__(
        self,
        directory: Path,
        workers: ThreadPools,
        bucket: S3Bucket,
        *,
        sync: bool,
        guard: BlobLocks,
    ) -> None:
        super().__init__(directory, workers, sync=sync, guard=guard)
        self._bucket = bucket

    def has(self, sha256: str) -> bool:
        """Whether the content is in the bucket."""
        return self._bucket.size_of(self._bucket.blob(sha256)) is not None

    def keep(self, received: ReceivedBlob) -> None:
        """Give what was received its place."""
        self._bucket.put_file(self._bucket.blob(received.sha256), received.path)
        received.path.unlink()

    def keep_bytes(self, content: bytes, sha256: str) -> None:
        """Give a small content its place."""
        self._bucket.put_bytes(self._bucket.blob(sha256), content)

    def remove(self, sha256: str) -> None:
        """Let a content go."""
        self._bucket.remove(self._bucket.blob(sha256))

    def all(self) -> Iterator[str]:
        """Every content that is there. Lists the whole bucket."""
        return self._bucket.names("blobs")

    def url(self, sha256: str, filename: str) -> str | None:
        """Where a content is read."""
        return self._bucket.url_to_get(self._bucket.blob(sha256), disposition(filename))
