"""The service's own URLs as a client sees them.

They begin with what the client itself has asked for, so that they work through any address that
leads here, unless ``public_url`` says otherwise. With a port of its own the object store is another
origin: the calls are not answered there, nor objects here, as with a service that keeps its bytes
elsewhere.
"""

from __future__ import annotations

from aiohttp import web

from artifactfs.controller.answers import not_found


class Urls:
    """Makes URLs. `objects_port` is set once, before the first request."""

    def __init__(self, public_url: str | None) -> None:
        self._public_url = public_url.rstrip("/") if public_url else None
        self.objects_port: int | None = None

    def object(self, request: web.Request, path: str) -> str:
        """The absolute URL of `path` at the object store."""
        if self._public_url is not None:
            return self._public_url + path
        if self.objects_port is None:
            return f"{request.scheme}://{request.host}{path}"
        host = request.url.host or "127.0.0.1"
        host = f"[{host}]" if ":" in host else host
        return f"{request.scheme}://{host}:{self.objects_port}{path}"

    def check_origin(self, request: web.Request) -> None:
        """Raise `Refusal` 404 for a call at the object store, or an object that is not there."""
        if self.objects_port is None or request.transport is None:
            return
        port = request.transport.get_extra_info("sockname")[1]
        if request.path.startswith("/objects/") != (port == self.objects_port):
            raise not_found(request.path)
