"""What the servers that tests are served by have in common: a port, threads, and an end.

`Listening` takes a port of its own on loopback. In its ``with`` block one thread accepts
connections and each of them is answered in a thread of its own, by whatever `converse` says on it.
At the end nobody is waited for who is still talking: `closing` is set, for those who wait for
something else, every connection is shut, and all threads have ended when the block has.

It knows nothing of HTTP but where a request ends (`requests`).
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self


class Listening:
    """A server; use it in a ``with`` block. `accepted` counts its connections.

    `_lock` guards which of them are open and which threads answer; a subclass may guard more by it.
    """

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=256)
        self.port = int(self._listening.getsockname()[1])
        scheme, shown = "https" if tls else "http", f"[{host}]" if ":" in host else host
        self.url = f"{scheme}://{shown}:{self.port}"
        self.accepted = 0
        self.closing = threading.Event()
        self._tls = tls
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._accepting = threading.Thread(target=self._accept, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def converse(self, connection: socket.socket) -> None:
        """Answer what comes on this connection; an `OSError` ends it. It is closed afterwards."""
        raise NotImplementedError

    def end(self) -> None:
        """Shut what is open, and see the threads end."""
        self.closing.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join()
        with self._lock:
            connections, threads = list(self._open), list(self._threads)
        for connection in connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # and no word of TLS
        for thread in threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._answer_on, args=(connection,), name="answers")
            with self._lock:
                self._open.add(connection)
                self._threads.add(thread)
            thread.start()

    def _answer_on(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    connection = secured = self._secured(connection, self._tls)
                    secured.do_handshake()
                self.converse(connection)
        finally:
            connection.close()
            with self._lock:
                self._open.discard(connection)
                self._threads.discard(threading.current_thread())

    def _secured(self, plain: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        """The same connection with TLS, which takes its place before anything is said."""
        with self._lock:
            self._open.discard(plain)
            secured = tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            self._open.add(secured)
            if self.closing.is_set():  # and the others perhaps shut already
                secured.close()
        return secured


def requests(connection: socket.socket) -> Iterator[tuple[str, bytes]]:
    """The head and the body, if its length is said, of each request that comes on a connection."""
    held = b""
    while True:
        length = 0
        while b"\r\n\r\n" not in held or len(held.partition(b"\r\n\r\n")[2]) < length:
            more = connection.recv(1 << 16)
            if not more:
                return
            held += more
            said = re.search(rb"content-length: *(\d+)", held.partition(b"\r\n\r\n")[0].lower())
            length = int(said[1]) if said is not None else 0
        head, _, held = held.partition(b"\r\n\r\n")
        body, held = held[:length], held[length:]
        yield head.decode("latin-1"), body


def heads(connection: socket.socket) -> Iterator[str]:
    """The head of each request that comes on a connection."""
    return (head for head, _ in requests(connection))
