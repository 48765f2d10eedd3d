"""A source of bytes in memory, with faults, at the seam where downloads come from."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from artifactfs.byte_range import ByteRange
from artifactfs.errors import Cancelled, Unreachable
from artifactfs.model import Artifact

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def artifact_of(data: bytes, **more: object) -> Artifact:
    known = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    return Artifact("art_1", "file.bin", NOW, NOW, **(known | more))  # type: ignore[arg-type]


@dataclass
class Probe:
    size_bytes: int | None


class Source:
    """Delivers `data` in pieces. `fault` may change or break each piece; `gate` holds them up."""

    def __init__(self, data: bytes, piece_bytes: int = 50_000) -> None:
        self.data = data
        self.piece_bytes = piece_bytes
        self.delivered_bytes = 0
        self.requests: list[ByteRange] = []
        self.fault: Callable[[int, bytes], bytes] = lambda offset, piece: piece
        self.gate = threading.Event()
        self.gate.set()
        self.ranged = True
        self.etag: str | None = None
        self._lock = threading.Lock()

    def probe(self, artifact: Artifact) -> Probe:
        return Probe(len(self.data))

    def stream(
        self,
        artifact: Artifact,
        span: ByteRange,
        sink: Any,
        *,
        cancelled: threading.Event | None = None,
        deadline_s: float | None = None,
    ) -> None:
        with self._lock:
            self.requests.append(span)
        if self.etag is not None:
            sink.version(self.etag)
        span = span.clip(len(self.data))
        position = span.start if self.ranged else 0
        stop = span.stop if self.ranged else len(self.data)
        while position < stop:
            while not self.gate.wait(0.01):
                if cancelled is not None and cancelled.is_set():
                    raise Cancelled("cut off")
            piece = self.fault(
                position, self.data[position : min(position + self.piece_bytes, stop)]
            )
            with self._lock:
                self.delivered_bytes += len(piece)
            while piece:
                room = sink.room(position)[: len(piece)]
                room[:] = piece[: len(room)]
                position += len(room)
                piece = piece[len(room) :]
                if not sink.take(len(room), more=bool(piece)):
                    sink.pause()
                    return
        sink.pause()


def broken(offset: int, piece: bytes) -> bytes:
    raise Unreachable("the connection broke")
