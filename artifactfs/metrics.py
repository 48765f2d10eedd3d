"""``metrics.prom`` over HTTP, for a Prometheus that scrapes (``metrics.listen``).

One thread answers one request after the other: who scrapes comes every few seconds, and whoever
sends slowly is cut off after `PATIENCE_S`. There is one page, ``/metrics``, made anew for each
request; ``/`` says where it is. The listener is bound when it is made, so that an address that is
taken fails the mount with a reason instead of leaving it without metrics.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from typing import Self

from artifactfs import __version__
from artifactfs.errors import MountError

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PATIENCE_S = 5.0

_log = logging.getLogger(__name__)


class MetricsServer:
    """Hands `text` to whoever asks at `address` (``host:port``), while its ``with`` block runs.

    Raises `MountError` if it cannot listen there.
    """

    def __init__(self, address: str, text: Callable[[], bytes]) -> None:
        host, _, port = address.rpartition(":")
        try:
            self._server = _HttpServer(host.strip("[]"), int(port), text)
        except OSError as error:
            raise MountError(
                f"metrics cannot be served at {address}: {error.strerror or error}",
                remedy="choose another address with metrics.listen",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is listened on, also where 0 was asked for."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        _log.info("metrics are at http://%s:%d/metrics", self._server.host, self.port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _HttpServer(HTTPServer):
    def __init__(self, host: str, port: int, text: Callable[[], bytes]) -> None:
        self.text = text
        self.host = f"[{host}]" if ":" in host else host
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _MetricsHandler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away or sent nothing is nobody's trouble."""
        _ = request
        _log.debug("no metrics for %s", client_address, exc_info=True)


class _MetricsHandler(BaseHTTPRequestHandler):
    timeout = PATIENCE_S
    server_version = f"artifactfs/{__version__}"
    server: _HttpServer

    def do_GET(self) -> None:
        """``/metrics`` and ``/``."""
        if self.path.partition("?")[0] == "/metrics":
            self._send(200, CONTENT_TYPE, self.server.text())
        elif self.path == "/":
            self._send(200, "text/plain; charset=utf-8", b"artifactfs: see /metrics\n")
        else:
            self.send_error(404)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Who scrapes is not logged."""
