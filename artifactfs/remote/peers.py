"""Connections that look at whom they have reached before they say anything.

A name can be looked up twice and lead to two places: its owner answers the check with a public
address and the connection, a moment later, with one of the user's own network. So for references to
external URLs the check of the name (``external``) is not enough: here the address that the socket
is connected to is looked at, before a request or the first word of TLS is sent over it.

`CheckedPeers` has the connections for those who connect themselves (``connections``), and `adapter`
gives requests the same ones. Through a proxy it is the proxy that connects: then only the name was
checked, and what the proxy may reach is the matter of who runs it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import requests.adapters
import urllib3
import urllib3.connection

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
