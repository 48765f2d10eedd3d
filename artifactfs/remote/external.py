"""Whether an external URL may be read at all.

A listing is someone else's data: without this check, an artifact that refers to
``http://192.168.1.1/`` would make the mount probe its user's network. So references to addresses
that are not global are refused, unless `external.allow_private` says otherwise or the service
itself lies on such an address (then everything is private anyway). The addresses are those that the
name resolves to right before the request.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from artifactfs.errors import Refused, Unreachable
from artifactfs.remote.retry import Transient


class AddressGuard:
    """Checks targets of external references."""

    def __init__(self, service_url: str, *, allow_private: bool) -> None:
        self._service_url = service_url
        self._allow_private = allow_private
        self._service_private: bool | None = None

    def check(self, url: str) -> None:
        """Raise `Refused` if `url` must not be read."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(f"the external reference {url!r} is no http or https URL")
        if self._allow_private or not _has_private_address(url):
            return
        if self._service_private is None:
            self._service_private = _has_private_address(self._service_url)
        if not self._service_private:
            raise Refused(
                f"the external reference leads to {parts.hostname}, a private address",
                remedy="set external.allow_private if you trust it",
            )


def _has_private_address(url: str) -> bool:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        unknown = Unreachable(f"{parts.hostname} is not known: {error.strerror}")
        raise Transient(unknown) from error
    return any(
        not ipaddress.ip_address(str(one[4][0]).partition("%")[0]).is_global for one in found
    )
