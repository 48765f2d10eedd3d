"""Puts the service together: who is made of whom, which URL is whose, and how an error looks."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from artifactfs.errors import ConfigError
from artifactfs.server.artifact_routes import ArtifactRoutes
from artifactfs.server.artifact_table import ArtifactTable
from artifactfs.server.auth import Account, Authenticator
from artifactfs.server.blob_store import (
    BlobLocks,
    BlobStore,
    LocalBlobLocks,
    S3BlobStore,
)
from artifactfs.server.config import ServerConfig
from artifactfs.server.database import AnyDatabase, SqliteDatabase
from artifactfs.server.dev_routes import DevRoutes
from artifactfs.server.event_streams import EventStreams
from artifactfs.server.job_routes import JobRoutes
from artifactfs.server.object_routes import ObjectRoutes
from artifactfs.server.postgres import (
    DatabaseUnreachable,
    PostgresBlobLocks,
    PostgresDatabase,
    open_engine,
)
from artifactfs.server.request_body import TAKEN
from artifactfs.server.responses import (
    Refusal,
    expects,
    storage_full,
    wait_with_body,
)
from artifactfs.server.s3_bucket import open_bucket
from artifactfs.server.thread_pools import ThreadPools
from artifactfs.server.upload_files import UploadFiles
from artifactfs.server.upload_routes import UploadRoutes
from artifactfs.server.upload_store import (
    LocalUploadStore,
    S3UploadStore,
    UploadStore,
)
from artifactfs.server.upload_table import UploadTable
from artifactfs.server.urls import Signer, Urls

Call = Callable[[web.Request, Account], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = logging.getLogger(__name__)


class Controller:
    """The service over one data directory. `app` is what aiohttp runs.

    Made, and `start`ed, in the event loop that runs it.
    """

    def __init__(self, directory: Path, token: str, secret: bytes, behaviour: ServerConfig) -> None:
        self._workers = ThreadPools()
        own = SqliteDatabase(directory / "index.sqlite", sync=behaviour.sync)
        index: AnyDatabase = own
        guard: BlobLocks = LocalBlobLocks()
        self._closing: list[Callable[[], None]] = [own.close]
        self._indexes: list[AnyDatabase] = [own]
        if behaviour.index is not None:
            if behaviour.store is None:
                raise ConfigError("a shared index needs a shared store: --store s3://BUCKET")
            engine = open_engine(behaviour.index)
            index, guard = PostgresDatabase(engine), PostgresBlobLocks(engine)
            self._indexes.insert(0, index)  # what may fail, before a thread is started
            self._closing += [index.close, guard.close]
        self._accounts = Authenticator(index, token)
        self.urls = Urls(behaviour.public_url)
        signer = Signer(secret, behaviour.url_lifetime_s)
        bucket = self._bucket = None
        if behaviour.store is not None:
            bucket = self._bucket = open_bucket(
                behaviour.store, behaviour.endpoint_url, behaviour.url_lifetime_s
            )
        self._store = (
            BlobStore(directory, self._workers, sync=behaviour.sync, guard=guard)
            if bucket is None
            else S3BlobStore(directory, self._workers, bucket, sync=behaviour.sync, guard=guard)
        )
        records = ArtifactTable(index, behaviour.retention_s)
        self._artifacts = ArtifactRoutes(
            records, self._store, self._workers, signer, self.urls, behaviour
        )
        tickets = UploadTable(index, behaviour.upload_lifetime_s)
        self._parts = UploadFiles(directory, self._store, self._workers, sync=behaviour.sync)
        self._objects = ObjectRoutes(
            signer, self.urls, tickets, self._parts, records, self._artifacts, self._workers
        )
        shelf: UploadStore = (
            LocalUploadStore(self._objects, self._parts, tickets)
            if bucket is None
            else S3UploadStore(bucket, index, self._workers, guard)
        )
        self._uploads = UploadRoutes(
            tickets,
            shelf,
            self._artifacts,
            records,
            self._store,
            part_size_bytes=behaviour.part_size_bytes,
        )
        self._jobs = JobRoutes(own)
        self._streams = EventStreams(own, self._jobs, behaviour.heartbeat_s)
        self._playing = DevRoutes(
            self._accounts,
            records,
            self._artifacts,
            self._jobs,
            self._streams,
            behaviour.retention_s,
        )
        self.app = web.Application(middlewares=[self._answer])
        self._routes()

    def start(self) -> None:
        """Make what is missing in the directory and read what was known before.

        Raises `ConfigError` if the bucket is not for this index.
        """
        self._store.prepare()
        self._parts.prepare()
        for index in self._indexes:
            index.start()
        try:
            if self._bucket is not None:
                self._bucket.claim(self._indexes[0].id)
            self._jobs.load()
            self._streams.load()
        except BaseException:
            self.close()
            raise

    async def sweep(self) -> None:
        """Throw away what a crash left that nobody refers to."""
        await self._uploads.sweep()
        await self._artifacts.sweep()

    async def clean(self) -> None:
        """Forget what has expired."""
        await self._artifacts.clean()
        await self._uploads.expire()

    async def stop(self) -> None:
        """Have streams and bodies end, so that nothing keeps the server from ending."""
        self._workers.stopping.set()
        await self._streams.close()
        await self._objects.close()

    def close(self) -> None:
        """Close the files, after the last request."""
        self._workers.close()
        for close in reversed(self._closing):
            close()

    def _routes(self) -> None:
        artifacts, uploads, jobs = self._artifacts, self._uploads, self._jobs
        streams, playing, objects = self._streams, self._playing, self._objects
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
            ("HEAD", "artifacts/{id}", artifacts.get),
            ("GET", "jobs", jobs.list),
            ("GET", "jobs/watch", streams.watch),
            ("GET", "jobs/{id}", jobs.get),
            ("GET", "jobs/{id}/tasks", jobs.tasks),
            ("GET", "jobs/{id}/output", jobs.output),
            ("GET", "jobs/{id}/stream", streams.job),
            ("GET", "results/{id}", jobs.result),
            ("GET", "projects", jobs.projects),
            ("GET", "projects/{name}/stream", streams.project),
            ("POST", "_dev/artifacts", playing.make_artifacts),
            ("POST", "_dev/artifacts/{id}", playing.change_artifact),
            ("POST", "_dev/clean", playing.clean),
            ("POST", "_dev/tokens", playing.add_token),
            ("DELETE", "_dev/tokens", playing.remove_token),
            ("POST", "_dev/jobs", playing.put_job),
            ("POST", "_dev/jobs/{id}", playing.change_job),
            ("POST", "_dev/jobs/{id}/end", playing.end_job),
            ("POST", "_dev/jobs/{id}/tasks", playing.change_tasks),
            ("POST", "_dev/jobs/{id}/event", playing.event),
        ]
        shown = [f"{method} /api/v1/{path}" for method, path, _ in calls if path[0] != "_"]

        async def health(_: web.Request) -> web.Response:
            return web.json_response({"status": "ok"})

        async def about(_: web.Request) -> web.Response:
            return web.json_response({"name": "artifactfs controller", "version": "v2"})

        async def docs(_: web.Request) -> web.Response:
            return web.json_response({"version": "v2", "calls": shown})

        open_calls: list[tuple[str, str, Handler]] = [
            ("GET", "/health", health),
            ("GET", "/api/v1", about),
            ("GET", "/api/v1/docs", docs),
            ("PUT", "/objects/direct/{id}", objects.put_direct),
            ("PUT", r"/objects/parts/{id}/{number:[0-9]{1,5}}", objects.put_part),
            ("GET", "/objects/artifacts/{id}", objects.get_artifact),
        ]
        for method, path, call in calls:
            self._route(method, f"/api/v1/{path}", self._with_caller(call))
        for method, path, handler in open_calls:
            self._route(method, path, handler)

    def _route(self, method: str, path: str, handler: Handler) -> None:
        self.app.router.add_route(method, path, handler, expect_handler=wait_with_body)

    def _with_caller(self, call: Call) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await call(request, self._accounts.caller(request))

        return handle

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every error as the contract words it, and the end of connections that are used up."""
        try:
            self.urls.check_origin(request)
            response = await handler(request)
        except ConnectionError:
            raise
        except Exception as error:
            if request.writer.output_size:
                raise ConnectionAbortedError("an answer broke off") from error
            response = refusal_of(request, error).response()
        if expects(request):
            # It was told the end without having been let go on: what comes next is not a body.
            request.content.feed_eof()
            response.force_close()
        elif TAKEN in request:
            response.force_close()
        return response


def refusal_of(request: web.BaseRequest, error: Exception) -> Refusal:
    """The error as the contract words it; what nobody foresaw is 500 here, and in the log."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, web.HTTPException) and error.status >= 400:
        code = error.reason.lower().replace(" ", "_").replace("'", "")
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        words = f"{request.method} {request.path}: {error.reason}"
        return Refusal(
            error.status, code, words, "GET /api/v1/docs lists the calls", headers=allowed
        )
    if isinstance(error, DatabaseUnreachable):
        _log.error("%s %s: %s", request.method, request.path, error)
        return Refusal(503, "unavailable", "the service cannot reach its index", "try again later")
    if (isinstance(error, OSError) and error.errno in _FULL) or (
        isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL
    ):
        _log.error("%s %s: %s", request.method, request.path, error)
        return storage_full()
    _log.error("%s %s", request.method, request.path, exc_info=error)
    return Refusal(500, "internal_error", "the service has made a mistake", "try again later")
