"""The connections that downloads and small uploads are spoken over, kept alive between requests.

`ConnectionPool.ask` sends a request over one of them, made where none is idle. How to connect
(which certificates to trust) is what requests would do in this environment; where it would go
through a proxy, and for a while to a server that has answered as only the library can read,
`speaks_to` says no, and the caller leaves the request to the library.

A server may close an idle connection at any time. One that it has closed already is not used; one
that it closes just when the next request is sent answers nothing, and the request, if it is a GET,
is sent again over a new one. What has a body changes something, and is sent once.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import requests
import urllib3.connection
import urllib3.exceptions

from artifactfs.remote.external_guard import CheckedPeers
from artifactfs.remote.http_connection import (
    HttpConnection,
    NotPlain,
    ResponseHead,
)
from artifactfs.remote.url import Url

MOST_IDLE_S = 60.0
LEFT_TO_LIBRARY_S = 60.0
MOST_ORIGINS = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a URL leads: what one connection serves. Those of external references are apart."""

    scheme: str
    host: str
    port: int
    is_external: bool = False

    @property
    def url(self) -> Url:
        """The root of what is there."""
        return Url(self.scheme, self.host, self.port, "/")


@dataclass(frozen=True, slots=True)
class _Route:
    """How to connect to an origin; `certificates` is a file or a directory."""

    is_direct: bool
    certificates: str
    left_to_library_until_s: float = 0.0


def first_lines(url: Url) -> str:
    """Return the first two lines of a request for `url`, but for its method."""
    return f"{url.target} HTTP/1.1\r\nHost: {url.netloc}\r\n"


class DirectResponse:
    """The answer to one request, and the connection that its body comes over. For one thread."""

    def __init__(
        self,
        url: Url,
        head: ResponseHead,
        origin: Origin,
        connection: HttpConnection,
        owner: ConnectionPool,
    ) -> None:
        self.url = url
        self.status_code = head.status_code
        self.reason = head.reason
        self.headers: Mapping[str, str] = head.headers
        self.length_bytes = head.length_bytes
        self._origin = origin
        self._connection = connection
        self._owner = owner
        self.readinto = connection.readinto
        self.is_arriving = connection.is_arriving
        self.shutdown = connection.shut_down

    def read(self, most_bytes: int) -> bytes:
        """The body, up to so many bytes."""
        body = memoryview(bytearray(min(most_bytes, self.length_bytes)))
        length = 0
        while count := self.readinto(body[length:]):
            length += count
        return bytes(body[:length])

    def close(self) -> None:
        """Give the connection back, or let go of it if the body was not read to its end."""
        self._owner.give_back(self._origin, self._connection)


class ConnectionPool:
    """See the module. `_lock` guards who is idle, who is busy, and what is known of origins."""

    def __init__(
        self,
        library: requests.Session,
        peers: CheckedPeers,
        connect_timeout_s: float,
        timeout_s: float,
        most_idle: int,
    ) -> None:
        self._library = library
        self._peers = peers
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._most_idle = most_idle
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[HttpConnection]] = {}
        self._busy: set[HttpConnection] = set()
        self._ways: dict[Origin, _Route] = {}
        self._closed = False

    def speaks_to(self, url: Url, *, external: bool) -> bool:
        """Whether a request for `url` can be sent directly."""
        way = self._way(Origin(*url.origin, external))
        return way.is_direct and time.monotonic() >= way.left_to_library_until_s

    def ask(
        self, method: str, url: Url, headers: Mapping[str, str], body: bytes, *, external: bool
    ) -> DirectResponse:
        """Send a request; if it is `external`, over connections whose other side was checked.

        Raises `NotPlain` when the library has to do it, and as `HttpConnection` does. A request
        with a body was carried out then, as far as anyone knows.
        """
        origin = Origin(*url.origin, external)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"{method} {first_lines(url)}{lines}\r\n".encode("latin-1") + body
        while True:
            connection = self._idle_one(origin)
            is_used = connection is not None
            connection = connection or self._connect(origin)
            try:
                self._begin(connection)
                return DirectResponse(url, connection.ask(request), origin, connection, self)
            except NotPlain:
                self._end(connection)
                self._leave_to_library(origin, LEFT_TO_LIBRARY_S if method == "GET" else math.inf)
                raise
            except (urllib3.exceptions.ProtocolError, ConnectionError):
                self._end(connection)
                if not is_used or method != "GET":
                    raise
            except BaseException:
                self._end(connection)
                raise

    def _begin(self, connection: HttpConnection) -> None:
        """From now on `close` ends its reading."""
        with self._lock:
            if self._closed:
                raise urllib3.exceptions.ProtocolError("the connections are closed")
            self._busy.add(connection)

    def _end(self, connection: HttpConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def give_back(self, origin: Origin, connection: HttpConnection) -> None:
        """Keep it for the next request, if it can be."""
        connection.drain()
        excess: HttpConnection | None = connection
        if connection.is_usable:
            connection.idle_since_s = time.monotonic()
            with self._lock:
                if not self._closed and (origin in self._idle or len(self._idle) < MOST_ORIGINS):
                    self._busy.discard(connection)
                    idle = self._idle.setdefault(origin, [])
                    idle.append(connection)
                    excess = idle.pop(0) if len(idle) > self._most_idle else None
        if excess is not None:
            self._end(excess)

    def close(self) -> None:
        """Close what is idle, cut off what is busy, also where an answer is still waited for."""
        with self._lock:
            self._closed = True
            idle = [one for some in self._idle.values() for one in some]
            self._idle.clear()
            for busy in self._busy:  # none of them can be closed while the lock is held
                busy.shut_down()
        for one in idle:
            one.close()

    def _idle_one(self, origin: Origin) -> HttpConnection | None:
        oldest_s = time.monotonic() - MOST_IDLE_S
        while True:
            with self._lock:
                idle = self._idle.get(origin)
                if not idle:
                    return None
                connection = idle.pop()
                if not idle:
                    del self._idle[origin]
            if connection.idle_since_s >= oldest_s and connection.is_usable:
                return connection
            connection.close()

    def _connect(self, origin: Origin) -> HttpConnection:
        way = self._way(origin)
        if origin.scheme == "http":
            plain = self._peers.plain if origin.is_external else urllib3.connection.HTTPConnection
            made = plain(origin.host, origin.port, timeout=self._connect_timeout_s)
        else:
            is_directory = Path(way.certificates).is_dir()
            secure = (
                self._peers.secure if origin.is_external else urllib3.connection.HTTPSConnection
            )
            made = secure(
                origin.host,
                origin.port,
                timeout=self._connect_timeout_s,
                cert_reqs=ssl.CERT_REQUIRED,
                ca_cert_dir=way.certificates if is_directory else None,
                ca_certs=None if is_directory else way.certificates,
            )
        return HttpConnection(made, self._timeout_s)

    def _way(self, origin: Origin) -> _Route:
        with self._lock:
            known = self._ways.get(origin)
        if known is not None:
            return known
        url = origin.url.text
        settings = self._library.merge_environment_settings(url, {}, True, None, None)
        proxy = requests.utils.select_proxy(url, settings["proxies"])
        verify = settings["verify"]
        certificates = verify if isinstance(verify, str) else requests.utils.DEFAULT_CA_BUNDLE_PATH
        way = _Route(proxy is None, certificates)
        with self._lock:
            if len(self._ways) >= MOST_ORIGINS:
                self._ways.clear()
            self._ways[origin] = way
        return way

    def _leave_to_library(self, origin: Origin, for_s: float) -> None:
        way = self._way(origin)
        until_s = time.monotonic() + for_s
        with self._lock:
            self._ways[origin] = replace(way, left_to_library_until_s=until_s)
