"""The calls about artifacts: list, get, upload through the controller, external references.

Also what becomes of contents: one is let go when the last living artifact that has it has expired.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote

from aiohttp import web

from artifactfs.server.artifact_table import ArtifactRow, ArtifactTable
from artifactfs.server.auth import Account
from artifactfs.server.blob_store import BlobStore
from artifactfs.server.config import ServerConfig
from artifactfs.server.range_response import content_response
from artifactfs.server.request_body import BodyReceiver, BodyTooLarge
from artifactfs.server.responses import (
    Refusal,
    bytes_of,
    header_filename,
    invalid,
    json_body,
    number_in,
    required,
    sha256_in,
    size_in,
)
from artifactfs.server.thread_pools import ThreadPools
from artifactfs.server.urls import Signer, Urls

MOST_UPLOAD_BYTES = 2_000_000_000
MOST_PAGE = 10_000
USUAL_PAGE = 1000

_EXTERNAL = re.compile(r"https?://[^\s\x00-\x20\x7f-\x9f/?#]+\S*", re.IGNORECASE)
_PRINTABLE = "".join(chr(code) for code in range(33, 127))


class ArtifactRoutes:
    """The calls below ``/artifacts``, and the contents they are about."""

    def __init__(
        self,
        records: ArtifactTable,
        store: BlobStore,
        workers: ThreadPools,
        signer: Signer,
        urls: Urls,
        behaviour: ServerConfig,
    ) -> None:
        self._records = records
        self._store = store
        self._workers = workers
        self._signer = signer
        self._urls = urls
        self._behaviour = behaviour

    # What uploads need

    async def known(
        self, account: str, sha256: str, size: int, filename: bytes
    ) -> ArtifactRow | None:
        """A new artifact of a content that the account has; None if it has none such.

        It is a new one also where the name is the same: it has its full retention, and is the
        newest of its name. Raises `Refusal` if the content has another size.
        """
        with self._store.holding(sha256):
            same = self._records.with_content(account, sha256)
            if same is None or not await self._is_here(sha256):
                return None
            if same.size != size:
                raise Refusal(422, "size_mismatch", f"this content has {same.size} bytes")
            return await self._records.add(self._records.draft(account, filename, sha256, size))

    # The calls

    async def list(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET /artifacts, newest first."""
        limit = min(number_in(request.query, "limit", USUAL_PAGE, least=1), MOST_PAGE)
        cursor = number_in(request.query, "cursor", 0) if "cursor" in request.query else None
        page = await self._records.page(caller.account, cursor, limit)
        return web.Response(body=page, content_type="application/json")

    async def get(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """GET and HEAD /artifacts/<id>."""
        record = self._records.named(request.match_info["id"])
        caller.owns(record.account, f"the artifact {record.id}")
        record.check_alive()
        if record.external_url is not None:
            return _redirect(quote(record.external_url, safe=_PRINTABLE))
        if request.method == "GET":
            target = await self._elsewhere(request, record)
            if target is not None:
                return _redirect(target)
        return await self.content(request, record)

    async def content(self, request: web.Request, record: ArtifactRow) -> web.StreamResponse:
        """The bytes of an artifact. Raises `Refusal` 410 if they are not here."""
        gone = Refusal(410, "gone", f"the content of {record.id} is gone")
        sha256, size = record.sha256, record.size
        if sha256 is None or size is None:
            raise gone
        path = self._store.path(sha256)
        try:
            return content_response(request, path, sha256, size, record.name)
        except FileNotFoundError:
            if not await self._is_here(sha256):
                raise gone from None
        return content_response(request, path, sha256, size, record.name)

    async def post(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST /artifacts: the body is the content."""
        caller.may_write()
        filename = header_filename(request.headers.get("X-Artifact-Filename", ""))
        try:
            received = await self._store.receive(
                BodyReceiver(request, self._workers), MOST_UPLOAD_BYTES
            )
        except BodyTooLarge:
            raise Refusal(
                413,
                "too_large",
                f"more than {MOST_UPLOAD_BYTES} bytes",
                "use a direct or a multipart upload",
            ) from None
        claimed = request.headers.get("X-Artifact-Sha256", received.sha256)
        if claimed.lower() != received.sha256:
            self._store.discard(received)
            raise Refusal(422, "sha256_mismatch", f"the content's SHA-256 is {received.sha256}")
        with self._store.holding(received.sha256):
            await self._workers.do(self._store.keep, received)
            record = await self._records.add(
                self._records.draft(
                    caller.account,
                    filename,
                    received.sha256,
                    received.size_bytes,
                )
            )
        return shown(record, 201)

    async def external(self, request: web.Request, caller: Account) -> web.StreamResponse:
        """POST /artifacts/external: a reference."""
        caller.may_write()
        body = await json_body(request)
        url, filename = required(body, "url", str), required(body, "filename", str)
        if not _EXTERNAL.fullmatch(url):
            raise invalid("url is no http or https URL")
        record = await self._records.add(
            self._records.draft(
                caller.account,
                bytes_of(filename),
                sha256_in(body) if body.get("sha256") is not None else None,
                size_in(body) if body.get("size") is not None else None,
                external_url=url,
            )
        )
        return shown(record, 201)

    # Contents

    async def clean(self) -> int:
        """Let go the contents that only expired artifacts have; how many there were."""
        removed = 0
        while contents := self._records.expired():
            for sha256 in contents:
                removed += self._let_go(sha256)
            await self._records.clean(contents)
        await self._records.clean([])
        return removed

    async def sweep(self) -> None:
        """Let go contents that no artifact has: what a crash left between file and index."""
        for sha256 in await self._workers.do(lambda: tuple(self._store.all())):
            self._let_go(sha256)
            await asyncio.sleep(0)

    def _let_go(self, sha256: str) -> bool:
        """Nothing is awaited between looking and removing, so that nobody comes in between."""
        with self._store.alone(sha256) as alone:
            if not alone or self._records.is_wanted(sha256):
                return False
            self._store.remove(sha256)
            return True

    async def _is_here(self, sha256: str) -> bool:
        """Whether there is such a content; one that is only in the index gets its file."""
        if await self._workers.do(self._store.has, sha256):
            return True
        seed = self._records.seed(sha256)
        if seed is None:
            return False
        with self._store.holding(sha256):
            await self._workers.do(self._store.keep_bytes, seed, sha256)
        return True

    async def _elsewhere(self, request: web.Request, record: ArtifactRow) -> str | None:
        behaviour = self._behaviour
        if record.sha256 is not None and await self._is_here(record.sha256):
            target = self._store.url(record.sha256, record.name)
            if target is not None:
                return target
        if behaviour.download_base is None and not behaviour.redirect_downloads:
            return None
        if record.sha256 is None or not await self._is_here(record.sha256):
            return None
        if behaviour.download_base is None:
            return self._urls.object(request, self._signer.path("GET", f"artifacts/{record.id}"))
        return f"{behaviour.download_base.rstrip('/')}/{record.sha256[:2]}/{record.sha256}"


def shown(record: ArtifactRow, status: int = 200) -> web.Response:
    """An artifact as an answer."""
    return web.Response(status=status, body=record.document, content_type="application/json")


def _redirect(target: str) -> web.Response:
    return web.Response(status=302, headers={"Location": target, "Cache-Control": "no-store"})
