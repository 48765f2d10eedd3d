"""Errors as the contract words them, and JSON in both directions.

Every error of the service is a `Refusal`, or becomes one in ``app``: status, a code for programs,
words and an action for people, in ``{"error": {…}}``.

A client that asks ``Expect: 100-continue`` is told to go on when its body is wanted, not before, so
that whoever is refused (no token, too large) has sent nothing.

File names on their way through HTTP. Pure.

A name is bytes inside the service: nearly always UTF-8, but nothing forbids others. As text, lone
surrogates stand for what is no character (and JSON writes them as ``\\udcXX``).

In ``X-Artifact-Filename`` a name is Latin-1, as all header values are, or else percent-encoded
UTF-8. It counts as encoded if it is ASCII and every ``%`` begins an escape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from aiohttp import HttpVersion11, web

MOST_JSON_BYTES = 8 << 20
WENT_ON = web.RequestKey("went_on", bool)

_HASH = re.compile(r"[0-9a-f]{64}")


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        action: str = "",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.action = action
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        """The answer."""
        body = {"code": self.code, "message": str(self), "recommended_action": self.action}
        return web.json_response({"error": body}, status=self.status, headers=self.headers)


def not_found(what: str, action: str = "") -> Refusal:
    """404."""
    return Refusal(404, "not_found", f"{what} was not found", action)


def invalid(message: str) -> Refusal:
    """422 for a field that cannot be."""
    return Refusal(422, "invalid_field", message, "correct the request")


def storage_full() -> Refusal:
    """507."""
    return Refusal(507, "storage_full", "the service's disk is full", "try again later")


async def wait_with_body(_: web.Request) -> None:
    """What aiohttp calls for ``Expect``: nothing yet, see `go_on`."""


def expects(request: web.Request) -> bool:
    """Whether the client waits for leave to send its body, and has none yet."""
    wanted = request.headers.get("Expect", "").lower() == "100-continue"
    return wanted and request.version >= HttpVersion11 and not request.get(WENT_ON, False)


def go_on(request: web.Request) -> None:
    """Let the client send its body, if it waits for that. Before every reading of one."""
    if expects(request) and request.transport is not None:
        request[WENT_ON] = True
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def json_body(request: web.Request, most_bytes: int = MOST_JSON_BYTES) -> dict[str, Any]:
    """The request's JSON object. Raises `Refusal` if it is none, or larger than `most_bytes`."""
    too_large = Refusal(413, "too_large", f"a JSON body has {most_bytes} bytes at most")
    if (request.content_length or 0) > most_bytes:
        raise too_large
    go_on(request)
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > most_bytes:
            raise too_large
    try:
        document = json.loads(bytes(body) or b"{}")
    except (ValueError, RecursionError):
        raise Refusal(400, "invalid_json", "the body is not JSON") from None
    if not isinstance(document, dict):
        raise Refusal(400, "invalid_json", "the body is not a JSON object")
    return document


def required(document: Mapping[str, Any], key: str, kind: type) -> Any:
    """A field of the request. Raises `Refusal` that names it."""
    value = document.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise invalid(f"{key} is missing or is no {kind.__name__}")
    return value


def sha256_in(document: Mapping[str, Any]) -> str:
    """The field ``sha256``. Raises `Refusal`."""
    digest: str = required(document, "sha256", str).lower()
    if not _HASH.fullmatch(digest):
        raise invalid("sha256 is not 64 hex digits")
    return digest


def size_in(document: Mapping[str, Any]) -> int:
    """The field ``size``, in bytes. Raises `Refusal`."""
    size: int = required(document, "size", int)
    if not 0 <= size < 1 << 62:
        raise invalid("size is not a number of bytes")
    return size


def number_in(query: Mapping[str, str], key: str, default: int, least: int = 0) -> int:
    """A whole number of a query string. Raises `Refusal`."""
    text = query.get(key, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < least:
        raise Refusal(400, "invalid_field", f"{key} is no number that can be")
    return int(text)


def iso(epoch_s: float) -> str:
    """A time as the contract writes it, exact to the microsecond."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_ENCODED = re.compile(r"(?:[\x20-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")
_UNQUOTABLE = re.compile(r'[^\x20-\x7e]|["\\%]')


def text_of(filename: bytes) -> str:
    """A name as text; what is no UTF-8 becomes lone surrogates."""
    try:
        return filename.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return filename.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """A name out of JSON, lone surrogates and all."""
    return text.encode("utf-8", "surrogatepass")


def header_filename(value: str) -> bytes:
    """The name in ``X-Artifact-Filename``, as aiohttp hands the header out.

    That is: decoded as UTF-8, with surrogates for what is none.
    """
    text = value.encode("utf-8", "surrogateescape").decode("latin-1")
    if "%" in text and _ENCODED.fullmatch(text):
        return unquote_to_bytes(text)
    return text.encode()


def disposition(filename: str) -> str:
    """``Content-Disposition`` for saving under this name's last component (RFC 6266, RFC 8187)."""
    name = filename.rpartition("/")[2] or "artifact"
    plain = _UNQUOTABLE.sub("_", name)
    quoted = f'attachment; filename="{plain}"'
    if plain == name.strip():  # blanks at the ends do not survive in quotes everywhere
        return quoted
    encoded = quote(name.encode("utf-8", "surrogatepass").decode("utf-8", "replace"), safe="")
    return f"{quoted}; filename*=UTF-8''{encoded}"
