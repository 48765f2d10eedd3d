"""Contents by their SHA-256, in an S3 bucket.

What comes through the service itself is received as with `Store`, hashed on the way, and then put
into the bucket. Nobody reads from here: downloads are redirected to presigned URLs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from artifactfs.controller.bucket import Bucket
from artifactfs.controller.filenames import disposition
from artifactfs.controller.guard import Guard
from artifactfs.controller.store import Received, Store
from artifactfs.controller.workers import Workers


class BucketStore(Store):
    """A `Store` whose contents lie in a bucket. What touches it blocks."""

    def __init__(
        self, directory: Path, workers: Workers, bucket: Bucket, *, sync: bool, guard: Guard
    ) -> None:
        super().__init__(directory, workers, sync=sync, guard=guard)
        self._bucket = bucket

    def has(self, sha256: str) -> bool:
        """Whether the content is in the bucket."""
        return self._bucket.size_of(self._bucket.blob(sha256)) is not None

    def keep(self, received: Received) -> None:
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
