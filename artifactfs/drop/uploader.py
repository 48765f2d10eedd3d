"""Brings one file to the service: the ways of ``plan``, walked with the calls of ``remote``.

An upload is resumable where the service has multipart uploads: a `Ledger` (the journal's rows of
the entry) remembers the upload's id and each part's ETag before the next step. After a crash the
service's own list of parts says what it has; only the rest is sent. URLs that have expired are
asked for anew, an upload that the service has forgotten begins again, and a completion whose answer
was lost is repeated, which answers the same artifact.

The uploader knows no queue and no states: those are the outbox's. The command ``put`` uses it
alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from artifactfs.artifact import Artifact
from artifactfs.clock import SYSTEM_CLOCK, Clock
from artifactfs.config import UploadConfig
from artifactfs.drop.plan import Way, ways
from artifactfs.drop.rate import RateLimit
from artifactfs.errors import (
    BadAnswer,
    Cancelled,
    Conflict,
    DropError,
    Gone,
    NotAllowed,
    RemoteError,
    TooLarge,
    Unsupported,
)
from artifactfs.remote import (
    Body,
    DirectTicket,
    FileBody,
    MultipartState,
    MultipartTicket,
    PartUrl,
)
from artifactfs.spans import Span

HASH_BYTES = 4 << 20
URLS_AT_ONCE = 64
_TRIES_OF_URL = 3

Sent = Callable[[int, int], None]

_log = logging.getLogger(__name__)


class Uploads(Protocol):
    """The calls this needs: ``remote.UploadsApi``."""

    def by_controller(
        self,
        source: Body,
        filename: str,
        *,
        progress: Callable[[int], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> Artifact: ...
    def start_direct(
        self, sha256: str, size_bytes: int, filename: str
    ) -> DirectTicket | Artifact: ...
    def put_direct(
        self,
        ticket: DirectTicket,
        source: Body,
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
        source: Body,
        *,
        progress: Callable[[int], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> str: ...
    def complete_multipart(
        self, upload_id: str, sha256: str, size_bytes: int, parts: Sequence[tuple[int, str]]
    ) -> Artifact: ...
    def abandon_multipart(self, upload_id: str) -> None: ...


class Ledger(Protocol):
    """What is remembered of one file's multipart upload."""

    def multipart(self) -> tuple[str, int, int] | None: ...
    def begin(self, upload_id: str, part_size_bytes: int, part_count: int) -> None: ...
    def add_part(self, number: int, etag: str) -> None: ...
    def end(self) -> None: ...


class ForgetfulLedger:
    """Remembers until the process ends: for uploads outside the outbox."""

    def __init__(self) -> None:
        self._multipart: tuple[str, int, int] | None = None

    def multipart(self) -> tuple[str, int, int] | None:
        return self._multipart

    def begin(self, upload_id: str, part_size_bytes: int, part_count: int) -> None:
        self._multipart = upload_id, part_size_bytes, part_count

    def add_part(self, number: int, etag: str) -> None:
        _ = number, etag

    def end(self) -> None:
        self._multipart = None


@dataclass(frozen=True, slots=True)
class Shipment:
    """One file on its way: its bytes, its hash, its name."""

    path: Path
    filename: str
    sha256: str
    size_bytes: int
    may_exist: bool = False

    def body(self, span: Span) -> FileBody:
        """A part of it."""
        return FileBody(self.path, span)

    def whole(self) -> FileBody:
        """All of it."""
        return FileBody(self.path, Span(0, self.size_bytes))


def hash_file(path: Path, cancelled: threading.Event, sent: Sent | None = None) -> tuple[str, int]:
    """SHA-256 and size of a file. Raises `OSError`, or `Cancelled`."""
    digest = hashlib.sha256()
    buffer = bytearray(HASH_BYTES)
    view = memoryview(buffer)
    size_bytes = 0
    with path.open("rb", buffering=0) as file:
        total_bytes = os.fstat(file.fileno()).st_size
        while count := file.readinto(buffer):
            if cancelled.is_set():
                raise Cancelled(f"{path.name}: stopped while hashing")
            digest.update(view[:count])
            size_bytes += count
            if sent is not None:
                sent(size_bytes, total_bytes)
    return digest.hexdigest(), size_bytes


class Uploader:
    """Uploads files, `upload.connections` transfers at a time in all. `close` ends its threads."""

    def __init__(
        self, uploads: Uploads, config: UploadConfig, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._uploads = uploads
        self._config = config
        self._clock = clock
        self._rate = RateLimit(config.max_rate_bytes_s, clock)
        self._transfers = threading.BoundedSemaphore(config.connections)
        self._parts = ThreadPoolExecutor(config.connections, thread_name_prefix="part")
        self._told_ways: set[Way] = set()

    def close(self) -> None:
        """End the threads; uploads under way were cancelled before."""
        self._parts.shutdown(wait=True, cancel_futures=True)

    def upload_file(
        self,
        path: Path,
        name: str,
        *,
        progress: Sent | None = None,
        cancelled: threading.Event,
    ) -> Artifact:
        """Upload a local file as `name` and return its artifact.

        `progress` gets the bytes sent and the bytes in all. A cancelled multipart upload is given
        up, so that nothing stays behind.
        """
        sha256, size_bytes = hash_file(path, cancelled)
        ledger = ForgetfulLedger()
        shipment = Shipment(path, name, sha256, size_bytes)
        try:
            return self.upload(shipment, ledger, cancelled, progress)
        except BaseException:
            begun = ledger.multipart()
            if begun is not None:
                self._abandon(begun[0])
            raise
        finally:
            self.close()

    def upload(
        self,
        shipment: Shipment,
        ledger: Ledger,
        cancelled: threading.Event,
        sent: Sent | None = None,
    ) -> Artifact:
        """Bring one file to the service by the best way that it has.

        Raises what the service said: `RemoteError` of the last way that was tried.
        """
        refused: set[Way] = set()
        last: RemoteError | None = None
        while True:
            left = ways(
                shipment.size_bytes,
                controller_max_bytes=self._config.controller_max_bytes,
                multipart_min_bytes=self._config.multipart_min_bytes,
                refused=refused,
                may_exist=shipment.may_exist,
            )
            if not left:
                raise last or DropError(f"{shipment.filename} is too large for every way")
            way = left[0]
            try:
                artifact = self._by(way, shipment, ledger, cancelled, sent)
            except (Unsupported, TooLarge) as error:
                last = error
            except BadAnswer as error:
                if way is Way.CONTROLLER:
                    raise
                last = error
            else:
                self._check(artifact, shipment)
                return artifact
            refused.add(way)
            if way not in self._told_ways:
                self._told_ways.add(way)
                _log.warning("uploads by %s do not work here: %s", way.value, last)

    def _by(
        self,
        way: Way,
        shipment: Shipment,
        ledger: Ledger,
        cancelled: threading.Event,
        sent: Sent | None,
    ) -> Artifact:
        if way is Way.CONTROLLER:
            with self._transfers:
                return self._uploads.by_controller(
                    shipment.whole(),
                    shipment.filename,
                    progress=self._meter(shipment, cancelled, sent),
                    cancelled=cancelled,
                )
        if way is Way.DIRECT:
            return self._direct(shipment, cancelled, sent)
        return self._multipart(shipment, ledger, cancelled, sent)

    def _direct(
        self, shipment: Shipment, cancelled: threading.Event, sent: Sent | None
    ) -> Artifact:
        ticket: DirectTicket
        for attempt in range(_TRIES_OF_URL):
            begun = self._uploads.start_direct(
                shipment.sha256, shipment.size_bytes, shipment.filename
            )
            if isinstance(begun, Artifact):
                return begun
            ticket = begun
            try:
                with self._transfers:
                    self._uploads.put_direct(
                        ticket,
                        shipment.whole(),
                        progress=self._meter(shipment, cancelled, sent),
                        cancelled=cancelled,
                    )
                break
            except (NotAllowed, Gone):
                if attempt + 1 == _TRIES_OF_URL:
                    raise
        artifact = self._uploads.complete_direct(ticket, shipment.sha256, shipment.size_bytes)
        if artifact is not None:
            return artifact
        # The service completes by the PUT alone: asked again, it says that it has the bytes.
        known = self._uploads.start_direct(shipment.sha256, shipment.size_bytes, shipment.filename)
        if isinstance(known, Artifact):
            return known
        raise BadAnswer(f"{shipment.filename}: uploaded directly, but the service does not list it")

    # Multipart

    def _multipart(
        self, shipment: Shipment, ledger: Ledger, cancelled: threading.Event, sent: Sent | None
    ) -> Artifact:
        begun = ledger.multipart()
        arrived: dict[int, str] = {}
        urls: dict[int, PartUrl] = {}
        if begun is not None:
            try:
                state = self._uploads.multipart_state(begun[0])
                arrived = {part.number: part.etag for part in state.uploaded}
            except Gone:
                ledger.end()
                begun = None
        if begun is None:
            ticket = self._uploads.start_multipart(
                shipment.sha256, shipment.size_bytes, shipment.filename
            )
            if isinstance(ticket, Artifact):
                return ticket
            begun = ticket.upload_id, ticket.part_size_bytes, ticket.part_count
            ledger.begin(*begun)
            urls = {part.number: part for part in ticket.parts}
        upload_id, part_size_bytes, part_count = begun
        transfer = _Parts(shipment, upload_id, part_size_bytes, part_count, arrived, urls)
        self._send_parts(transfer, ledger, cancelled, sent)
        try:
            artifact = self._uploads.complete_multipart(
                upload_id, shipment.sha256, shipment.size_bytes, sorted(transfer.arrived.items())
            )
        except Conflict:
            # Someone completes it already, an earlier try of ours perhaps.
            known = self._uploads.start_multipart(
                shipment.sha256, shipment.size_bytes, shipment.filename
            )
            if not isinstance(known, Artifact):
                self._abandon(known.upload_id)
                raise
            artifact = known
        ledger.end()
        return artifact

    def _send_parts(
        self, transfer: _Parts, ledger: Ledger, cancelled: threading.Event, sent: Sent | None
    ) -> None:
        stopped = threading.Event()
        meter = _PartsMeter(transfer, sent)

        def send(number: int) -> None:
            if cancelled.is_set() or stopped.is_set():
                raise Cancelled(f"{transfer.shipment.filename}: the upload was stopped")
            try:
                etag = self._send_part(transfer, number, cancelled, meter)
            except BaseException:
                stopped.set()
                raise
            ledger.add_part(number, etag)
            transfer.arrived[number] = etag

        futures: list[Future[None]] = [
            self._parts.submit(send, number) for number in transfer.missing
        ]
        done, running = wait(futures, return_when=FIRST_EXCEPTION)
        for future in running:
            future.cancel()
        wait(running)
        errors = [
            error
            for one in futures
            if not one.cancelled() and (error := one.exception()) is not None
        ]
        _ = done
        if errors:
            real = [error for error in errors if not isinstance(error, Cancelled)]
            raise (real or errors)[0]

    def _send_part(
        self, transfer: _Parts, number: int, cancelled: threading.Event, meter: _PartsMeter
    ) -> str:
        for attempt in range(_TRIES_OF_URL):
            url = self._url_of(transfer, number)
            body = transfer.shipment.body(transfer.span(number))
            metered = self._limited(cancelled, lambda count: meter.sent(number, count))
            try:
                with self._transfers:
                    return self._uploads.put_part(url, body, progress=metered, cancelled=cancelled)
            except (NotAllowed, Gone):
                transfer.forget_url(number)
                if attempt + 1 == _TRIES_OF_URL:
                    raise
        raise AssertionError("unreachable")

    def _url_of(self, transfer: _Parts, number: int) -> PartUrl:
        with transfer.lock:
            if number not in transfer.urls:
                wanted = [one for one in transfer.missing if one >= number][:URLS_AT_ONCE]
                for part in self._uploads.part_urls(transfer.upload_id, wanted):
                    transfer.urls[part.number] = part
            return transfer.urls[number]

    def _abandon(self, upload_id: str) -> None:
        try:
            self._uploads.abandon_multipart(upload_id)
        except RemoteError as error:
            _log.info("the upload %s is left to expire: %s", upload_id, error)

    # Progress, and what came back

    def _meter(
        self, shipment: Shipment, cancelled: threading.Event, sent: Sent | None
    ) -> Callable[[int], None]:
        def tell(count: int) -> None:
            if sent is not None:
                sent(count, shipment.size_bytes)

        return self._limited(cancelled, tell)

    def _limited(
        self, cancelled: threading.Event, tell: Callable[[int], None]
    ) -> Callable[[int], None]:
        before = 0

        def progress(count: int) -> None:
            nonlocal before
            self._rate.take(count - before, cancelled)
            before = count
            tell(count)

        return progress

    @staticmethod
    def _check(artifact: Artifact, shipment: Shipment) -> None:
        if artifact.sha256 not in (None, shipment.sha256):
            raise BadAnswer(
                f"{shipment.filename}: the service stored another content ({artifact.sha256})"
            )
        if artifact.size_bytes not in (None, shipment.size_bytes):
            raise BadAnswer(
                f"{shipment.filename}: the service stored {artifact.size_bytes} bytes "
                f"of {shipment.size_bytes}"
            )


class _Parts:
    """A multipart upload under way. `lock` guards `urls`; it is held while new ones are asked."""

    def __init__(
        self,
        shipment: Shipment,
        upload_id: str,
        part_size_bytes: int,
        part_count: int,
        arrived: dict[int, str],
        urls: dict[int, PartUrl],
    ) -> None:
        self.shipment = shipment
        self.upload_id = upload_id
        self.arrived = arrived
        self.urls = urls
        self.lock = threading.Lock()
        self._part_size_bytes = part_size_bytes
        self._part_count = part_count

    @property
    def missing(self) -> list[int]:
        """The parts that are not on the service."""
        return [n for n in range(1, self._part_count + 1) if n not in self.arrived]

    def span(self, number: int) -> Span:
        """The bytes of a part."""
        start = (number - 1) * self._part_size_bytes
        return Span(start, min(start + self._part_size_bytes, self.shipment.size_bytes))

    def forget_url(self, number: int) -> None:
        """It has expired."""
        with self.lock:
            self.urls.pop(number, None)


class _PartsMeter:
    """Adds up what all parts have sent. Guarded by `_lock`."""

    def __init__(self, transfer: _Parts, sent: Sent | None) -> None:
        self._lock = threading.Lock()
        self._counts = {number: len(transfer.span(number)) for number in transfer.arrived}
        self._size_bytes = transfer.shipment.size_bytes
        self._sent = sent

    def sent(self, number: int, count: int) -> None:
        """Part `number` has sent this many bytes."""
        with self._lock:
            self._counts[number] = count
            total_bytes = sum(self._counts.values())
        if self._sent is not None:
            self._sent(total_bytes, self._size_bytes)
