"""Sends a content: ranges and conditions of RFC 9110, the bytes by sendfile.

The ETag is the SHA-256, so that every condition is exact. One range is answered by 206; several, or
what is no range, by the whole.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def span_of(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Half-open span of a ``Range`` header (RFC 9110 §14.1.2); None: the whole.

    Raises ValueError where it cannot be satisfied.
    """
    matched = _RANGE.fullmatch(header.strip()) if header else None
    if matched is None or matched.groups() == ("", ""):
        return None
    first, last = matched.groups()
    if not first:
        if int(last) == 0 or size_bytes == 0:
            raise ValueError("an empty range")
        return max(0, size_bytes - int(last)), size_bytes
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size_bytes:
        raise ValueError("past the end")
    return start, min(int(last) + 1, size_bytes) if last else size_bytes


class FileSpan(web.StreamResponse):
    """A span of a file, by sendfile where the connection can."""

    def __init__(
        self, path: Path, start: int, stop: int, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(status=status, headers=headers)
        self._path = path
        self._first = start
        self._last = stop
        self.content_length = stop - start

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send headers and bytes."""
        file = await asyncio.to_thread(self._path.open, "rb")
        try:
            writer = await super().prepare(request)
            count = self._last - self._first
            if request.method != "HEAD" and count and request.transport is not None:
                loop = asyncio.get_running_loop()
                await loop.sendfile(request.transport, file, self._first, count)
            await super().write_eof()
            return writer
        finally:
            file.close()


def content_response(
    request: web.Request, path: Path, sha256: str, size_bytes: int, filename: str, kind: str
) -> web.StreamResponse:
    """The answer to GET or HEAD of a content."""
    etag = f'"{sha256}"'
    name = filename.rpartition("/")[2].encode("utf-8", "replace")
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Type": kind,
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}",
        "Cache-Control": "private, max-age=604800, immutable",
    }
    if not _matches(request.headers.get("If-Match"), etag, default=True):
        return web.Response(status=412, headers={"ETag": etag})
    if _matches(request.headers.get("If-None-Match"), etag, default=False):
        return web.Response(status=304, headers={"ETag": etag})
    wanted = request.headers.get("Range")
    if request.headers.get("If-Range", etag) != etag:
        wanted = None
    try:
        span = span_of(wanted, size_bytes)
    except ValueError:
        return web.Response(
            status=416, headers={"Content-Range": f"bytes */{size_bytes}", "ETag": etag}
        )
    if span is None:
        return FileSpan(path, 0, size_bytes, 200, headers)
    start, stop = span
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
    return FileSpan(path, start, stop, 206, headers)


def _matches(header: str | None, etag: str, *, default: bool) -> bool:
    if header is None:
        return default
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags
