"""The service's calls as the outbox needs them; the real ones are ``remote.UploadsApi``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from artifactfs.model import Artifact
from artifactfs.remote import (
    DirectTicket,
    MultipartState,
    MultipartTicket,
    PartUrl,
    RequestBody,
)


class UploadCalls(Protocol):
    """What is called, see ``remote.uploads``."""

    def by_controller(
        self,
        source: RequestBody,
        filename: str,
        *,
        sha256: str | None = None,
        progress: Callable[[int], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> Artifact: ...
    def start_direct(
        self, sha256: str, size_bytes: int, filename: str
    ) -> DirectTicket | Artifact: ...
    def put_direct(
        self,
        ticket: DirectTicket,
        source: RequestBody,
        *,
        progress: Callable[[int], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> None: ...
    def complete_direct(
        self, ticket: DirectTicket, sha256: str, size_bytes: int
    ) -> Artifact | None: ...
    def start_multipart(
        self, sha256: str, size_bytes: int, filename: str
    ) -> MultipartTicket | Artifact: ...
    def multipart_state(self, upload_id: str) -> MultipartState: ...
    def part_urls(self, upload_id: str, numbers: Sequence[int]) -> list[PartUrl]: ...
    def put_part(
        self,
        url: PartUrl,
        source: RequestBody,
        *,
        progress: Callable[[int], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> str: ...
    def complete_multipart(
        self, upload_id: str, sha256: str, size_bytes: int, parts: Sequence[tuple[int, str]]
    ) -> Artifact: ...
    def abandon_multipart(self, upload_id: str) -> None: ...
    def service_now(self) -> datetime | None: ...
    def find(self, sha256: str, size_bytes: int, filename: str) -> Artifact | None: ...
