"""What is sent: a file, or a span of one, that can be opened again for each attempt."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from artifactfs.errors import Cancelled
from artifactfs.spans import Span

Progress = Callable[[int], None]


class Body(Protocol):
    """A re-openable body of a known size."""

    @property
    def size_bytes(self) -> int:
        """How many bytes `open` gives."""
        ...

    def open(self) -> BinaryIO:
        """A fresh reader of exactly that many bytes; whoever opens it closes it."""
        ...


@dataclass(frozen=True, slots=True)
class FileBody:
    """The bytes `span` of a local file."""

    path: Path
    span: Span

    @property
    def size_bytes(self) -> int:
        return len(self.span)

    def open(self) -> BinaryIO:
        file = self.path.open("rb", buffering=0)
        file.seek(self.span.start)
        return io.BufferedReader(_Bounded(file, len(self.span)), 1 << 20)


class _Bounded(io.RawIOBase):
    """At most `size_bytes` of what follows in `file`. For one thread."""

    def __init__(self, file: io.FileIO, size_bytes: int) -> None:
        self._file = file
        self._left_bytes = size_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(memoryview(buffer)[: self._left_bytes]) or 0
        self._left_bytes -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class Sending:
    """A body on its way: reports progress, stops when cancelled. What ``requests`` reads from."""

    def __init__(
        self, body: Body, progress: Progress | None, cancelled: threading.Event | None
    ) -> None:
        self._file = body.open()
        self._size_bytes = body.size_bytes
        self._progress = progress
        self._cancelled = cancelled
        self._sent_bytes = 0

    def __len__(self) -> int:
        return self._size_bytes

    def read(self, size: int = -1) -> bytes:
        """The next bytes; larger pieces than the library asks for, which sends what it gets."""
        if self._cancelled is not None and self._cancelled.is_set():
            raise Cancelled("the upload was given up")
        piece = self._file.read(max(size, 1 << 18) if size >= 0 else -1)
        self._sent_bytes += len(piece)
        if self._progress is not None:
            self._progress(self._sent_bytes)
        return piece

    def close(self) -> None:
        """Close the file."""
        self._file.close()
