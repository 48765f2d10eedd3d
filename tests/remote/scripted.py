"""A server that sends exactly the bytes that a test has written down for each request."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Reply = Callable[[socket.socket, str], bool]
"""Answers a request, whose head it is given; whether the connection goes on."""


def sends(*pieces: bytes, goes_on: bool = True) -> Reply:
    """A reply of these bytes, each piece in a packet of its own."""

    def reply(connection: socket.socket, _head: str) -> bool:
        for piece in pieces:
            connection.sendall(piece)
        return goes_on

    return reply


class Scripted:
    """The server; use it in a ``with`` block.

    Each request takes the next of `replies`, the last one again and again. `heads` are the requests
    and `accepted` counts the connections.
    """

    def __init__(
        self, *replies: Reply, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family)
        self.port = int(self._listening.getsockname()[1])
        scheme, shown = "https" if tls else "http", f"[{host}]" if ":" in host else host
        self.url = f"{scheme}://{shown}:{self.port}"
        self.replies = list(replies)
        self.heads: list[str] = []
        self.accepted = 0
        self._tls = tls
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join()
        for connection in self._open:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._converse, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _converse(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._tls.wrap_socket(plain, server_side=True) if self._tls else plain
            with connection:
                self._open.append(connection)
                held = b""
                while True:
                    while b"\r\n\r\n" not in held:
                        more = connection.recv(65536)
                        if not more:
                            return
                        held += more
                    head, _, held = held.partition(b"\r\n\r\n")
                    self.heads.append(head.decode("latin-1"))
                    reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                    if not reply(connection, self.heads[-1]):
                        return
