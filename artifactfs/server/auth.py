"""Who asks: tokens, accounts and roles.

``member`` may do everything in its account, ``viewer`` may read, ``dev`` is a member who may also
use ``/api/v1/_dev/``. The service's own token is a dev of the account ``default``; it is what the
service was started with, and stands nowhere. Other tokens are added by ``_dev/tokens``; the index
keeps their SHA-256 only.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from aiohttp import web

from artifactfs.server.database import AnyDatabase
from artifactfs.server.responses import Refusal, invalid

ACCOUNT = "default"
ROLES = ("member", "viewer", "dev")


@dataclass(frozen=True, slots=True)
class Account:
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

    def owns(self, account: str, what: str) -> None:
        """Raise `Refusal` if `what` belongs to another account."""
        if self.account != account:
            raise Refusal(
                403, "forbidden", f"{what} belongs to another account", "use that account's token"
            )


def make_token() -> str:
    """A new API key."""
    return "flk_" + secrets.token_urlsafe(24)


class Authenticator:
    """Finds the caller of a request."""

    def __init__(self, index: AnyDatabase, token: str) -> None:
        self._index = index
        self._own = _digest(token)

    async def add(self, token: str, account: str, role: str) -> None:
        """Let `token` act in `account`. Raises `Refusal`."""
        digest = _digest(token)
        if role not in ROLES:
            raise invalid(f"role is one of {', '.join(ROLES)}")
        if digest == self._own:
            raise invalid("the service's own token is what it is")
        await self._index.execute(
            "INSERT INTO tokens VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE"
            " SET account = excluded.account, role = excluded.role",
            digest,
            account,
            role,
        )

    async def remove(self, token: str) -> None:
        """Forget `token`. Raises `Refusal` for the service's own."""
        digest = _digest(token)
        if digest == self._own:
            raise invalid("the service's own token cannot be removed")
        await self._index.execute("DELETE FROM tokens WHERE digest = ?", digest)

    def caller(self, request: web.Request) -> Account:
        """Who asks. Raises `Refusal` 401."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        caller = None
        if scheme.lower() == "bearer":
            caller = self._named(_digest(token.strip()))
        if caller is None:
            raise Refusal(
                401,
                "unauthorized",
                "the token is missing or not valid",
                "check the token",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return caller

    def _named(self, digest: str) -> Account | None:
        if digest == self._own:
            return Account(ACCOUNT, "dev")
        row = self._index.one("SELECT account, role FROM tokens WHERE digest = ?", digest)
        return Account(*row) if row else None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
