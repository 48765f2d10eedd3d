"""The service's own URLs as a client sees them.

They begin with what the client itself has asked for, so that they work through any address that
leads here, unless ``public_url`` says otherwise. With a port of its own the object store is another
origin: the calls are not answered there, nor objects here, as with a service that keeps its bytes
elsewhere.
"""

from __future__ import annotations

import re

from aiohttp import web

from artifactfs.controller.answers import Refusal, not_found

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
