"""Puts the calls together: which URL is whose, who may ask, and how an error looks."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from artifactfs.controller.accounts import Accounts, Caller
from artifactfs.controller.answers import Refusal, json_body, required
from artifactfs.controller.artifacts import Artifacts
from artifactfs.controller.index import Index
from artifactfs.controller.jobs import Jobs
from artifactfs.controller.signing import Signer
from artifactfs.controller.store import Received, Store
from artifactfs.controller.uploads import Uploads

ACCOUNT = "default"

Call = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What may be chosen of how the service behaves."""

    part_size_bytes: int = 64 << 20
    retention_s: float = 7 * 86_400.0
    url_lifetime_s: float = 3600.0
    upload_lifetime_s: float = 86_400.0
    redirect_downloads: bool = False
    download_base: str | None = None


class Controller:
    """The service over one data directory. `app` is what aiohttp runs."""

    def __init__(self, directory: Path, token: str, secret: bytes, behaviour: Behaviour) -> None:
        self._index = Index(directory / "index.sqlite")
        self._store = Store(directory)
        self._accounts = Accounts(self._index)
        self._accounts.add(token, ACCOUNT, "dev")
        signer = Signer(secret, behaviour.url_lifetime_s)
        self._artifacts = Artifacts(
            self._index,
            self._store,
            signer,
            retention_s=behaviour.retention_s,
            redirect=behaviour.redirect_downloads,
            download_base=behaviour.download_base,
        )
        self._uploads = Uploads(
            self._index,
            self._store,
            signer,
            self._artifacts,
            part_size_bytes=behaviour.part_size_bytes,
            lifetime_s=behaviour.upload_lifetime_s,
        )
        self._jobs = Jobs()
        self.app = web.Application(middlewares=[_errors], client_max_size=512 << 20)
        self._routes()

    def expire(self) -> None:
        """Forget what is over."""
        self._artifacts.expire()
        self._uploads.expire()

    async def close(self) -> None:
        """End the streams and close the index."""
        await self._jobs.close()

    def close_index(self) -> None:
        """Close the database, after the last request."""
        self._index.close()

    def _routes(self) -> None:
        artifacts, uploads, jobs = self._artifacts, self._uploads, self._jobs
        calls: list[tuple[str, str, Call]] = [
            ("GET", "artifacts", artifacts.list),
            ("POST", "artifacts", artifacts.post),
            ("POST", "artifacts/external", artifacts.external),
            ("POST", "artifacts/direct", uploads.direct),
            ("POST", "artifacts/direct/{id}/complete", uploads.complete_direct),
            ("POST", "artifacts/multipart", uploads.multipart),
            ("GET", "artifacts/multipart/{id}", uploads.state),
            ("DELETE", "artifacts/multipart/{id}", uploads.abandon),
            ("POST", "artifacts/multipart/{id}/parts", uploads.part_urls),
            ("POST", "artifacts/multipart/{id}/complete", uploads.complete),
            ("GET", "artifacts/{id}", artifacts.get),
            ("GET", "jobs", jobs.list),
            ("GET", "jobs/watch", jobs.watch),
            ("GET", "jobs/{id}", jobs.get),
            ("GET", "jobs/{id}/tasks", jobs.tasks),
            ("GET", "jobs/{id}/output", jobs.output),
            ("GET", "jobs/{id}/stream", jobs.stream),
            ("GET", "results/{id}", jobs.result),
            ("GET", "projects", jobs.projects),
            ("GET", "projects/{name}/stream", jobs.project),
            ("POST", "_dev/artifacts", self._make_artifacts),
            ("POST", "_dev/tokens", self._add_token),
            ("DELETE", "_dev/tokens", self._remove_token),
            ("POST", "_dev/jobs", jobs.put_job),
            ("POST", "_dev/jobs/{id}", jobs.change_job),
            ("POST", "_dev/jobs/{id}/tasks", jobs.change_task),
        ]
        router = self.app.router
        for method, path, call in calls:
            router.add_route(method, f"/api/v1/{path}", self._with_caller(call))
        router.add_route("HEAD", "/api/v1/artifacts/{id}", self._with_caller(artifacts.get))
        router.add_get("/health", _health)
        router.add_get("/api/v1", _index_page)
        router.add_get("/api/v1/docs", _index_page)
        router.add_put("/objects/direct/{id}", uploads.put_direct)
        router.add_put(r"/objects/parts/{id}/{number:\d+}", uploads.put_part)
        router.add_get("/objects/blobs/{id}", uploads.get_blob)

    def _with_caller(self, call: Call) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await call(request, self._accounts.caller(request))

        return handle

    async def _make_artifacts(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        caller.may_direct()
        made = []
        for wanted in required(await json_body(request), "artifacts", list):
            try:
                if "filename_base64" in wanted:
                    filename = base64.b64decode(wanted["filename_base64"], validate=True)
                else:
                    filename = str(wanted.get("filename", "")).encode("utf-8", "surrogatepass")
                if "text" in wanted:
                    content = str(wanted["text"]).encode()
                else:
                    content = base64.b64decode(wanted.get("content", ""), validate=True)
            except (binascii.Error, TypeError, AttributeError):
                raise Refusal(422, "invalid_field", "an artifact cannot be read") from None
            sha256 = hashlib.sha256(content).hexdigest()
            if not self._store.has(sha256):
                path = self._store.path(sha256)
                path.parent.mkdir(mode=0o700, exist_ok=True)
                incoming = path.parent.parent.parent / "incoming" / sha256
                incoming.write_bytes(content)
                self._store.keep(Received(incoming, sha256, len(content)))
            row = self._artifacts.add(
                wanted.get("account", caller.account),
                filename,
                sha256=sha256,
                size=len(content),
                job_id=wanted.get("job_id"),
                created=wanted.get("created", time.time()),
            )
            made.append(row.id)
        return web.json_response({"ids": made}, status=201)

    async def _add_token(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        caller.may_direct()
        body = await json_body(request)
        account = body.get("account", ACCOUNT)
        self._accounts.add(required(body, "token", str), account, body.get("role", "member"))
        return web.json_response({}, status=201)

    async def _remove_token(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        caller.may_direct()
        self._accounts.remove(required(await json_body(request), "token", str))
        return web.Response(status=204)


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _index_page(_: web.Request) -> web.Response:
    return web.json_response({"name": "artifactfs controller", "version": "v2"})


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as the contract words it; what nobody foresaw as 500, in the log."""
    try:
        return await handler(request)
    except Refusal as refusal:
        answer = refusal.response()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = (error.reason or "error").lower().replace(" ", "_")
        answer = Refusal(
            error.status, code, f"{request.method} {request.path}: {error.reason}"
        ).response()
    except ConnectionResetError:
        raise
    except Exception:  # noqa: BLE001 - the caller gets an answer whatever happened
        _log.exception("%s %s", request.method, request.path)
        answer = Refusal(500, "internal_error", "the service has made a mistake").response()
    if request.can_read_body and not request.content.is_eof():
        # The rest of the body would be read before the connection can serve again.
        answer.force_close()
        with contextlib.suppress(Exception):
            if (request.content_length or 0) < 1 << 20:
                await request.read()
    return answer
