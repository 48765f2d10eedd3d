"""Presigned URLs of the service's own object store.

A URL carries what it is good for (a method and a key, with the part's number), until when, and an
HMAC-SHA256 over all of it. The object store needs to know nothing else, and takes no token: one
that is sent is refused, because a client must not carry it there.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import urlencode

from aiohttp import web

from artifactfs.controller.answers import Refusal


class Signer:
    """Makes and checks URLs below ``/objects/``."""

    def __init__(self, secret: bytes, lifetime_s: float) -> None:
        self._secret = secret
        self._lifetime_s = lifetime_s

    def expires(self) -> float:
        """Until when a URL that is made now is good, in seconds since the epoch."""
        return time.time() + self._lifetime_s

    def path(self, method: str, key: str) -> str:
        """A path with its query, good for `method` on `key` from now on."""
        expires = f"{self.expires():.3f}"
        query = urlencode({"expires": expires, "signature": self._sign(method, key, expires)})
        return f"/objects/{key}?{query}"

    def check(self, request: web.Request, method: str, key: str) -> None:
        """Raise `Refusal` unless the request's URL is good."""
        if "Authorization" in request.headers:
            raise Refusal(
                400,
                "two_credentials",
                "a presigned URL takes no token, and none may be sent to it",
                "send the request without Authorization",
            )
        expires = request.query.get("expires", "")
        given = request.query.get("signature", "").encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(given, self._sign(method, key, expires).encode()):
            raise Refusal(403, "signature_mismatch", "the URL's signature does not match")
        if time.time() > float(expires):
            raise Refusal(403, "expired", "the URL has expired", "ask for a new one")

    def _sign(self, method: str, key: str, expires: str) -> str:
        text = f"{method}\n{key}\n{expires}".encode("utf-8", "surrogatepass")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
