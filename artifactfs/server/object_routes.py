"""The object store below ``/objects/``: presigned PUTs of parts, presigned GETs of contents.

    PUT /objects/direct/<upload>           the one part of a direct upload
    PUT /objects/parts/<upload>/<number>   a part of a multipart upload
    GET /objects/artifacts/<id>            a content, where downloads are redirected

It knows no tokens: the URL is the credential, and a token that is sent along is refused. A part
must have exactly the size it was announced with, which also keeps S3's rule that only the last may
be smaller than the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

from aiohttp import web

from artifactfs.server.artifact_routes import ArtifactRoutes
from artifactfs.server.artifact_table import ArtifactTable
from artifactfs.server.request_body import BodyReceiver, BodyTooLarge
from artifactfs.server.responses import Refusal, not_found
from artifactfs.server.thread_pools import ThreadPools
from artifactfs.server.upload_files import UploadFiles
from artifactfs.server.upload_table import (
    PartRow,
    UploadRow,
    UploadTable,
)
from artifactfs.server.urls import Signer, Urls

CONTENT_TYPE = "application/octet-stream"

_log = logging.getLogger(__name__)


class ObjectRoutes:
    """The object store. Which uploads are closing, and who follows them, is the event loop's."""

    def __init__(
        self,
        signer: Signer,
        urls: Urls,
        tickets: UploadTable,
        parts: UploadFiles,
        records: ArtifactTable,
        artifacts: ArtifactRoutes,
        workers: ThreadPools,
    ) -> None:
        self._signer = signer
        self._urls = urls
        self._tickets = tickets
        self._parts = parts
        self._records = records
        self._artifacts = artifacts
        self._workers = workers
        self._closing: set[str] = set()
        self._gates: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._following: dict[str, asyncio.Task[None]] = {}

    # URLs

    def urls_expire(self) -> float:
        """Until when URLs that are made now are good, in seconds since the epoch."""
        return self._signer.expires()

    def direct_url(self, request: web.Request, ticket: UploadRow) -> str:
        """Where a direct upload is PUT."""
        return self._urls.object(request, self._signer.path("PUT", f"direct/{ticket.id}"))

    def part_url(self, request: web.Request, ticket: UploadRow, number: int) -> str:
        """Where a part is PUT."""
        key = f"parts/{ticket.id}/{number}"
        return self._urls.object(request, self._signer.path("PUT", key))

    # Completion

    @contextlib.asynccontextmanager
    async def closing(self, ticket: UploadRow) -> AsyncIterator[None]:
        """While an upload is completed or given up: no part is added or replaced.

        Raises `Refusal` 409 if it is already so.
        """
        if ticket.id in self._closing:
            raise Refusal(
                409, "conflict", "the upload is being completed", "ask for its state, or try again"
            )
        self._closing.add(ticket.id)
        try:
            async with self._gate(ticket.id):
                pass  # whoever found it open has noted his part now
            yield
        finally:
            self._closing.discard(ticket.id)

    def _gate(self, upload_id: str) -> asyncio.Lock:
        """Held while a part of this upload is noted."""
        gate = self._gates.get(upload_id)
        if gate is None:
            gate = self._gates[upload_id] = asyncio.Lock()
        return gate

    def is_closing(self, upload_id: str) -> bool:
        """Whether the upload is being completed or given up."""
        return upload_id in self._closing

    # The calls

    async def put_direct(self, request: web.Request) -> web.StreamResponse:
        """PUT /objects/direct/<id>."""
        upload_id = request.match_info["id"]
        self._signer.check(request, "PUT", f"direct/{upload_id}")
        if request.headers.get("Content-Type") != CONTENT_TYPE:
            raise Refusal(
                403, "signature_mismatch", "the headers are not those that were given with the URL"
            )
        return await self._put(request, self._tickets.find(upload_id), 1)

    async def put_part(self, request: web.Request) -> web.StreamResponse:
        """PUT /objects/parts/<id>/<number>."""
        upload_id, number = request.match_info["id"], request.match_info["number"]
        self._signer.check(request, "PUT", f"parts/{upload_id}/{number}")
        return await self._put(request, self._tickets.find(upload_id), int(number))

    async def get_artifact(self, request: web.Request) -> web.StreamResponse:
        """GET /objects/artifacts/<id>."""
        artifact_id = request.match_info["id"]
        self._signer.check(request, "GET", f"artifacts/{artifact_id}")
        record = self._records.named(artifact_id)
        record.check_alive()
        return await self._artifacts.content(request, record)

    async def _put(
        self, request: web.Request, ticket: UploadRow, number: int
    ) -> web.StreamResponse:
        self._check_open(ticket)
        receiver = BodyReceiver(request, self._workers)
        size = ticket.size_of(number)
        wrong = Refusal(400, "wrong_size", f"this part has {size} bytes", "send exactly those")
        if receiver.length_bytes not in (None, size):
            raise wrong
        before = self._tickets.part(ticket.id, number)
        with self._parts.claim(ticket, number, is_there=before is not None) as place:
            try:
                part = await self._parts.receive(ticket, number, place, receiver)
                if part.size != size:
                    raise wrong
                await self._note(ticket, part)
            except BodyTooLarge:
                self._parts.discard(ticket, place)
                raise wrong from None
            except Exception:
                # Not when the service ends: then the part may be noted all the same.
                self._parts.discard(ticket, place)
                raise
        self._follow(ticket)
        return web.Response(headers={"ETag": part.etag})

    async def _note(self, ticket: UploadRow, part: PartRow) -> None:
        """Make a part one that has come, in the place of one that had."""
        async with self._gate(ticket.id):
            self._check_open(ticket)
            before = self._tickets.part(ticket.id, part.number)
            if not await self._tickets.note(ticket, part):
                raise not_found(f"the upload {ticket.id}", "begin a new upload")
            if before is not None:
                self._parts.discard(ticket, before.place)

    def _check_open(self, ticket: UploadRow) -> None:
        ticket = self._tickets.find(ticket.id)
        if ticket.completed:
            raise not_found(f"an open upload {ticket.id}", "it has been completed")
        if ticket.id in self._closing:
            raise Refusal(409, "conflict", "the upload is being completed", "ask for its state")

    def _follow(self, ticket: UploadRow) -> None:
        """Hash in the background what has come, one at a time for each upload."""
        if ticket.id in self._following or ticket.part_count == 1:
            return

        async def follow() -> None:
            try:
                while await self._parts.follow(ticket, self._tickets.parts(ticket.id)):
                    pass
            except OSError as error:
                # Completion hashes what is left, and says what is wrong to who waits for it.
                _log.info("%s: hashing ahead was given up: %s", ticket.id, error)
            finally:
                del self._following[ticket.id]

        self._following[ticket.id] = asyncio.get_running_loop().create_task(follow())

    async def close(self) -> None:
        """Wait for what hashes in the background. `ThreadPools.stopping` must be set."""
        await asyncio.gather(*self._following.values(), return_exceptions=True)
