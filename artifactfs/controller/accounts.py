"""Who asks: tokens, accounts and roles.

A token is known by its SHA-256 only. ``member`` may do everything in its account, ``viewer`` may
read, ``dev`` is a member who may also use ``/api/v1/_dev/``.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from aiohttp import web

from artifactfs.controller.answers import Refusal
from artifactfs.controller.index import Index

ROLES = ("member", "viewer", "dev")


@dataclass(frozen=True, slots=True)
class Caller:
    """An account and what may be done in it."""

    account: str
    role: str

    def may_write(self) -> None:
        """Raise `Refusal` for a viewer."""
        if self.role == "viewer":
            raise Refusal(403, "forbidden", "a viewer may not do this", "ask for a member's token")

    def may_direct(self) -> None:
        """Raise `Refusal` for everyone but a dev."""
        if self.role != "dev":
            raise Refusal(403, "forbidden", "only the service's own token may do this")


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_token() -> str:
    """A new API key."""
    return "flk_" + secrets.token_urlsafe(24)


class Accounts:
    """Finds the caller of a request."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def add(self, token: str, account: str, role: str) -> None:
        """Let `token` act in `account`."""
        if role not in ROLES:
            raise Refusal(422, "invalid_field", f"role is one of {', '.join(ROLES)}")
        self._index.write(
            "INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", (digest(token), account, role)
        )

    def remove(self, token: str) -> None:
        """Forget `token`."""
        self._index.write("DELETE FROM tokens WHERE digest = ?", (digest(token),))

    def caller(self, request: web.Request) -> Caller:
        """Who asks. Raises `Refusal` 401."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        row = None
        if scheme.lower() == "bearer" and token:
            row = self._index.one(
                "SELECT account, role FROM tokens WHERE digest = ?", (digest(token.strip()),)
            )
        if row is None:
            raise Refusal(
                401, "unauthorized", "the token is missing or not valid", "check the token"
            )
        return Caller(*row)
