"""Direct and multipart uploads: tickets, parts, completion; and the object store they go to.

A ticket is a row of ``uploads``; a part is a file and a row of ``parts``, in that order, so that a
part that was answered with an ETag is there after a crash. Completion joins the parts, checks the
SHA-256 and lists the artifact. It can be repeated: the second time it answers the same artifact.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from artifactfs.controller.accounts import Caller
from artifactfs.controller.answers import Refusal, iso, json_body, not_found, required
from artifactfs.controller.artifacts import Artifacts, new_id
from artifactfs.controller.index import Index
from artifactfs.controller.sending import content_response
from artifactfs.controller.signing import Signer
from artifactfs.controller.store import Store

MOST_PARTS = 10_000
MOST_PART_BYTES = 5 << 30
LEAST_PART_BYTES = 5 << 20
MOST_DIRECT_BYTES = 5 << 30
FIRST_URLS = 16

_HASH = re.compile(r"[0-9a-f]{64}")
_COLUMNS = "id, artifact_id, account, sha256, size, filename, part_size, expires, completed"


@dataclass(frozen=True, slots=True)
class Upload:
    """One ticket."""

    id: str
    artifact_id: str
    account: str
    sha256: str
    size: int
    filename: bytes
    part_size: int
    expires: float
    completed: str | None

    @property
    def part_count(self) -> int:
        """How many parts it has; an empty one has one."""
        return max(1, -(-self.size // self.part_size))

    def size_of(self, number: int) -> int:
        """How large part `number`, counted from 1, must be."""
        return min(self.part_size, self.size - (number - 1) * self.part_size)


class Uploads:
    """The calls below ``/artifacts/direct`` and ``/artifacts/multipart``, and ``/objects``."""

    def __init__(
        self,
        index: Index,
        store: Store,
        signer: Signer,
        artifacts: Artifacts,
        *,
        part_size_bytes: int,
        lifetime_s: float,
    ) -> None:
        self._index = index
        self._store = store
        self._signer = signer
        self._artifacts = artifacts
        self._part_size_bytes = part_size_bytes
        self._lifetime_s = lifetime_s

    async def _begin(
        self, request: web.Request, caller: Caller, prefix: str, part_size: int, most_bytes: int
    ) -> Upload | web.Response:
        caller.may_write()
        body = await json_body(request)
        sha256 = required(body, "sha256", str).lower()
        size = required(body, "size", int)
        filename = required(body, "filename", str).encode("utf-8", "surrogatepass")
        if not _HASH.fullmatch(sha256) or size < 0:
            raise Refusal(422, "invalid_field", "sha256 or size cannot be")
        if size > most_bytes:
            raise Refusal(413, "too_large", f"larger than {most_bytes} bytes")
        known = self._artifacts.known(caller.account, sha256, filename)
        if known is not None:
            return web.json_response({"status": "exists", "artifact": known.document()})
        artifact_id = new_id()
        upload_id = artifact_id if part_size == 0 else prefix + secrets.token_hex(10)
        if part_size and size > part_size * MOST_PARTS:
            part_size = -(-size // MOST_PARTS)
        upload = Upload(
            upload_id, artifact_id, caller.account, sha256, size, filename, part_size,
            time.time() + self._lifetime_s, None,
        )  # fmt: skip
        self._index.write(
            "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, NULL)",
            (
                upload.id, artifact_id, caller.account, sha256, size, filename, part_size,
                upload.expires,
            ),
        )  # fmt: skip
        return upload

    def _find(self, upload_id: str, account: str | None) -> Upload:
        row = self._index.one(f"SELECT {_COLUMNS} FROM uploads WHERE id = ?", (upload_id,))
        upload = Upload(*row) if row else None
        if upload is None or (upload.expires < time.time() and upload.completed is None):
            raise not_found(f"the upload {upload_id}")
        if account is not None and upload.account != account:
            raise Refusal(403, "forbidden", "the upload belongs to another account")
        return upload

    # Direct

    async def direct(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST /artifacts/direct."""
        upload = await self._begin(request, caller, "", 0, MOST_DIRECT_BYTES)
        if not isinstance(upload, Upload):
            return upload
        return web.json_response(
            {
                "status": "upload",
                "artifact_id": upload.artifact_id,
                "method": "PUT",
                "upload_url": _absolute(request, self._signer.path("PUT", f"direct/{upload.id}")),
                "headers": {"Content-Type": "application/octet-stream"},
                "expires_at": iso(time.time() + self._signer.lifetime_s),
                "complete_url": f"/api/v1/artifacts/direct/{upload.id}/complete",
            }
        )

    async def complete_direct(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST /artifacts/direct/<id>/complete."""
        upload = self._find(request.match_info["id"], caller.account)
        body = await json_body(request)
        return await self._complete(upload, body, [1])

    # Multipart

    async def multipart(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST /artifacts/multipart."""
        most = MOST_PARTS * MOST_PART_BYTES
        upload = await self._begin(request, caller, "mpu_", self._part_size_bytes, most)
        if not isinstance(upload, Upload):
            return upload
        first = range(1, min(upload.part_count, FIRST_URLS) + 1)
        return web.json_response(
            {
                "status": "upload",
                "artifact_id": upload.artifact_id,
                "upload_id": upload.id,
                "part_size": upload.part_size,
                "part_count": upload.part_count,
                "parts": [self._part(request, upload, number) for number in first],
                "expires_at": iso(upload.expires),
            }
        )

    async def part_urls(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST /artifacts/multipart/<id>/parts: more URLs, or fresh ones."""
        upload = self._find(request.match_info["id"], caller.account)
        numbers = required(await json_body(request), "part_numbers", list)
        if not all(isinstance(one, int) and 1 <= one <= upload.part_count for one in numbers):
            raise Refusal(422, "invalid_field", "a part number is out of range")
        return web.json_response(
            {"parts": [self._part(request, upload, number) for number in numbers]}
        )

    async def state(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /artifacts/multipart/<id>: what has arrived."""
        upload = self._find(request.match_info["id"], caller.account)
        document: dict[str, Any] = {
            "status": "completed" if upload.completed else "upload",
            "part_size": upload.part_size,
            "part_count": upload.part_count,
            "uploaded": [
                {"part_number": number, "size": size, "etag": etag}
                for number, (size, etag) in self._uploaded(upload.id).items()
            ],
        }
        if upload.completed and (row := self._artifacts.row(upload.completed)):
            document["artifact"] = row.document()
        return web.json_response(document)

    async def complete(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST /artifacts/multipart/<id>/complete."""
        upload = self._find(request.match_info["id"], caller.account)
        body = await json_body(request)
        parts = required(body, "parts", list)
        numbers = list(range(1, upload.part_count + 1))
        uploaded = self._uploaded(upload.id)
        if upload.completed is None:
            told = [
                (part.get("part_number"), part.get("etag")) if isinstance(part, dict) else None
                for part in parts
            ]
            if told != [(number, uploaded.get(number, (0, None))[1]) for number in numbers]:
                raise Refusal(422, "invalid_parts", "the parts are not those that have arrived")
        return await self._complete(upload, body, numbers)

    async def abandon(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """DELETE /artifacts/multipart/<id>."""
        upload = self._find(request.match_info["id"], caller.account)
        self._forget(upload.id)
        return web.Response(status=204)

    # The object store

    async def put_direct(self, request: web.Request) -> web.StreamResponse:
        """PUT /objects/direct/<id>."""
        key = request.match_info["id"]
        self._signer.check(request, "PUT", f"direct/{key}")
        upload = self._find(key, None)
        return await self._receive(request, upload, 1, upload.size)

    async def put_part(self, request: web.Request) -> web.StreamResponse:
        """PUT /objects/parts/<id>/<number>."""
        key, number = request.match_info["id"], int(request.match_info["number"])
        self._signer.check(request, "PUT", f"parts/{key}/{number}")
        upload = self._find(key, None)
        return await self._receive(request, upload, number, upload.size_of(number))

    async def get_blob(self, request: web.Request) -> web.StreamResponse:
        """GET /objects/blobs/<sha256>."""
        key = request.match_info["id"]
        self._signer.check(request, "GET", f"blobs/{key}")
        if not self._store.has(key):
            raise not_found("the object")
        path = self._store.path(key)
        return content_response(
            request, path, key, path.stat().st_size, key, "application/octet-stream"
        )

    async def _receive(
        self, request: web.Request, upload: Upload, number: int, size_bytes: int
    ) -> web.StreamResponse:
        if request.content_length is not None and request.content_length != size_bytes:
            raise Refusal(400, "wrong_size", f"{size_bytes} bytes are expected")
        received = await self._artifacts.receive(request, size_bytes)
        if received.size_bytes != size_bytes:
            received.discard()
            raise Refusal(400, "wrong_size", f"{size_bytes} bytes are expected")
        await asyncio.to_thread(self._store.keep_part, received, upload.id, number)
        etag = f'"{hashlib.md5(received.sha256.encode(), usedforsecurity=False).hexdigest()}"'
        self._index.write(
            "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)",
            (upload.id, number, size_bytes, etag),
        )
        return web.Response(status=200, headers={"ETag": etag})

    # Completion

    async def _complete(
        self, upload: Upload, body: dict[str, Any], numbers: list[int]
    ) -> web.StreamResponse:
        if upload.completed is not None:
            row = self._artifacts.row(upload.completed)
            if row is None:
                raise not_found(f"the artifact {upload.completed}")
            return web.json_response(row.document())
        for key in ("sha256", "size"):
            if body.get(key, getattr(upload, key)) != getattr(upload, key):
                raise Refusal(422, f"{key}_mismatch", f"{key} is not what was announced")
        if set(self._uploaded(upload.id)) != set(numbers):
            raise Refusal(422, "incomplete", "not every byte has arrived")
        if not self._index.write(
            "UPDATE uploads SET completing = 1 WHERE id = ? AND completing = 0", (upload.id,)
        ):
            raise Refusal(409, "conflict", "the upload is being completed")
        try:
            received = await asyncio.to_thread(self._store.join, upload.id, numbers)
            if received.sha256 != upload.sha256:
                received.discard()
                self._forget(upload.id)
                raise Refusal(422, "sha256_mismatch", "the content has another SHA-256")
            await asyncio.to_thread(self._store.keep, received)
            row = self._artifacts.add(
                upload.account,
                upload.filename or upload.artifact_id.encode(),
                sha256=upload.sha256,
                size=upload.size,
                artifact_id=upload.artifact_id,
            )
            self._index.write("UPDATE uploads SET completed = ? WHERE id = ?", (row.id, upload.id))
            self._store.discard_parts(upload.id)
        finally:
            self._index.write("UPDATE uploads SET completing = 0 WHERE id = ?", (upload.id,))
        return web.json_response(row.document(), status=201)

    def expire(self) -> None:
        """Forget tickets whose time is over."""
        old = self._index.all("SELECT id FROM uploads WHERE expires < ?", (time.time(),))
        for (upload_id,) in old:
            self._forget(upload_id)

    def _forget(self, upload_id: str) -> None:
        self._index.write("DELETE FROM uploads WHERE id = ?", (upload_id,))
        self._index.write("DELETE FROM parts WHERE upload_id = ?", (upload_id,))
        self._store.discard_parts(upload_id)

    def _uploaded(self, upload_id: str) -> dict[int, tuple[int, str]]:
        rows = self._index.all(
            "SELECT number, size, etag FROM parts WHERE upload_id = ? ORDER BY number", (upload_id,)
        )
        return {number: (size, etag) for number, size, etag in rows}

    def _part(self, request: web.Request, upload: Upload, number: int) -> dict[str, Any]:
        path = self._signer.path("PUT", f"parts/{upload.id}/{number}")
        return {"part_number": number, "url": _absolute(request, path), "headers": {}}


def _absolute(request: web.Request, path: str) -> str:
    return f"{request.scheme}://{request.host}{path}"
