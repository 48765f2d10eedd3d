"""A file in parts: begun, resumed, completed, given up.

The ledger remembers the upload's id before the first part goes, and each part's ETag before the
next step. What may happen in between, and what is done:

* a crash: the service's own list of parts says what it has; only the rest is sent;
* the URLs have expired (403, 404, 410): fresh ones are asked for, for the parts that are missing;
* the upload has expired or is unknown (404): it begins again; where the service has completed it
  meanwhile, beginning again answers "exists";
* the answer to the completion was lost: completing again answers the same artifact, whether in the
  same breath or after a restart;
* someone is completing it already (409): an earlier try of ours, so it is asked again shortly;
* the parts are not those that the service has (422 ``incomplete``, ``invalid_parts``): the next
  attempt compares anew.

Parts go over the connections that `TransferLimiter` gives, in parallel, in the order of their
numbers.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

from artifactfs.byte_range import ByteRange
from artifactfs.errors import (
    Cancelled,
    Conflict,
    Gone,
    NotAllowed,
    RemoteError,
)
from artifactfs.model import Artifact
from artifactfs.outbox.transfer import (
    PartCheckpoints,
    Upload,
    UploadProgress,
)
from artifactfs.outbox.transfer_limiter import TransferLimiter
from artifactfs.outbox.upload_queue import SizeClass
from artifactfs.outbox.uploads_interface import UploadCalls
from artifactfs.remote import PartUrl

URLS_AT_ONCE = 64
_TRIES_OF_URL = 3
_WAITS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_DONE = frozenset({"completed", "complete", "ready"})

Limit = Callable[[threading.Event, Callable[[int], None]], Callable[[int], None]]

_log = logging.getLogger(__name__)


class Multipart:
    """Uploads in parts. `limit` slows a body's progress down to the rate that is set."""

    def __init__(
        self, uploads: UploadCalls, gate: TransferLimiter, connections: int, limit: Limit
    ) -> None:
        self._uploads = uploads
        self._gate = gate
        self._limit = limit
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="part")

    def close(self) -> None:
        """End the threads; uploads under way were cancelled before."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def upload(
        self,
        shipment: Upload,
        ledger: PartCheckpoints,
        watch: UploadProgress,
        checked: Callable[[Artifact], Artifact],
    ) -> Artifact:
        """Bring a file to the service in parts. Raises what the service said.

        `checked` gets what the service says it has, and returns it, or raises `OlderArtifact`.
        """
        parts: _Parts | None = None
        begun = ledger.multipart()
        if begun is not None:
            resumed = self._resumed(shipment, ledger, begun, watch)
            if isinstance(resumed, Artifact):
                return resumed
            parts = resumed
        if parts is None:
            ticket = self._uploads.start_multipart(
                shipment.sha256, shipment.size_bytes, shipment.filename
            )
            if isinstance(ticket, Artifact):
                return checked(ticket)
            ledger.begin(ticket.upload_id, ticket.part_size_bytes, ticket.part_count)
            urls = {part.number: part for part in ticket.parts}
            parts = _Parts(
                shipment, ticket.upload_id, ticket.part_size_bytes, ticket.part_count, {}, urls
            )
        self._send(parts, ledger, watch)
        artifact = self._complete(shipment, parts.upload_id, parts.arrived, watch)
        ledger.end(parts.upload_id)
        return artifact

    def abandon(self, upload_id: str) -> bool:
        """Give an upload up; whether the service knows that."""
        try:
            self._uploads.abandon_multipart(upload_id)
        except RemoteError as error:
            _log.info("the upload %s is not given up yet: %s", upload_id, error)
            return False
        return True

    def _resumed(
        self,
        shipment: Upload,
        ledger: PartCheckpoints,
        begun: tuple[str, int, int],
        watch: UploadProgress,
    ) -> _Parts | Artifact | None:
        """The upload that was begun, or what became of it; None if it must begin again."""
        upload_id = begun[0]
        try:
            state = self._uploads.multipart_state(upload_id)
            if state.status in _DONE:
                known = ledger.parts(upload_id)
                artifact = self._complete(shipment, upload_id, known, watch)
                ledger.end(upload_id)
                return artifact
        except Gone:
            ledger.end(upload_id)
            return None
        arrived = {part.number: part.etag for part in state.uploaded}
        return _Parts(shipment, *begun, arrived, {})

    def _complete(
        self, shipment: Upload, upload_id: str, arrived: dict[int, str], watch: UploadProgress
    ) -> Artifact:
        for wait_s in (*_WAITS_S, None):
            try:
                return self._uploads.complete_multipart(
                    upload_id, shipment.sha256, shipment.size_bytes, sorted(arrived.items())
                )
            except Conflict:
                if wait_s is None or watch.cancelled.wait(wait_s):
                    raise
        raise AssertionError("unreachable")

    def _send(self, parts: _Parts, ledger: PartCheckpoints, watch: UploadProgress) -> None:
        stopped = threading.Event()
        meter = _Meter(parts, watch)

        def send(number: int) -> None:
            if watch.cancelled.is_set() or stopped.is_set():
                raise Cancelled(f"{parts.shipment.filename}: the upload was stopped")
            try:
                etag = self._send_part(parts, number, watch.cancelled, meter)
                ledger.add_part(parts.upload_id, number, etag)
            except BaseException:
                stopped.set()
                raise
            parts.arrived[number] = etag

        futures: list[Future[None]] = [
            self._threads.submit(send, number) for number in parts.missing
        ]
        _, running = wait(futures, return_when=FIRST_EXCEPTION)
        for future in running:
            future.cancel()
        wait(running)
        errors = [
            error
            for one in futures
            if not one.cancelled() and (error := one.exception()) is not None
        ]
        if errors:
            real = [error for error in errors if not isinstance(error, Cancelled)]
            raise (real or errors)[0]

    def _send_part(
        self, parts: _Parts, number: int, cancelled: threading.Event, meter: _Meter
    ) -> str:
        for attempt in range(_TRIES_OF_URL):
            body = parts.shipment.body(parts.span(number))
            metered = self._limit(cancelled, lambda count: meter.sent(number, count))
            with self._gate.use(SizeClass.LARGE, cancelled):
                url = self._url_of(parts, number)
                try:
                    return self._uploads.put_part(url, body, progress=metered, cancelled=cancelled)
                except (NotAllowed, Gone):
                    parts.forget_url(url)
                    if attempt + 1 == _TRIES_OF_URL:
                        raise
        raise AssertionError("unreachable")

    def _url_of(self, parts: _Parts, number: int) -> PartUrl:
        with parts.lock:
            if number not in parts.urls:
                wanted = [one for one in parts.missing if one >= number][:URLS_AT_ONCE]
                for part in self._uploads.part_urls(parts.upload_id, wanted):
                    parts.urls[part.number] = part
            return parts.urls[number]


class _Parts:
    """A multipart upload under way. `lock` guards `urls`; it is held while new ones are asked."""

    def __init__(
        self,
        shipment: Upload,
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

    def span(self, number: int) -> ByteRange:
        """The bytes of a part."""
        start = (number - 1) * self._part_size_bytes
        return ByteRange(start, min(start + self._part_size_bytes, self.shipment.size_bytes))

    def forget_url(self, url: PartUrl) -> None:
        """It has expired, and so have those that came with it."""
        with self.lock, contextlib.suppress(KeyError):
            if self.urls[url.number] is url:
                self.urls.clear()


class _Meter:
    """Adds up what all parts have sent. Guarded by `_lock`."""

    def __init__(self, parts: _Parts, watch: UploadProgress) -> None:
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}
        self._total_bytes = sum(len(parts.span(number)) for number in parts.arrived)
        self._size_bytes = parts.shipment.size_bytes
        self._watch = watch

    def sent(self, number: int, count: int) -> None:
        """Part `number` has sent this many bytes."""
        with self._lock:
            self._total_bytes += count - self._counts.get(number, 0)
            self._counts[number] = count
            total_bytes = self._total_bytes
        self._watch.tell(total_bytes, self._size_bytes)
