"""The calls of direct and multipart uploads: tickets, URLs, what has come, completion.

Completion sees that every part is the one that the client means, joins them, compares the SHA-256
with the one that was announced, and lists the artifact in the same transaction that closes the
ticket. It can be repeated: the second time it answers the same artifact. Two at once: one is
answered 409.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from artifactfs.server.artifact_routes import ArtifactRoutes, shown
from artifactfs.server.artifact_table import ArtifactRow, ArtifactTable
from artifactfs.server.auth import Account
from artifactfs.server.blob_store import BlobStore
from artifactfs.server.object_routes import CONTENT_TYPE
from artifactfs.server.responses import (
    Refusal,
    bytes_of,
    invalid,
    iso,
    json_body,
    required,
    sha256_in,
    size_in,
)
from artifactfs.server.upload_store import UploadStore
from artifactfs.server.upload_table import (
    MOST_PARTS,
    PartRow,
    UploadRow,
    UploadTable,
)

MOST_PART_BYTES = 5 << 30
FIRST_URLS = 16


class UploadRoutes:
    """The calls below ``/artifacts/direct`` and ``/artifacts/multipart``."""

    def __init__(
        self,
        tickets: UploadTable,
        shelf: UploadStore,
        artifacts: ArtifactRoutes,
        records: ArtifactTable,
        store: BlobStore,
        *,
        part_size_bytes: int,
    ) -> None:
        self._tickets = tickets
        self._shelf = shelf
        self._artifacts = artifacts
        self._records = records
        self._store = store
        self._part_size_bytes = part_size_bytes

    # Direct

    async def direct(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST /artifacts/direct."""
        begun = await self._begin(request, caller, None, MOST_PART_BYTES)
        if isinstance(begun, ArtifactRow):
            return _exists(begun)
        return web.json_response(
            {
                "status": "upload",
                "artifact_id": begun.artifact_id,
                "method": "PUT",
                "upload_url": await self._shelf.direct_url(request, begun),
                "headers": {"Content-Type": CONTENT_TYPE},
                "expires_at": iso(min(begun.expires, self._shelf.urls_expire())),
                "complete_url": f"/api/v1/artifacts/direct/{begun.id}/complete",
            }
        )

    async def complete_direct(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST /artifacts/direct/<id>/complete."""
        ticket = self._find(request, caller)
        return await self._complete(ticket.id, await json_body(request), None)

    # Multipart

    async def multipart(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST /artifacts/multipart."""
        most_bytes = MOST_PARTS * MOST_PART_BYTES
        begun = await self._begin(request, caller, self._part_size_bytes, most_bytes)
        if isinstance(begun, ArtifactRow):
            return _exists(begun)
        first = range(1, min(begun.part_count, FIRST_URLS) + 1)
        return web.json_response(
            {
                "status": "upload",
                "artifact_id": begun.artifact_id,
                "upload_id": begun.id,
                "part_size": begun.part_size,
                "part_count": begun.part_count,
                "parts": await self._part_urls(request, begun, first),
                "expires_at": iso(begun.expires),
            }
        )

    async def part_urls(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST /artifacts/multipart/<id>/parts: more URLs, or fresh ones."""
        ticket = self._find(request, caller)
        numbers = required(await json_body(request), "part_numbers", list)
        for number in numbers:
            if type(number) is not int or not 1 <= number <= ticket.part_count:
                raise invalid(f"part_numbers are numbers from 1 to {ticket.part_count}")
        return web.json_response({"parts": await self._part_urls(request, ticket, numbers)})

    async def state(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET /artifacts/multipart/<id>: what has come."""
        ticket = self._find(request, caller)
        document: dict[str, Any] = {
            "status": "completed" if ticket.completed else "upload",
            "part_size": ticket.part_size,
            "part_count": ticket.part_count,
            "uploaded": [
                {"part_number": part.number, "size": part.size, "etag": part.etag}
                for part in (await self._shelf.parts(ticket) or [])
            ],
        }
        return web.json_response(document)

    async def complete(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST /artifacts/multipart/<id>/complete."""
        ticket = self._find(request, caller)
        body = await json_body(request)
        told = []
        for part in required(body, "parts", list):
            if not isinstance(part, dict):
                raise invalid("parts is a list of objects")
            told.append((required(part, "part_number", int), required(part, "etag", str)))
        return await self._complete(ticket.id, body, told)

    async def abandon(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """DELETE /artifacts/multipart/<id>."""
        ticket = self._find(request, caller)
        async with self._shelf.closing(ticket):
            await self._tickets.forget(ticket.id)
            await self._shelf.forget(ticket.id)
        return web.Response(status=204)

    # What both do

    async def _begin(
        self, request: web.Request, caller: Account, part_size: int | None, most_bytes: int
    ) -> UploadRow | ArtifactRow:
        caller.may_write()
        body = await json_body(request)
        sha256, size = sha256_in(body), size_in(body)
        filename = bytes_of(required(body, "filename", str))
        if size > most_bytes:
            raise Refusal(413, "too_large", f"more than {most_bytes} bytes")
        known = await self._artifacts.known(caller.account, sha256, size, filename)
        if known is not None:
            return known
        ticket = await self._tickets.begin(caller.account, sha256, size, filename, part_size)
        await self._shelf.begin(ticket)
        return ticket

    def _find(self, request: web.Request, caller: Account) -> UploadRow:
        if request.method != "GET":
            caller.may_write()
        ticket = self._tickets.find(request.match_info["id"])
        caller.owns(ticket.account, f"the upload {ticket.id}")
        return ticket

    async def _complete(
        self, upload_id: str, body: dict[str, Any], told: list[tuple[int, str]] | None
    ) -> web.StreamResponse:
        ticket = self._tickets.find(upload_id)
        if body.get("sha256") is not None and sha256_in(body) != ticket.sha256:
            raise Refusal(422, "sha256_mismatch", "another SHA-256 was announced")
        if body.get("size") is not None and size_in(body) != ticket.size:
            raise Refusal(422, "size_mismatch", f"{ticket.size} bytes were announced")
        if ticket.completed:
            return shown(self._records.named(ticket.artifact_id))
        async with self._shelf.closing(ticket):
            if self._tickets.find(upload_id).completed:  # by another controller, meanwhile
                return shown(self._records.named(ticket.artifact_id))
            parts = await self._shelf.parts(ticket)
            if parts is not None:
                _check(ticket, parts, told)
            digest = await self._shelf.digest(ticket, parts)
            if digest != ticket.sha256:
                await self._tickets.forget(ticket.id)
                await self._shelf.forget(ticket.id)
                raise Refusal(
                    422,
                    "sha256_mismatch",
                    f"the content's SHA-256 is {digest}, not {ticket.sha256}",
                    "upload it again",
                )
            with self._store.holding(ticket.sha256):
                await self._shelf.keep(ticket, parts)
                draft = self._records.draft(
                    ticket.account,
                    ticket.filename,
                    ticket.sha256,
                    ticket.size,
                    artifact_id=ticket.artifact_id,
                )
                record = await self._records.add(draft, self._tickets.completion(ticket))
            await self._shelf.forget(ticket.id)
        return shown(record, 201)

    async def expire(self) -> None:
        """Forget tickets whose time is over."""
        for upload_id in self._tickets.expired():
            if not self._shelf.is_closing(upload_id):
                await self._tickets.forget(upload_id)
                await self._shelf.forget(upload_id)

    async def sweep(self) -> None:
        """Throw away files that a crash left without a ticket."""
        await self._shelf.sweep(self._tickets.open_ids)

    async def _part_urls(
        self, request: web.Request, ticket: UploadRow, numbers: Sequence[int]
    ) -> list[dict[str, Any]]:
        urls = await self._shelf.part_urls(request, ticket, numbers)
        return [
            {"part_number": number, "url": url, "headers": {}}
            for number, url in zip(numbers, urls, strict=True)
        ]


def _check(ticket: UploadRow, parts: list[PartRow], told: list[tuple[int, str]] | None) -> None:
    """Raise `Refusal` unless every part has come and is the one that the client means."""
    if len(parts) != ticket.part_count:
        raise Refusal(
            422,
            "incomplete",
            f"{len(parts)} of {ticket.part_count} parts have come",
            "ask for the upload's state and send what is missing",
        )
    if told is not None and told != [(part.number, part.etag) for part in parts]:
        raise Refusal(
            422, "invalid_parts", "the parts are not those that have come", "ask for the state"
        )


def _exists(record: ArtifactRow) -> web.Response:
    body = b'{"status":"exists","artifact":%b}' % record.document
    return web.Response(body=body, content_type="application/json")
