"""A server that sends exactly the bytes that a test has written down for each request."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from tests.listening import Listening, requests

Reply = Callable[[socket.socket, str], bool]
"""Answers a request, whose head it is given; whether the connection goes on."""


def sends(*pieces: bytes, goes_on: bool = True) -> Reply:
    """A reply of these bytes, each piece in a packet of its own."""

    def reply(connection: socket.socket, _head: str) -> bool:
        for piece in pieces:
            connection.sendall(piece)
        return goes_on

    return reply


class Scripted(Listening):
    """The server; use it in a ``with`` block.

    Each request takes the next of `replies`, the last one again and again. `heads` and `bodies` are
    those of the requests, and `accepted` counts the connections.
    """

    def __init__(
        self, *replies: Reply, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(host, tls)
        self.replies = list(replies)
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    def converse(self, connection: socket.socket) -> None:
        for head, body in requests(connection):
            self.heads.append(head)
            self.bodies.append(body)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            if not reply(connection, head):
                return
