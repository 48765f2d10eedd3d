"""Sends a content: what ``ranges`` chose of it, the bytes by sendfile.

A small piece is read at once and leaves with its headers in one packet; anything larger goes from
the page cache to the socket without passing through Python.
"""

from __future__ import annotations

import asyncio
import os
from io import FileIO
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from artifactfs.controller.answers import Refusal
from artifactfs.controller.filenames import disposition
from artifactfs.controller.ranges import (
    Part,
    Unsatisfiable,
    not_modified,
    part_of,
    precondition_fails,
)

AT_ONCE_BYTES = 128 << 10


class FileSpan(web.StreamResponse):
    """A span of a file, which is closed when it is sent."""

    def __init__(self, file: FileIO, part: Part, status: int, headers: dict[str, str]) -> None:
        super().__init__(status=status, headers=headers)
        self._file = file
        self._part = part
        self.content_length = part.stop - part.start

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send headers and bytes. Raises `ConnectionError` if they cannot all be sent."""
        with self._file:
            writer = await super().prepare(request)
            count = self._part.stop - self._part.start
            transport = request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client is gone")
            loop = asyncio.get_running_loop()
            sent = await loop.sendfile(transport, self._file, self._part.start, count)
            if sent != count:
                raise ConnectionAbortedError("the content is shorter than it was")
            await super().write_eof()
            return writer


def content_response(
    request: web.Request, path: Path, sha256: str, size_bytes: int, filename: str
) -> web.StreamResponse:
    """The answer to GET or HEAD of a content.

    Raises `Refusal` 412, 416, and `FileNotFoundError` if the content is not there.
    """
    etag = f'"{sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=604800, immutable",
    }
    if precondition_fails(request.headers, etag):
        raise Refusal(412, "precondition_failed", "the ETag is another one", headers=headers)
    if not_modified(request.headers, etag):
        return web.Response(status=304, headers=headers)
    part = Part(0, size_bytes, False)
    if request.method == "GET":
        try:
            part = part_of(request.headers, etag, size_bytes)
        except Unsatisfiable:
            headers["Content-Range"] = f"bytes */{size_bytes}"
            raise Refusal(
                416, "range_not_satisfiable", f"it has {size_bytes} bytes", headers=headers
            ) from None
    headers["Content-Type"] = "application/octet-stream"
    headers["Content-Disposition"] = disposition(filename)
    if part.partial:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size_bytes}"
    status = 206 if part.partial else 200
    if request.method == "HEAD":
        headers["Content-Length"] = str(size_bytes)
        return web.Response(status=200, headers=headers)
    file = FileIO(path)
    if part.stop - part.start > AT_ONCE_BYTES:
        return FileSpan(file, part, status, headers)
    with file:
        body = os.pread(file.fileno(), part.stop - part.start, part.start)
    if len(body) != part.stop - part.start:
        raise FileNotFoundError(f"{path} is shorter than it was")
    return web.Response(status=status, headers=headers, body=body)
