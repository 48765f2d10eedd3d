"""Errors as the contract words them, and JSON in both directions."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

MOST_BODY_BYTES = 512 << 20


class Refusal(Exception):
    """An answer that is an error: `status`, a code for programs, words and an action for people."""

    def __init__(self, status: int, code: str, message: str, action: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.action = action

    def response(self) -> web.Response:
        """The answer."""
        body = {"code": self.code, "message": str(self), "recommended_action": self.action}
        return web.json_response({"error": body}, status=self.status)


def not_found(what: str) -> Refusal:
    """404."""
    return Refusal(404, "not_found", f"{what} was not found")


async def json_body(request: web.Request) -> dict[str, Any]:
    """The request's JSON object. Raises `Refusal` if it is none."""
    try:
        document = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError):
        raise Refusal(400, "invalid_json", "the body is not JSON") from None
    if not isinstance(document, dict):
        raise Refusal(400, "invalid_json", "the body is not a JSON object")
    return document


def required(document: dict[str, Any], key: str, kind: type) -> Any:
    """A field of the request. Raises `Refusal` that names it."""
    value = document.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Refusal(422, "invalid_field", f"{key} is missing or is no {kind.__name__}")
    return value


def iso(epoch_s: float) -> str:
    """A time as the contract writes it."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
