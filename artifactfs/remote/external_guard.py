"""Whether an external URL may be read at all.

A listing is someone else's data: without this check, an artifact that refers to
``http://192.168.1.1/`` would make the mount probe its user's network. So references to addresses
that are not global are refused, unless `external.allow_private` says otherwise or the service
itself lies on such an address (then everything is private anyway). Looked at are the addresses that
the name resolves to right before the request, and then the one that was connected to
(``external_guard``), because a name may resolve to another one then.

Connections that look at whom they have reached before they say anything.

A name can be looked up twice and lead to two places: its owner answers the check with a public
address and the connection, a moment later, with one of the user's own network. So for references to
external URLs the check of the name (``external_guard``) is not enough: here the address that the
socket is connected to is looked at, before a request or the first word of TLS is sent over it.

`CheckedPeers` has the connections for those who connect themselves (``connection_pool``), and
`adapter` gives requests the same ones. Through a proxy it is the proxy that connects: then only the
name was checked, and what the proxy may reach is the matter of who runs it.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import requests.adapters
import urllib3
import urllib3.connection

from artifactfs.errors import Refused, Unreachable
from artifactfs.remote.retry import Transient
from artifactfs.remote.url import Url

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressGuard:
    """Checks targets of external references."""

    def __init__(self, service: Url, *, allow_private: bool) -> None:
        self._service = service
        self._allow_private = allow_private
        self._service_private: bool | None = None

    def check(self, url: Url) -> None:
        """Raise `Refused` if `url` must not be read."""
        if not self._allow_private and any(map(_is_private, _addresses(url))):
            self._refuse_unless_all_is_private(url.host)

    def check_peer(self, address: str) -> None:
        """Raise `Refused` if nothing must be sent to this address."""
        if not self._allow_private and _is_private(address):
            self._refuse_unless_all_is_private(address)

    def _refuse_unless_all_is_private(self, where: str) -> None:
        if self._service_private is None:
            self._service_private = any(map(_is_private, _addresses(self._service)))
        if not self._service_private:
            raise Refused(
                f"the external reference leads to {where}, a private address",
                remedy="set external.allow_private if you trust it",
            )


def _addresses(url: Url) -> list[str]:
    try:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        unknown = Unreachable(f"{url.host} is not known: {error}")
        raise Transient(unknown) from error
    return [str(one[4][0]) for one in found]


def _is_private(address: str) -> bool:
    """Whether it is not global, or is a way to write an IPv4 address that is not."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None and not inner.is_global:
            return True
        if parsed.ipv4_mapped is not None:
            return False
    return not parsed.is_global or parsed.is_multicast


CheckPeer = Callable[[str], None]


class CheckedPeers:
    """Classes of connections; `check` gets the address of the other side and may raise."""

    def __init__(self, check: CheckPeer) -> None:
        def checked(made: socket.socket) -> socket.socket:
            try:
                check(str(made.getpeername()[0]))
            except BaseException:
                made.close()
                raise
            return made

        class Plain(urllib3.connection.HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return checked(super()._new_conn())

        class Secure(urllib3.connection.HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return checked(super()._new_conn())

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Secure

        self.plain: type[urllib3.connection.HTTPConnection] = Plain
        self.secure: type[urllib3.connection.HTTPSConnection] = Secure
        self._pools = {"http": PlainPool, "https": SecurePool}

    def adapter(self, **settings: Any) -> requests.adapters.HTTPAdapter:
        """An adapter of requests whose connections are checked."""
        adapter = requests.adapters.HTTPAdapter(**settings)
        adapter.poolmanager.pool_classes_by_scheme = self._pools
        return adapter
