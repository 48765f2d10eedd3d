"""Ranges and conditions of a request (RFC 9110 §13 and §14). Pure.

The ETag is the SHA-256 of a content that never changes, so that every comparison is exact. One
range is answered by its bytes; several, or what is no range, by the whole, which the standard
leaves open. Dates in conditions never match: there are none to compare them with.

Sends a content: what ``range_response`` chose of it, the bytes by sendfile.

A small piece is read at once and leaves with its headers in one packet; anything larger goes from
the page cache to the socket without passing through Python.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from artifactfs.server.responses import Refusal, disposition

_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)
_TAGS = re.compile(r'(W/)?"([^"]*)"')
_MOST_DIGITS = 18


class Unsatisfiable(Exception):
    """The range has no byte of the content: 416."""


@dataclass(frozen=True, slots=True)
class RangePart:
    """What is to be sent: the half-open span, and whether it is an answer to a range."""

    start: int
    stop: int
    partial: bool


def part_of(headers: Mapping[str, str], etag: str, size_bytes: int) -> RangePart:
    """What a GET with these headers gets. Raises `Unsatisfiable`."""
    whole = RangePart(0, size_bytes, False)
    if headers.get("If-Range", etag).strip() != etag:
        return whole
    matched = _RANGE.fullmatch(headers.get("Range", "").strip())
    if matched is None or matched.groups() == ("", ""):
        return whole
    first, last = matched.groups()
    if not first:
        count = min(_number(last), size_bytes)
        if not count:
            raise Unsatisfiable
        return RangePart(size_bytes - count, size_bytes, True)
    start, end = _number(first), _number(last) if last else size_bytes
    if end < start:
        if last:
            return whole
        raise Unsatisfiable
    if start >= size_bytes:
        raise Unsatisfiable
    return RangePart(start, min(end + 1, size_bytes), True)


def not_modified(headers: Mapping[str, str], etag: str) -> bool:
    """Whether ``If-None-Match`` names what is there: 304. Weak tags count."""
    return _names(headers.get("If-None-Match", ""), etag, weak=True)


def precondition_fails(headers: Mapping[str, str], etag: str) -> bool:
    """Whether ``If-Match`` does not name what is there: 412. Weak tags do not count."""
    wanted = headers.get("If-Match")
    return wanted is not None and not _names(wanted, etag, weak=False)


def _names(header: str, etag: str, *, weak: bool) -> bool:
    if header.strip() == "*":
        return True
    return any(f'"{tag}"' == etag for mark, tag in _TAGS.findall(header) if weak or not mark)


def _number(digits: str) -> int:
    """A number however many digits it has; one beyond every size stays beyond."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


AT_ONCE_BYTES = 128 << 10


class FileSpan(web.StreamResponse):
    """A span of a file, which is closed when it is sent."""

    def __init__(self, file: FileIO, part: RangePart, status: int, headers: dict[str, str]) -> None:
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
    part = RangePart(0, size_bytes, False)
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
