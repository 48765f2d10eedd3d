"""Brings one file to the service: the ways of ``transfer``, walked with the calls of ``remote``.

Whatever way a file takes, it is not sent twice. A request through the controller whose answer was
lost may have arrived, so the service's list is looked through before anything is repeated. Bytes
that are known under another name or as an older version are asked for by ``direct`` first, which
answers "exists" without a byte sent. What the service has counts only if it is what sending would
have made (``acceptance``); otherwise the bytes are sent through the controller, which never says
that it has them. Uploads in parts are ``multipart``'s.

The uploader knows no queue and no states: those are the outbox's. The command ``put`` uses it
alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from artifactfs.clock import SYSTEM_CLOCK, Clock
from artifactfs.config import UploadConfig
from artifactfs.errors import (
    BadAnswer,
    Conflict,
    DropError,
    Gone,
    NotAllowed,
    RemoteError,
    TimedOut,
    TooLarge,
    Unreachable,
    Unsupported,
)
from artifactfs.model import Artifact
from artifactfs.outbox.acceptance import RETENTION, is_acceptable
from artifactfs.outbox.hashing import hash_file
from artifactfs.outbox.multipart import Multipart
from artifactfs.outbox.rate_limiter import RateLimiter
from artifactfs.outbox.transfer import (
    NoCheckpoints,
    OlderArtifact,
    PartCheckpoints,
    Sent,
    Upload,
    UploadMethod,
    UploadProgress,
    upload_methods,
)
from artifactfs.outbox.transfer_limiter import TransferLimiter
from artifactfs.outbox.upload_queue import SizeClass
from artifactfs.outbox.uploads_interface import UploadCalls
from artifactfs.remote import DirectTicket

_TRIES_OF_URL = 3
_SENT_IDS = 1000
_PUT_WAITS_S = (0.2, 1.0, 3.0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UploadResult:
    """A file that is on the service: its artifact, and by which way (or "listed") it came there."""

    artifact: Artifact
    how: str


class Uploader:
    """Uploads files, `upload.connections` transfers at a time in all. `close` ends its threads."""

    def __init__(
        self, uploads: UploadCalls, config: UploadConfig, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._uploads = uploads
        self._config = config
        self._rate = RateLimiter(config.max_rate_bytes_s, clock)
        self._gate = TransferLimiter(config.connections)
        self.multipart = Multipart(uploads, self._gate, config.connections, self._limited)
        self._clock = clock
        self._retention = RETENTION
        self._sent_ids: deque[str] = deque(maxlen=_SENT_IDS)
        self._told_ways: set[UploadMethod] = set()

    def close(self) -> None:
        """End the threads; uploads under way were cancelled before."""
        self.multipart.close()

    def lane_of(self, size_bytes: int) -> SizeClass:
        """Which line a file of this size stands in."""
        return (
            SizeClass.SMALL if size_bytes <= self._config.controller_max_bytes else SizeClass.LARGE
        )

    def upload_file(
        self,
        path: Path,
        name: str,
        *,
        progress: Sent | None = None,
        cancelled: threading.Event,
    ) -> Artifact:
        """Upload a local file as `name` and return its artifact.

        `progress` gets the bytes sent and the bytes in all. Trouble that passes is waited out for a
        few seconds beyond the request's own retries. A cancelled multipart upload is given up, so
        that nothing stays behind.
        """
        since = self._clock.now()
        sha256, size_bytes = hash_file(path, cancelled)
        ledger = NoCheckpoints()
        shipment = Upload(path, name, sha256, size_bytes, self.lane_of(size_bytes))
        watch = UploadProgress(cancelled, progress)
        try:
            for wait_s in (*_PUT_WAITS_S, None):
                try:
                    return self.upload(shipment, ledger, watch).artifact
                except (Conflict, TimedOut, Unreachable):
                    if wait_s is None or cancelled.wait(wait_s):
                        raise
                    shipment = replace(shipment, may_exist=True, since=since)
            raise AssertionError("unreachable")
        except BaseException:
            begun = ledger.multipart()
            if begun is not None:
                self.multipart.abandon(begun[0])
            raise
        finally:
            self.close()

    def upload(
        self, shipment: Upload, ledger: PartCheckpoints, watch: UploadProgress
    ) -> UploadResult:
        """Bring one file to the service by the best way that it has.

        Raises what the service said: `RemoteError` of the last way that was tried.
        """
        arrived = self._arrived_before(shipment)
        if arrived is not None:
            return UploadResult(arrived, "listed")
        refused: set[UploadMethod] = set()
        last: RemoteError | None = None
        while True:
            left = upload_methods(
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
                arrival = self._by(way, shipment, ledger, watch)
            except OlderArtifact as error:
                last = error
                refused |= {
                    UploadMethod.DIRECT,
                    UploadMethod.MULTIPART,
                }  # they would say the same again
                continue
            except (Unsupported, TooLarge) as error:
                last = error
            except BadAnswer as error:
                if way is UploadMethod.CONTROLLER:
                    raise
                last = error
            else:
                _check(arrival.artifact, shipment)
                self._note(arrival)
                return arrival
            refused.add(way)
            if way not in self._told_ways:
                self._told_ways.add(way)
                _log.warning("uploads by %s do not work here: %s", way.value, last)

    def _by(
        self, way: UploadMethod, shipment: Upload, ledger: PartCheckpoints, watch: UploadProgress
    ) -> UploadResult:
        if way is UploadMethod.CONTROLLER:
            return self._by_controller(shipment, watch)
        if way is UploadMethod.DIRECT:
            return self._direct(shipment, watch)
        asked_at = self._clock.now()

        def checked(artifact: Artifact) -> Artifact:
            return self._checked(artifact, shipment, asked_at)

        return UploadResult(self.multipart.upload(shipment, ledger, watch, checked), way.value)

    def list_again(self, sha256: str, size_bytes: int, name: str) -> Artifact | None:
        """A new artifact of bytes that the service has, under `name`, without sending them.

        None if the service does not have them, does not answer, or has only an older artifact.
        """
        asked_at = self._clock.now()
        try:
            begun = self._uploads.start_direct(sha256, size_bytes, name)
        except (Unsupported, TimedOut, Unreachable):
            return None
        if isinstance(begun, Artifact) and self._counts(begun, name, asked_at, ()):
            return begun
        return None

    def _arrived_before(self, shipment: Upload) -> Artifact | None:
        """The artifact of an earlier attempt whose answer was lost, if the service lists it.

        `direct` cannot tell: it makes one more artifact of bytes that the service has.
        """
        if shipment.since is None:
            return None
        try:
            found = self._uploads.find(shipment.sha256, shipment.size_bytes, shipment.filename)
        except (BadAnswer, Gone, Unsupported) as error:
            _log.debug("the list does not say whether %s is there: %s", shipment.filename, error)
            return None
        if found is not None and self._counts(found, shipment.filename, shipment.since, ()):
            return found
        return None

    def _checked(self, artifact: Artifact, shipment: Upload, asked_at: datetime) -> Artifact:
        """What the service says it has, if that counts as this upload. Raises `OlderArtifact`."""
        older: list[str] = []
        if shipment.since is None:
            older = [*self._sent_ids, *([shipment.known_id] if shipment.known_id else [])]
        if self._counts(artifact, shipment.filename, shipment.since or asked_at, older):
            return artifact
        raise OlderArtifact(
            f"{shipment.filename}: the service has these bytes as {artifact.id}, which is older, "
            "expires sooner or has another name"
        )

    def _counts(
        self, artifact: Artifact, filename: str, since: datetime, older: Collection[str]
    ) -> bool:
        return is_acceptable(
            artifact,
            filename,
            since=since,
            now=self._clock.now(),
            service_now=self._uploads.service_now(),
            retention=self._retention,
            older=older,
        )

    def _note(self, arrival: UploadResult) -> None:
        """Remember what has arrived, and how long the service keeps what was sent."""
        artifact = arrival.artifact
        self._sent_ids.append(artifact.id)
        if arrival.how in (UploadMethod.CONTROLLER.value, UploadMethod.DIRECT.value):
            self._retention = artifact.expires_at - artifact.created_at

    def _by_controller(self, shipment: Upload, watch: UploadProgress) -> UploadResult:
        with self._gate.use(shipment.lane, watch.cancelled):
            artifact = self._uploads.by_controller(
                shipment.whole(),
                shipment.filename,
                sha256=shipment.sha256,
                progress=self._metered(shipment, watch),
                cancelled=watch.cancelled,
            )
        return UploadResult(artifact, UploadMethod.CONTROLLER.value)

    def _direct(self, shipment: Upload, watch: UploadProgress) -> UploadResult:
        ticket: DirectTicket
        asked = shipment.sha256, shipment.size_bytes, shipment.filename
        asked_at = self._clock.now()
        for attempt in range(_TRIES_OF_URL):
            begun = self._uploads.start_direct(*asked)
            if isinstance(begun, Artifact):
                return UploadResult(self._checked(begun, shipment, asked_at), "exists")
            ticket = begun
            try:
                with self._gate.use(shipment.lane, watch.cancelled):
                    self._uploads.put_direct(
                        ticket,
                        shipment.whole(),
                        progress=self._metered(shipment, watch),
                        cancelled=watch.cancelled,
                    )
                artifact = self._uploads.complete_direct(
                    ticket, shipment.sha256, shipment.size_bytes
                )
                break
            except (NotAllowed, Gone):  # the URL has expired, or the upload has
                if attempt + 1 == _TRIES_OF_URL:
                    raise
        if artifact is None:
            # The service completes by the PUT alone: asked again, it says that it has the bytes.
            known = self._uploads.start_direct(*asked)
            if not isinstance(known, Artifact):
                raise BadAnswer(f"{shipment.filename}: uploaded, but the service does not list it")
            artifact = self._checked(known, shipment, asked_at)
        return UploadResult(artifact, UploadMethod.DIRECT.value)

    # Progress

    def _metered(self, shipment: Upload, watch: UploadProgress) -> Callable[[int], None]:
        return self._limited(watch.cancelled, lambda count: watch.tell(count, shipment.size_bytes))

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


def _check(artifact: Artifact, shipment: Upload) -> None:
    """What came back must be what was sent. Raises `BadAnswer`."""
    if artifact.sha256 not in (None, shipment.sha256):
        raise BadAnswer(
            f"{shipment.filename}: the service stored another content ({artifact.sha256})"
        )
    if artifact.size_bytes not in (None, shipment.size_bytes):
        raise BadAnswer(
            f"{shipment.filename}: the service stored {artifact.size_bytes} bytes "
            f"of {shipment.size_bytes}"
        )
