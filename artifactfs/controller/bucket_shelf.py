"""Direct and multipart uploads that go to an S3 bucket, past this service.

The client PUTs to presigned URLs of S3. A multipart upload here is one in S3, whose id the index
remembers; what has come is asked of S3. At completion S3 joins the parts, the object is read once
for its SHA-256 (which no other checksum of a multipart object tells), and copied by S3 to its place
among the contents. If the service dies in between, completing again goes on from the object.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

from aiohttp import web

from artifactfs.controller.answers import Refusal
from artifactfs.controller.bucket import Bucket
from artifactfs.controller.guard import Guard
from artifactfs.controller.index import AnyIndex
from artifactfs.controller.tickets import Part, Ticket
from artifactfs.controller.workers import Workers

CONTENT_TYPE = "application/octet-stream"


class BucketShelf:
    """A `Shelf` in a bucket. Which uploads are closing here is the event loop's."""

    def __init__(self, bucket: Bucket, index: AnyIndex, workers: Workers, guard: Guard) -> None:
        self._bucket = bucket
        self._index = index
        self._workers = workers
        self._guard = guard
        self._closing: set[str] = set()

    async def begin(self, ticket: Ticket) -> None:
        """Begin it in S3, if it is to come in parts."""
        if ticket.id == ticket.artifact_id:
            return
        key = self._bucket.upload(ticket.id)
        remote_id = await self._workers.do(self._bucket.begin, key, CONTENT_TYPE)
        await self._index.execute("INSERT INTO remote_uploads VALUES (?, ?)", ticket.id, remote_id)

    def urls_expire(self) -> float:
        """Until when URLs that are made now are good, in seconds since the epoch."""
        return time.time() + self._bucket.url_lifetime_s

    async def direct_url(self, request: web.Request, ticket: Ticket) -> str:
        """Where a direct upload is PUT."""
        _ = request
        return self._bucket.url_to_put(self._bucket.upload(ticket.id), CONTENT_TYPE)

    async def part_urls(
        self, request: web.Request, ticket: Ticket, numbers: Sequence[int]
    ) -> list[str]:
        """Where parts are PUT."""
        _ = request
        key, remote_id = self._bucket.upload(ticket.id), self._remote_id(ticket.id)
        return [self._bucket.url_to_put_part(key, remote_id or "", number) for number in numbers]

    async def parts(self, ticket: Ticket) -> list[Part] | None:
        """What has come, as S3 says; None if it is one object already."""
        key, remote_id = self._bucket.upload(ticket.id), self._remote_id(ticket.id)
        if remote_id is not None:
            found = await self._workers.do(self._bucket.parts, key, remote_id)
            if found is not None:
                return [Part(number, size, etag, "") for number, size, etag in found]
        size = await self._workers.do(self._bucket.size_of, key)
        return [] if size is None else None

    @contextlib.asynccontextmanager
    async def closing(self, ticket: Ticket) -> AsyncIterator[None]:
        """While an upload is completed or given up. Raises `Refusal` 409 if it is already so."""
        conflict = Refusal(
            409, "conflict", "the upload is being completed", "ask for its state, or try again"
        )
        if ticket.id in self._closing:
            raise conflict
        with self._guard.alone(ticket.id) as alone:
            if not alone:
                raise conflict
            self._closing.add(ticket.id)
            try:
                yield
            finally:
                self._closing.discard(ticket.id)

    def is_closing(self, upload_id: str) -> bool:
        """Whether the upload is being completed or given up."""
        if upload_id in self._closing:
            return True
        with self._guard.alone(upload_id) as alone:
            return not alone

    async def digest(self, ticket: Ticket, parts: list[Part] | None) -> str:
        """The SHA-256 of the object, joined first if need be."""
        key = self._bucket.upload(ticket.id)
        if parts is not None:
            told = [(part.number, part.etag) for part in parts]
            remote_id = self._remote_id(ticket.id) or ""
            await self._workers.do(self._bucket.complete, key, remote_id, told)
        return await self._workers.hash(self._bucket.digest, key, self._workers.check)

    async def keep(self, ticket: Ticket, parts: list[Part] | None) -> None:
        """Give the object its place among the contents."""
        _ = parts
        source, target = self._bucket.upload(ticket.id), self._bucket.blob(ticket.sha256)
        await self._workers.do(self._bucket.copy, source, target)

    async def forget(self, upload_id: str) -> None:
        """Throw away what has come."""
        key, remote_id = self._bucket.upload(upload_id), self._remote_id(upload_id)
        if remote_id is not None:
            await self._workers.do(self._bucket.abort, key, remote_id)
        await self._workers.do(self._bucket.remove, key)
        await self._index.execute("DELETE FROM remote_uploads WHERE upload_id = ?", upload_id)

    async def sweep(self, open_ids: Callable[[], set[str]]) -> None:
        """Throw away what belongs to no open upload.

        Which are open is asked after what is there was listed: what has begun meanwhile is.
        """
        rows = self._index.few("SELECT upload_id FROM remote_uploads")
        found = await self._workers.do(lambda: list(self._bucket.names("uploads")))
        for upload_id in {*found, *(row[0] for row in rows)} - open_ids():
            await self.forget(upload_id)

    def _remote_id(self, upload_id: str) -> str | None:
        row = self._index.one("SELECT remote_id FROM remote_uploads WHERE upload_id = ?", upload_id)
        return None if row is None else str(row[0])
