"""Where an upload's bytes are gathered until it is complete: here, or in a bucket.

``upload_routes`` knows tickets and answers; a `UploadStore` knows URLs to send to, what has come,
and how that becomes a content. `LocalUploadStore` is the own object store (``object_routes``,
``upload_files``), ``upload_store`` an S3 bucket.

Direct and multipart uploads that go to an S3 bucket, past this service.

The client PUTs to presigned URLs of S3. A multipart upload here is one in S3, whose id the index
remembers; what has come is asked of S3. At completion S3 joins the parts, the object is read once
for its SHA-256 (which no other checksum of a multipart object tells), and copied by S3 to its place
among the contents. If the service dies in between, completing again goes on from the object.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aiohttp import web

from artifactfs.server.blob_store import BlobLocks
from artifactfs.server.database import AnyDatabase
from artifactfs.server.object_routes import ObjectRoutes
from artifactfs.server.responses import Refusal
from artifactfs.server.s3_bucket import S3Bucket
from artifactfs.server.thread_pools import ThreadPools
from artifactfs.server.upload_files import UploadFiles
from artifactfs.server.upload_table import (
    PartRow,
    UploadRow,
    UploadTable,
)


class UploadStore(Protocol):
    """What ``upload_routes`` needs. `parts` is None where all have been joined already."""

    async def begin(self, ticket: UploadRow) -> None: ...
    def urls_expire(self) -> float: ...
    async def direct_url(self, request: web.Request, ticket: UploadRow) -> str: ...
    async def part_urls(
        self, request: web.Request, ticket: UploadRow, numbers: Sequence[int]
    ) -> list[str]: ...
    async def parts(self, ticket: UploadRow) -> list[PartRow] | None: ...
    def closing(self, ticket: UploadRow) -> AbstractAsyncContextManager[None]: ...
    def is_closing(self, upload_id: str) -> bool: ...
    async def digest(self, ticket: UploadRow, parts: list[PartRow] | None) -> str: ...
    async def keep(self, ticket: UploadRow, parts: list[PartRow] | None) -> None: ...
    async def forget(self, upload_id: str) -> None: ...
    async def sweep(self, open_ids: Callable[[], set[str]]) -> None: ...


class LocalUploadStore:
    """The own object store. Stateless: what has come is in the index and in files."""

    def __init__(self, objects: ObjectRoutes, parts: UploadFiles, tickets: UploadTable) -> None:
        self._objects = objects
        self._parts = parts
        self._tickets = tickets
        self.urls_expire = objects.urls_expire
        self.closing = objects.closing
        self.is_closing = objects.is_closing
        self.forget = parts.forget
        self.sweep = parts.sweep

    async def begin(self, ticket: UploadRow) -> None:
        """Nothing has to be there before the first part comes."""

    async def direct_url(self, request: web.Request, ticket: UploadRow) -> str:
        """Where a direct upload is PUT."""
        return self._objects.direct_url(request, ticket)

    async def part_urls(
        self, request: web.Request, ticket: UploadRow, numbers: Sequence[int]
    ) -> list[str]:
        """Where parts are PUT."""
        return [self._objects.part_url(request, ticket, number) for number in numbers]

    async def parts(self, ticket: UploadRow) -> list[PartRow] | None:
        """What has come."""
        return self._tickets.parts(ticket.id)

    async def digest(self, ticket: UploadRow, parts: list[PartRow] | None) -> str:
        """The SHA-256 of all parts."""
        return await self._parts.digest(ticket, parts or [])

    async def keep(self, ticket: UploadRow, parts: list[PartRow] | None) -> None:
        """Give the parts, joined, their place among the contents."""
        await self._parts.keep(ticket, parts or [])


CONTENT_TYPE = "application/octet-stream"


class S3UploadStore:
    """A `UploadStore` in a bucket. Which uploads are closing here is the event loop's."""

    def __init__(
        self, bucket: S3Bucket, index: AnyDatabase, workers: ThreadPools, guard: BlobLocks
    ) -> None:
        self._bucket = bucket
        self._index = index
        self._workers = workers
        self._guard = guard
        self._closing: set[str] = set()

    async def begin(self, ticket: UploadRow) -> None:
        """Begin it in S3, if it is to come in parts."""
        if ticket.id == ticket.artifact_id:
            return
        key = self._bucket.upload(ticket.id)
        remote_id = await self._workers.do(self._bucket.begin, key, CONTENT_TYPE)
        await self._index.execute("INSERT INTO remote_uploads VALUES (?, ?)", ticket.id, remote_id)

    def urls_expire(self) -> float:
        """Until when URLs that are made now are good, in seconds since the epoch."""
        return time.time() + self._bucket.url_lifetime_s

    async def direct_url(self, request: web.Request, ticket: UploadRow) -> str:
        """Where a direct upload is PUT."""
        _ = request
        return self._bucket.url_to_put(self._bucket.upload(ticket.id), CONTENT_TYPE)

    async def part_urls(
        self, request: web.Request, ticket: UploadRow, numbers: Sequence[int]
    ) -> list[str]:
        """Where parts are PUT."""
        _ = request
        key, remote_id = self._bucket.upload(ticket.id), self._remote_id(ticket.id)
        return [self._bucket.url_to_put_part(key, remote_id or "", number) for number in numbers]

    async def parts(self, ticket: UploadRow) -> list[PartRow] | None:
        """What has come, as S3 says; None if it is one object already."""
        key, remote_id = self._bucket.upload(ticket.id), self._remote_id(ticket.id)
        if remote_id is not None:
            found = await self._workers.do(self._bucket.parts, key, remote_id)
            if found is not None:
                return [PartRow(number, size, etag, "") for number, size, etag in found]
        size = await self._workers.do(self._bucket.size_of, key)
        return [] if size is None else None

    @contextlib.asynccontextmanager
    async def closing(self, ticket: UploadRow) -> AsyncIterator[None]:
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

    async def digest(self, ticket: UploadRow, parts: list[PartRow] | None) -> str:
        """The SHA-256 of the object, joined first if need be."""
        key = self._bucket.upload(ticket.id)
        if parts is not None:
            told = [(part.number, part.etag) for part in parts]
            remote_id = self._remote_id(ticket.id) or ""
            await self._workers.do(self._bucket.complete, key, remote_id, told)
        return await self._workers.hash(self._bucket.digest, key, self._workers.check)

    async def keep(self, ticket: UploadRow, parts: list[PartRow] | None) -> None:
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
