"""The calls about artifacts: list, get, upload through the controller, external references."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from aiohttp import web

from artifactfs.controller.accounts import Caller
from artifactfs.controller.answers import Refusal, iso, json_body, not_found, required
from artifactfs.controller.index import Index
from artifactfs.controller.sending import content_response
from artifactfs.controller.signing import Signer
from artifactfs.controller.store import Received, Store, TooMuch

MOST_UPLOAD_BYTES = 2_000_000_000
MOST_PAGE = 10_000
COLUMNS = (
    "number, id, account, sha256, size, filename, content_type, created, expires, external_url,"
    " job_id"
)


def text_of(filename: bytes) -> str:
    """A stored file name as text; what is no UTF-8 becomes lone surrogates."""
    try:
        return filename.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return filename.decode("utf-8", "surrogateescape")


def header_filename(value: str) -> bytes:
    """The name in ``X-Artifact-Filename``: Latin-1, or percent-encoded UTF-8.

    aiohttp hands headers out as UTF-8 with surrogates for what is none.
    """
    raw = value.encode("utf-8", "surrogateescape")
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1").encode()
    return raw


@dataclass(frozen=True, slots=True)
class Row:
    """One artifact as it stands in the index."""

    number: int
    id: str
    account: str
    sha256: str | None
    size: int | None
    filename: bytes
    content_type: str
    created: float
    expires: float
    external_url: str | None
    job_id: str | None

    def document(self) -> dict[str, Any]:
        """The artifact object of the contract."""
        return {
            "id": self.id,
            "sha256": self.sha256,
            "size": self.size,
            "filename": text_of(self.filename),
            "content_type": self.content_type,
            "created_at": iso(self.created),
            "expires_at": iso(self.expires),
            "status": "ready",
            "external_url": self.external_url,
            "job_id": self.job_id,
        }


class Artifacts:
    """The artifacts of all accounts."""

    def __init__(
        self,
        index: Index,
        store: Store,
        signer: Signer,
        *,
        retention_s: float,
        redirect: bool,
        download_base: str | None,
    ) -> None:
        self._index = index
        self._store = store
        self._signer = signer
        self._retention_s = retention_s
        self._redirect = redirect
        self._download_base = download_base

    # What the other calls need

    def known(self, account: str, sha256: str, filename: bytes) -> Row | None:
        """The account's artifact of this content and name, made if it has the content at all."""
        row = self._live("account = ? AND sha256 = ? AND filename = ?", account, sha256, filename)
        if row is not None:
            return row
        same = self._live("account = ? AND sha256 = ?", account, sha256)
        if same is None or not self._store.has(sha256):
            return None
        return self.add(account, filename, sha256=sha256, size=same.size)

    def add(
        self,
        account: str,
        filename: bytes,
        *,
        sha256: str | None,
        size: int | None,
        artifact_id: str | None = None,
        external_url: str | None = None,
        job_id: str | None = None,
        created: float | None = None,
    ) -> Row:
        """A new artifact in the list."""
        artifact_id = artifact_id or new_id()
        now = time.time() if created is None else created
        self._index.write(
            "INSERT INTO artifacts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                artifact_id, account, sha256, size, filename, "application/octet-stream",
                now, now + self._retention_s, external_url, job_id,
            ),
        )  # fmt: skip
        row = self.row(artifact_id)
        assert row is not None
        return row

    def row(self, artifact_id: str) -> Row | None:
        """An artifact by its id, expired or not."""
        found = self._index.one(f"SELECT {COLUMNS} FROM artifacts WHERE id = ?", (artifact_id,))
        return Row(*found) if found else None

    def expire(self) -> None:
        """Forget what has expired, and contents that nobody refers to any more."""
        old = self._index.all(
            "SELECT id, sha256 FROM artifacts WHERE expires < ?", (time.time() - self._retention_s,)
        )
        for artifact_id, sha256 in old:
            self._index.write("DELETE FROM artifacts WHERE id = ?", (artifact_id,))
            if sha256 and not self._index.one(
                "SELECT 1 FROM artifacts WHERE sha256 = ?", (sha256,)
            ):
                self._store.remove(sha256)

    def _live(self, condition: str, *values: Any) -> Row | None:
        found = self._index.one(
            f"SELECT {COLUMNS} FROM artifacts WHERE {condition} AND expires > ?"
            " ORDER BY number DESC LIMIT 1",
            (*values, time.time()),
        )
        return Row(*found) if found else None

    # The calls

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /artifacts, newest first; the cursor is the number of the last one shown."""
        limit = request.query.get("limit", "1000")
        cursor = request.query.get("cursor", str(1 << 62))
        if not limit.isdigit() or int(limit) < 1 or not cursor.isdigit() or len(cursor) > 19:
            raise Refusal(400, "invalid_field", "limit and cursor are numbers")
        most = min(int(limit), MOST_PAGE)
        found = self._index.all(
            f"SELECT {COLUMNS} FROM artifacts WHERE account = ? AND number < ? AND expires > ?"
            " ORDER BY number DESC LIMIT ?",
            (caller.account, int(cursor), time.time(), most + 1),
        )
        rows = [Row(*one) for one in found[:most]]
        following = str(rows[-1].number) if len(found) > most else None
        document = {"artifacts": [row.document() for row in rows], "next_cursor": following}
        return web.Response(body=json.dumps(document).encode(), content_type="application/json")

    async def get(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET and HEAD /artifacts/<id>."""
        artifact_id = request.match_info["id"]
        row = self.row(artifact_id)
        if row is None:
            raise not_found(f"the artifact {artifact_id}")
        if row.account != caller.account:
            raise Refusal(403, "forbidden", "the artifact belongs to another account")
        if row.expires <= time.time():
            raise Refusal(410, "expired", f"the artifact {artifact_id} has expired")
        if row.external_url is not None:
            return web.Response(status=302, headers={"Location": row.external_url})
        assert row.sha256 is not None
        assert row.size is not None
        if not self._store.has(row.sha256):
            raise Refusal(410, "gone", f"the content of {artifact_id} is gone")
        if self._download_base is not None:
            place = f"{self._download_base.rstrip('/')}/{row.sha256[:2]}/{row.sha256}"
            return web.Response(status=302, headers={"Location": place})
        if self._redirect:
            place = self._signer.path("GET", f"blobs/{row.sha256}")
            return web.Response(status=302, headers={"Location": place})
        return content_response(
            request, self._store.path(row.sha256), row.sha256, row.size, text_of(row.filename),
            row.content_type,
        )  # fmt: skip

    async def post(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST /artifacts: the body is the content."""
        caller.may_write()
        if (request.content_length or 0) > MOST_UPLOAD_BYTES:
            raise Refusal(413, "too_large", "larger than 2 GB", "use a multipart upload")
        filename = header_filename(request.headers.get("X-Artifact-Filename", ""))
        received = await self.receive(request, MOST_UPLOAD_BYTES)
        claimed = request.headers.get("X-Artifact-Sha256")
        if claimed and claimed.lower() != received.sha256:
            received.discard()
            raise Refusal(422, "sha256_mismatch", "the content has another SHA-256")
        await asyncio.to_thread(self._store.keep, received)
        artifact_id = new_id()
        row = self.add(
            caller.account,
            filename or artifact_id.encode(),
            sha256=received.sha256,
            size=received.size_bytes,
            artifact_id=artifact_id,
        )
        return web.json_response(row.document(), status=201)

    async def receive(self, request: web.Request, most_bytes: int) -> Received:
        """The request's body in ``incoming``; nothing stays of one that breaks off."""
        try:
            return await self._store.receive(request.content.iter_any(), most_bytes)
        except TooMuch:
            raise Refusal(413, "too_large", f"larger than {most_bytes} bytes") from None

    async def external(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST /artifacts/external: a reference."""
        caller.may_write()
        body = await json_body(request)
        url, filename = required(body, "url", str), required(body, "filename", str)
        if not url.startswith(("http://", "https://")):
            raise Refusal(422, "invalid_field", "url is no http or https URL")
        row = self.add(
            caller.account,
            filename.encode("utf-8", "surrogatepass"),
            sha256=body.get("sha256"),
            size=body.get("size"),
            external_url=url,
        )
        return web.json_response(row.document(), status=201)


def new_id() -> str:
    """An opaque artifact id."""
    return "art_" + secrets.token_hex(10)
