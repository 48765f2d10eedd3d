"""What is sent: a file, or a span of one, that can be opened again for each attempt.

The bytes of a file need not pass through Python: what ``requests`` is given to send are `FileRange`
objects, and the connection (`PlainConnection`) hands such a piece to the kernel (``sendfile``).
Whoever does not know them, as a connection through TLS, reads from them as from any file.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection

from artifactfs.byte_range import ByteRange
from artifactfs.errors import Cancelled

PIECE_BYTES = 512 << 10

Progress = Callable[[int], None]


class RequestBody(Protocol):
    """A re-openable body of a known size."""

    @property
    def size_bytes(self) -> int:
        """How many bytes there are."""
        ...

    def open(self) -> BinaryIO:
        """The file, positioned at the first of them; whoever opens it closes it."""
        ...


@dataclass(frozen=True, slots=True)
class FileBody:
    """The bytes `span` of a local file."""

    path: Path
    span: ByteRange

    @property
    def size_bytes(self) -> int:
        return len(self.span)

    def open(self) -> BinaryIO:
        file = io.FileIO(self.path)
        file.seek(self.span.start)
        return file


class FileRange:
    """The next `size_bytes` of an open file: a readable object, or work for the kernel."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._left_bytes = size_bytes

    def __len__(self) -> int:
        return self._left_bytes

    def read(self, size: int = -1) -> bytes:
        """At most that many of the bytes that are left."""
        count = self._left_bytes if size < 0 else min(size, self._left_bytes)
        piece = self._file.read(count)
        self._left_bytes -= len(piece)
        if not piece and count:
            raise ConnectionError("the file became shorter while it was sent")
        return piece

    def send_to(self, connection: Any) -> None:
        """Have the kernel send it. Raises `OSError`."""
        sent = connection.sendfile(self._file, self._file.tell(), self._left_bytes)
        if sent != self._left_bytes:
            raise ConnectionError("the file became shorter while it was sent")
        self._left_bytes = 0


class SendProgress:
    """A body on its way: reports progress, stops when cancelled. What ``requests`` reads from."""

    def __init__(
        self, body: RequestBody, progress: Progress | None, cancelled: threading.Event | None
    ) -> None:
        self._file = body.open()
        self._size_bytes = body.size_bytes
        self._progress = progress
        self._cancelled = cancelled
        self._sent_bytes = 0

    def __len__(self) -> int:
        return self._size_bytes

    def read(self, size: int = -1) -> FileRange | bytes:
        """The next piece, however small a one was asked for: the library sends what it gets."""
        _ = size
        if self._cancelled is not None and self._cancelled.is_set():
            raise Cancelled("the upload was given up")
        count = min(PIECE_BYTES, self._size_bytes - self._sent_bytes)
        self._sent_bytes += count
        if self._progress is not None:
            self._progress(self._sent_bytes)
        return FileRange(self._file, count) if count else b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PlainConnection(HTTPConnection):
    """A connection without TLS, through which the kernel sends files."""

    def send(self, data: Any) -> None:
        """Send a piece of a file, or what every connection can send."""
        if isinstance(data, FileRange) and self.sock is not None:
            data.send_to(self.sock)
        else:
            super().send(data)


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = PlainConnection


class Adapter(requests.adapters.HTTPAdapter):
    """What ``requests`` sends with: its own, but for connections without TLS."""

    def init_poolmanager(self, *words: Any, **more: Any) -> None:
        """Called once, by the library."""
        super().init_poolmanager(*words, **more)
        self.poolmanager.pool_classes_by_scheme = {
            **self.poolmanager.pool_classes_by_scheme,
            "http": _PlainPool,
        }
