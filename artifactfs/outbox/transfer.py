"""Which way a file takes to the service: pure.

Small files go through the controller (one request), larger ones directly to the object store, large
ones in parts. A way that the service refused for this file or does not have at all falls away, and
the next that fits is tried. A file that may be there already (its hash is known, or an earlier
attempt ended without an answer) asks first by ``direct`` or ``multipart``, which answer "exists"
without a byte sent; whether an earlier attempt has arrived is looked for in the list before.

One file on its way, and what is remembered of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Protocol

from artifactfs.byte_range import ByteRange
from artifactfs.errors import BadAnswer
from artifactfs.outbox.upload_queue import SizeClass
from artifactfs.remote import FileBody

CONTROLLER_MOST_BYTES = 2_000_000_000
DIRECT_MOST_BYTES = 5 << 30


class UploadMethod(Enum):
    """How to upload."""

    CONTROLLER = "controller"
    DIRECT = "direct"
    MULTIPART = "multipart"


def upload_methods(
    size_bytes: int,
    *,
    controller_max_bytes: int,
    multipart_min_bytes: int,
    refused: Collection[UploadMethod] = (),
    may_exist: bool = False,
) -> list[UploadMethod]:
    """The ways that fit a file of this size, best first."""
    if size_bytes <= controller_max_bytes and not may_exist:
        order = [UploadMethod.CONTROLLER, UploadMethod.DIRECT, UploadMethod.MULTIPART]
    elif size_bytes < multipart_min_bytes:
        order = [UploadMethod.DIRECT, UploadMethod.MULTIPART, UploadMethod.CONTROLLER]
    else:
        order = [UploadMethod.MULTIPART, UploadMethod.DIRECT, UploadMethod.CONTROLLER]
    most_bytes = {
        UploadMethod.CONTROLLER: CONTROLLER_MOST_BYTES,
        UploadMethod.DIRECT: DIRECT_MOST_BYTES,
    }
    return [
        way
        for way in order
        if way not in refused
        and size_bytes <= most_bytes.get(way, size_bytes)
        and (way is not UploadMethod.MULTIPART or size_bytes > 0)
    ]


Sent = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Upload:
    """One file on its way: its bytes, its hash, its name.

    `may_exist` says that the service may have the bytes already, so that it is asked first. What it
    has counts if it was created since `since`, of our clock: that is when the first of several
    attempts may have begun, None for a first one. `known_id` is an artifact that was there before.
    """

    path: Path
    filename: str
    sha256: str
    size_bytes: int
    lane: SizeClass
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
    """The service has the bytes, as an artifact that does not count (``acceptance``)."""

    default_remedy = "the bytes can be sent by another name, or once the older artifact is gone"


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """Who watches an upload: `cancelled` stops it, `sent` gets the bytes sent and those in all."""

    cancelled: threading.Event
    sent: Sent | None = None

    def tell(self, count: int, size_bytes: int) -> None:
        """So much has been sent."""
        if self.sent is not None:
            self.sent(count, size_bytes)


class PartCheckpoints(Protocol):
    """What is remembered of one file's multipart upload: the journal's rows, for the outbox."""

    def multipart(self) -> tuple[str, int, int] | None: ...
    def parts(self, upload_id: str) -> dict[int, str]: ...
    def begin(self, upload_id: str, part_size_bytes: int, part_count: int) -> None: ...
    def add_part(self, upload_id: str, number: int, etag: str) -> None: ...
    def end(self, upload_id: str) -> None: ...


class NoCheckpoints:
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
