"""One file on its way, and what is remembered of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from artifactfs.byte_range import ByteRange
from artifactfs.drop.turns import Lane
from artifactfs.errors import BadAnswer
from artifactfs.remote import FileBody

Sent = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Shipment:
    """One file on its way: its bytes, its hash, its name.

    `may_exist` says that the service may have the bytes already, so that it is asked first. What it
    has counts if it was created since `since`, of our clock: that is when the first of several
    attempts may have begun, None for a first one. `known_id` is an artifact that was there before.
    """

    path: Path
    filename: str
    sha256: str
    size_bytes: int
    lane: Lane
    may_exist: bool = False
    since: datetime | None = None
    known_id: str | None = None

    def body(self, span: ByteRange) -> FileBody:
        """A part of it."""
        return FileBody(self.path, span)

    def whole(self) -> FileBody:
        """All of it."""
        return FileBody(self.path, ByteRange(0, self.size_bytes))


class OlderArtifact(BadAnswer):
    """The service has the bytes, as an artifact that does not count (``counting``)."""

    default_remedy = "the bytes can be sent by another name, or once the older artifact is gone"


@dataclass(frozen=True, slots=True)
class Watch:
    """Who watches an upload: `cancelled` stops it, `sent` gets the bytes sent and those in all."""

    cancelled: threading.Event
    sent: Sent | None = None

    def tell(self, count: int, size_bytes: int) -> None:
        """So much has been sent."""
        if self.sent is not None:
            self.sent(count, size_bytes)


class Ledger(Protocol):
    """What is remembered of one file's multipart upload: the journal's rows, for the outbox."""

    def multipart(self) -> tuple[str, int, int] | None: ...
    def parts(self, upload_id: str) -> dict[int, str]: ...
    def begin(self, upload_id: str, part_size_bytes: int, part_count: int) -> None: ...
    def add_part(self, upload_id: str, number: int, etag: str) -> None: ...
    def end(self, upload_id: str) -> None: ...


class ForgetfulLedger:
    """Remembers until the process ends: for uploads outside the outbox."""

    def __init__(self) -> None:
        self._multipart: tuple[str, int, int] | None = None
        self._parts: dict[int, str] = {}

    def multipart(self) -> tuple[str, int, int] | None:
        return self._multipart

    def parts(self, upload_id: str) -> dict[int, str]:
        _ = upload_id
        return dict(self._parts)

    def begin(self, upload_id: str, part_size_bytes: int, part_count: int) -> None:
        self._multipart = upload_id, part_size_bytes, part_count
        self._parts = {}

    def add_part(self, upload_id: str, number: int, etag: str) -> None:
        _ = upload_id
        self._parts[number] = etag

    def end(self, upload_id: str) -> None:
        _ = upload_id
        self._multipart = None
