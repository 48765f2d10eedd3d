"""Downloads: ranges of an artifact, pushed to whoever stores them.

`Downloader.stream` asks for a range and reads it into the memory of a *sink*: the sink says where
the next bytes go, and is told of them as they arrive, with whether more has come already, so that
it may store them together. No byte passes through Python on its way from the socket to there.
(Measured on loopback, from the socket to a file: 2.9 GB/s with one buffer that is used again and
again, 2.0 with a new one for each piece, 2.7 by splice(2), which hides the bytes from who sums
them.) What can go wrong on the way is settled here:

* a body that breaks off is resumed at the first byte that has not come, as often as the retry loop
  allows; progress starts its patience anew, so that a long file outlives any number of cuts;
* a server that ignores ranges answers 200: then the sink gets its bytes from offset 0, and says
  when it has enough;
* a redirect is followed, at most five times; from the first hop on that is no call of the service
  the token stays behind, wherever later ones lead. Its target is remembered per artifact, and the
  service is asked again at any failure of it (``redirect_targets``);
* a body in a content coding, which was not asked for, is decoded, as a whole
(``content_encoding``);
* an answer that is for another range is not passed on: `BadAnswer`;
* nor is one whose ETag is not that of the answer before: `ContentChanged`, because two versions
  must never mix. The sink hears of each ETag before the bytes, and may know of an older one.

References to external URLs are redirects too, but to wherever someone pointed: only http and https,
not to private or loopback addresses (``external_guard`` checks them, also behind each further
redirect), and never with the token, not even where they lead back to the service.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Protocol

from artifactfs.byte_range import ByteRange
from artifactfs.errors import (
    BadAnswer,
    Cancelled,
    ContentChanged,
    Gone,
    NotAllowed,
    Refused,
    RemoteError,
    TokenRejected,
    Unreachable,
)
from artifactfs.model import Artifact
from artifactfs.remote.artifacts_api import ArtifactsApi
from artifactfs.remote.content_encoding import codings_of, decoding
from artifactfs.remote.external_guard import AddressGuard
from artifactfs.remote.header_values import content_range, whole_number
from artifactfs.remote.redirect_targets import RedirectTargets
from artifactfs.remote.retry import Transient
from artifactfs.remote.session import (
    DownloadResponse,
    HttpSession,
    redirected,
)
from artifactfs.remote.url import Url, segment

MOST_REDIRECTS = 5
MAX_SHARED_TARGETS = 5
MAX_WAIT_S = 60.0
_LOOK_S = 0.2
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ACCEPTED = _REDIRECTS | {416}


class DownloadTarget(Protocol):
    """Who takes the bytes."""

    def version(self, etag: str) -> None:
        """The bytes to come have this ETag. Raises `ContentChanged` if others are here."""

    def room(self, offset: int) -> memoryview:
        """Where the bytes from `offset` on go; never empty."""

    def take(self, count: int, *, more: bool) -> bool:
        """So many bytes were put there; `more` have come already. Whether others are wanted."""

    def pause(self) -> None:
        """The bytes stop for a while, or for good."""


class DiscardTarget:
    """A sink for who wants the head only."""

    def version(self, _etag: str) -> None:
        return

    def room(self, _offset: int) -> memoryview:
        return memoryview(bytearray(1))

    def take(self, _count: int, *, more: bool) -> bool:  # noqa: ARG002 - a sink's
        return False

    def pause(self) -> None:
        return


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What is known of an artifact before it is read; None where the service does not say."""

    size_bytes: int | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """How a download went: the size in all if it was told, whether the range was honoured."""

    size_bytes: int | None
    ranged: bool
    etag: str | None


@dataclass(frozen=True, slots=True)
class Hop:
    """One URL on the way to an artifact.

    `may_have_token` while it and all before it were calls of the service; `is_external` behind the
    service's answer about a reference.
    """

    url: Url
    may_have_token: bool
    is_external: bool


@dataclass(slots=True)
class _DownloadState:
    """Where one download stands. For one thread."""

    span: ByteRange
    position: int
    etag: str | None = None
    size_bytes: int | None = None
    ranged: bool = True
    ended: bool = False
    is_whole: bool = False


class Downloader:
    """Reads artifacts."""

    def __init__(self, session: HttpSession, artifacts: ArtifactsApi, guard: AddressGuard) -> None:
        self._session = session
        self._artifacts = artifacts
        self._guard = guard
        self._targets: RedirectTargets[Hop] = RedirectTargets()

    def probe(self, artifact: Artifact) -> ProbeResult:
        """Size and ETag, by HEAD, or else by the answer to a range of one byte."""
        head = self._artifacts.head(artifact.id) if artifact.external_url is None else None
        if head is not None and head.size_bytes is not None:
            return ProbeResult(head.size_bytes, head.etag)
        done = self.stream(artifact, ByteRange(0, 1), DiscardTarget())
        return ProbeResult(done.size_bytes, done.etag)

    def stream(
        self,
        artifact: Artifact,
        span: ByteRange,
        sink: DownloadTarget,
        *,
        cancelled: threading.Event | None = None,
        deadline_s: float | None = None,
    ) -> DownloadResult:
        """Read the bytes of `span` into `sink`; see the module for what it may get besides.

        Raises `Gone`, `NotAllowed`, `Unreachable`, `TimedOut`, `BadAnswer`, `Cancelled`, and
        whatever the sink raises.
        """
        if artifact.size_bytes is not None:
            span = span.clip(artifact.size_bytes)
        course = _DownloadState(span, span.start)
        while not course.ended:
            before = course.position
            try:
                self._session.run(
                    lambda: self._attempt(artifact, course, sink, cancelled),
                    cancelled=cancelled,
                    deadline_s=deadline_s,
                )
            except Transient:
                raise
            except Unreachable:
                if course.position == before:
                    raise
        return DownloadResult(course.size_bytes, course.ranged, course.etag)

    def _attempt(
        self,
        artifact: Artifact,
        course: _DownloadState,
        sink: DownloadTarget,
        cancelled: threading.Event | None,
    ) -> None:
        if not course.span and course.span.start > 0:
            course.ended = True
            return
        for _ in range(MAX_SHARED_TARGETS):
            target, question = self._targets.find(artifact.id)
            if target is not None:
                try:
                    self._read(artifact, target, course, sink, cancelled)
                    return
                except (RemoteError, Transient) as error:
                    if isinstance(error, Cancelled):
                        raise
                    question, is_ours = self._targets.forget(artifact.id, target)
                    if is_ours and isinstance(error, Transient) and error.after_s is not None:
                        self._targets.settle(artifact.id)
                        raise
                if is_ours:
                    self._ask_again(artifact, course, sink, cancelled)
                    return
            if question is None or not self._wait(question, cancelled):
                break
        self._read(artifact, self._own(artifact), course, sink, cancelled)

    def _ask_again(
        self,
        artifact: Artifact,
        course: _DownloadState,
        sink: DownloadTarget,
        cancelled: threading.Event | None,
    ) -> None:
        """Read from where the service says now, for all readers that wait for the answer."""
        final: Exception | None = None
        try:
            self._read(artifact, self._own(artifact), course, sink, cancelled)
        except (Gone, NotAllowed, Refused, TokenRejected) as error:
            final = error
            raise
        finally:
            self._targets.settle(artifact.id, final)

    def _wait(self, question: Future[None], cancelled: threading.Event | None) -> bool:
        """Wait for a question; False if it takes too long. Raises what all its readers get."""
        for _ in range(int(MAX_WAIT_S / _LOOK_S)):
            if wait([question], _LOOK_S).done:
                question.result()
                return True
            if self._session.is_closed or (cancelled is not None and cancelled.is_set()):
                raise Cancelled("the download was given up")
        return False

    def _read(
        self,
        artifact: Artifact,
        hop: Hop,
        course: _DownloadState,
        sink: DownloadTarget,
        cancelled: threading.Event | None,
    ) -> None:
        """Read from `hop`, or from where it redirects to."""
        start = hop
        for _ in range(MOST_REDIRECTS + 1):
            if hop.is_external:
                self._guard.check(hop.url)
            headers = (
                {}
                if not course.span or course.is_whole
                else {"Range": f"bytes={course.position}-{course.span.stop - 1}"}
            )
            with self._session.fetch(
                hop.url,
                headers,
                accept=_ACCEPTED,
                token=hop.may_have_token,
                external=hop.is_external,
            ) as answer:
                if codings_of(answer.headers) and answer.status_code == 206:
                    if course.is_whole:
                        raise BadAnswer(f"{artifact.id}: a range of an encoded body")
                    course.is_whole = True  # a range of the encoded bytes is none of the file
                    continue
                if answer.status_code not in _REDIRECTS:
                    found = self._check_range(artifact, answer, course)
                    if hop is not start:
                        self._targets.remember(artifact.id, hop)
                    elif hop.may_have_token:
                        self._targets.settle(artifact.id)  # the service answers itself
                    self._receive(artifact, answer, course, sink, cancelled, found)
                    return
                location = answer.headers.get("location", "")
            hop = self._next(artifact, hop, location)
        raise BadAnswer(f"{artifact.id}: more than {MOST_REDIRECTS} redirects")

    def _next(self, artifact: Artifact, hop: Hop, location: str) -> Hop:
        """Where a redirect leads. Raises `BadAnswer`."""
        url = redirected(hop.url, location)
        may_have_token = hop.may_have_token and self._session.is_api(url)
        return Hop(url, may_have_token, is_external=artifact.external_url is not None)

    def _receive(
        self,
        artifact: Artifact,
        answer: DownloadResponse,
        course: _DownloadState,
        sink: DownloadTarget,
        cancelled: threading.Event | None,
        found: tuple[int, int | None],
    ) -> None:
        offset, stop = found
        if course.etag:
            sink.version(course.etag)
        if stop is not None and offset >= stop:
            course.ended = True
            return
        read = None
        if codings_of(answer.headers):
            read = decoding(answer.read, answer.headers, artifact.id)
        try:
            with self._session.translated(answer.url):
                while stop is None or offset < stop:
                    if cancelled is not None and cancelled.is_set():
                        raise Cancelled(f"the download of {artifact.id} was given up")
                    room = sink.room(offset)
                    if stop is not None:
                        room = room[: stop - offset]
                    if read is None:
                        count = answer.readinto(room)
                    else:
                        piece = read(len(room))
                        count = len(piece)
                        room[:count] = piece
                    if not count:
                        break
                    offset += count
                    if course.ranged:
                        course.position = max(course.position, offset)
                    if not sink.take(count, more=offset != stop and answer.is_arriving()):
                        course.ended = True
                        return
                if read is not None and stop is not None and (offset < stop or read(1)):
                    raise BadAnswer(f"{artifact.id}: its decoded body is not of {stop} bytes")
        finally:
            sink.pause()
        if stop is not None and offset < stop:
            short = Unreachable(f"{artifact.id}: the body ended at byte {offset} of {stop}")
            raise Transient(short)
        if course.size_bytes is None and not course.ranged:
            course.size_bytes = offset
        course.ended = True

    def _check_range(
        self, artifact: Artifact, answer: DownloadResponse, course: _DownloadState
    ) -> tuple[int, int | None]:
        """Where the body begins and ends (None: unknown). Raises `BadAnswer` if it is not ours."""
        etag = answer.headers.get("etag")
        if course.etag and etag and etag != course.etag:
            raise ContentChanged(f"{artifact.id}: its content changed while it was read")
        found = self._find_range(artifact, answer, course)
        course.etag = etag or course.etag
        return found

    def _find_range(
        self, artifact: Artifact, answer: DownloadResponse, course: _DownloadState
    ) -> tuple[int, int | None]:
        headers = answer.headers
        if answer.status_code == 416:
            past = content_range(headers.get("content-range"))
            size_bytes = None if past is None else past.size_bytes
            self._check_size(
                artifact, course, course.position if size_bytes is None else size_bytes
            )
            if artifact.size_bytes is not None and course.position < artifact.size_bytes:
                raise BadAnswer(f"{artifact.id}: a range inside of it was refused (416)")
            return course.position, course.position
        if answer.status_code == 206:
            found = content_range(headers.get("content-range"))
            if found is None or found.start is None or found.stop is None:
                raise BadAnswer(f"{artifact.id}: a partial answer without a usable Content-Range")
            if found.start != course.position or found.stop > course.span.stop:
                raise BadAnswer(
                    f"{artifact.id}: asked for {course.position}-{course.span.stop - 1}, "
                    f"answered {found.start}-{found.stop - 1}"
                )
            if found.size_bytes is not None:
                self._check_size(artifact, course, found.size_bytes)
            return found.start, found.stop
        length_bytes = whole_number(headers.get("content-length"))
        course.ranged = False
        if length_bytes is None or codings_of(headers):
            return 0, artifact.size_bytes
        self._check_size(artifact, course, length_bytes)
        return 0, length_bytes

    def _check_size(self, artifact: Artifact, course: _DownloadState, size_bytes: int) -> None:
        for known in (artifact.size_bytes, course.size_bytes):
            if known is not None and known != size_bytes:
                raise BadAnswer(f"{artifact.id}: {size_bytes} bytes instead of {known}")
        course.size_bytes = size_bytes

    def _own(self, artifact: Artifact) -> Hop:
        return Hop(self._session.call(f"artifacts/{segment(artifact.id)}"), True, is_external=False)
