"""Presigned URLs of the service's own object store.

A URL carries what it is good for (a method and a key, with the part's number), until when, and an
HMAC-SHA256 over all of it. The object store needs to know nothing else, and takes no token: one
that is sent is refused, because a client must not carry it there.

The service's own URLs as a client sees them.

They begin with what the client itself has asked for, so that they work through any address that
leads here, unless ``public_url`` says otherwise. With a port of its own the object store is another
origin: the calls are not answered there, nor objects here, as with a service that keeps its bytes
elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from urllib.parse import urlencode

from aiohttp import web

from artifactfs.server.responses import Refusal, not_found


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


_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?P<port>:[0-9]{1,5})?")


class Urls:
    """Makes URLs. `objects_port` is set once, before the first request."""

    def __init__(self, public_url: str | None) -> None:
        self._public_url = public_url.rstrip("/") if public_url else None
        self.objects_port: int | None = None

    def object(self, request: web.Request, path: str) -> str:
        """The absolute URL of `path` at the object store. Raises `Refusal` for no usable Host."""
        if self._public_url is not None:
            return self._public_url + path
        asked = _HOST.fullmatch(request.host)
        if asked is None:
            raise Refusal(400, "bad_request", "the Host header names no host")
        port = asked["port"] if self.objects_port is None else f":{self.objects_port}"
        return f"{request.scheme}://{asked['name']}{port or ''}{path}"

    def check_origin(self, request: web.Request) -> None:
        """Raise `Refusal` 404 for a call at the object store, or an object that is not there."""
        if self.objects_port is None or request.transport is None:
            return
        port = request.transport.get_extra_info("sockname")[1]
        if request.path.startswith("/objects/") != (port == self.objects_port):
            raise not_found(request.path)
