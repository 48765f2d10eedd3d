"""The ways to upload: through the controller, directly to the object store, in parts.

This room knows the calls; which way a file takes, and what happens after a crash, is decided in
``outbox``. A way the service does not have raises `Unsupported`, a file too large for one
`TooLarge`. URLs of the object store get exactly the headers the service named, and never the token;
a redirect of theirs that keeps the method (307, 308) is followed once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from artifactfs.errors import BadAnswer, Gone
from artifactfs.model import Artifact
from artifactfs.remote import wire_artifacts
from artifactfs.remote.content_encoding import decoding, read_all
from artifactfs.remote.request_body import (
    Progress,
    RequestBody,
    SendProgress,
)
from artifactfs.remote.session import (
    MOST_ANSWER_BYTES,
    HttpSession,
    redirected,
)
from artifactfs.remote.url import Url, segment
from artifactfs.remote.wire_artifacts import (
    DirectTicket,
    MultipartState,
    MultipartTicket,
    PartUrl,
)

_LISTED = 1000
_IN_ONE_PIECE_BYTES = 64 << 10
_SAME_METHOD = frozenset({307, 308})


def header_filename(filename: str) -> str:
    """A file name as a header value: Latin-1 as it is, else UTF-8 percent-encoded."""
    plain = all(32 <= ord(character) < 127 or 160 <= ord(character) < 256 for character in filename)
    if plain and "%" not in filename and filename == filename.strip():
        return filename
    return quote(filename.encode("utf-8", "surrogateescape"), safe="/ ")


class UploadsApi:
    """Sends bytes to the service."""

    def __init__(self, session: HttpSession) -> None:
        self._session = session

    def by_controller(
        self,
        source: RequestBody,
        filename: str,
        *,
        sha256: str | None = None,
        progress: Progress | None = None,
        cancelled: threading.Event | None = None,
    ) -> Artifact:
        """POST /artifacts: one request, the answer is the artifact.

        A service that knows ``X-Artifact-Sha256`` refuses bytes that are not those; others do not
        look at it.

        It is not repeated here: where the answer was lost the artifact may be there, and whoever
        tries again should ask by `start_direct` first.
        """
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Artifact-Filename": header_filename(filename),
        }
        if sha256 is not None:
            headers["X-Artifact-Sha256"] = sha256
        url = self._session.call("artifacts")
        body = None
        if source.size_bytes <= _IN_ONE_PIECE_BYTES:
            body = self._send_small(url, headers, source, progress, cancelled)
        if body is None:
            latin = {name: value.encode("latin-1") for name, value in headers.items()}
            body = self._send(
                "POST", url, latin, source, progress, cancelled, token=True, deadline_s=0.0
            )[0]
        return wire_artifacts.answered_artifact(
            wire_artifacts.parse(body, "POST /artifacts"), "POST /artifacts"
        )

    def service_now(self) -> datetime | None:
        """The present by the service's clock, up to a second early; None if it has not told."""
        return self._session.service_now()

    def find(self, sha256: str, size_bytes: int, filename: str) -> Artifact | None:
        """The newest artifact of this content and name among the newest that are listed.

        For services that cannot be asked by hash (`start_direct`) whether something has arrived.
        """
        page, _ = self._session.body(
            "GET",
            "artifacts",
            params={"limit": str(_LISTED)},
            read=lambda body: wire_artifacts.page_fast(body, "GET /artifacts"),
        )
        found = [
            one
            for one in wire_artifacts.artifacts_fast(page.entries)
            if (one.sha256, one.size_bytes, one.filename) == (sha256, size_bytes, filename)
            and one.external_url is None
        ]
        return max(found, key=lambda one: one.created_at, default=None)

    def start_direct(self, sha256: str, size_bytes: int, filename: str) -> DirectTicket | Artifact:
        """POST /artifacts/direct: where to PUT, or the artifact if the bytes are there."""
        document = self._start("direct", sha256, size_bytes, filename)
        known = wire_artifacts.existing(document, "POST /artifacts/direct")
        return known or wire_artifacts.direct_ticket(document, self._session.clock.now())

    def put_direct(
        self,
        ticket: DirectTicket,
        source: RequestBody,
        *,
        progress: Progress | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """PUT the bytes. Raises `NotAllowed` or `Gone` when the URL has expired."""
        url = self._session.named(ticket.url, "artifacts/direct")
        self._send(ticket.method, url, ticket.headers, source, progress, cancelled)

    def complete_direct(
        self, ticket: DirectTicket, sha256: str, size_bytes: int
    ) -> Artifact | None:
        """Tell the service that the bytes are there; None where it does not want to be told."""
        if ticket.complete_url is None:
            return None
        url = self._session.named(ticket.complete_url, "artifacts/direct")
        document, _ = self._session.json("POST", url, body={"sha256": sha256, "size": size_bytes})
        return wire_artifacts.answered_artifact(document, "POST /artifacts/direct/…/complete")

    def start_multipart(
        self, sha256: str, size_bytes: int, filename: str
    ) -> MultipartTicket | Artifact:
        """POST /artifacts/multipart: how to send the parts, or the artifact if it is there."""
        document = self._start("multipart", sha256, size_bytes, filename)
        known = wire_artifacts.existing(document, "POST /artifacts/multipart")
        return known or wire_artifacts.multipart_ticket(
            document, size_bytes, self._session.clock.now()
        )

    def multipart_state(self, upload_id: str) -> MultipartState:
        """What has arrived. Raises `Gone` if the upload is unknown or has expired."""
        document, _ = self._session.json("GET", self._multipart(upload_id))
        return wire_artifacts.multipart_state(document)

    def part_urls(self, upload_id: str, numbers: Sequence[int]) -> list[PartUrl]:
        """Fresh URLs for these parts. Raises `BadAnswer` if one is missing."""
        document, _ = self._session.json(
            "POST", self._multipart(upload_id, "/parts"), body={"part_numbers": list(numbers)}
        )
        urls = {part.number: part for part in wire_artifacts.part_urls(document, "POST …/parts")}
        missing = [number for number in numbers if number not in urls]
        if missing:
            raise BadAnswer(f"POST /artifacts/multipart/…/parts: no URL for part {missing[0]}")
        return [urls[number] for number in numbers]

    def put_part(
        self,
        url: PartUrl,
        source: RequestBody,
        *,
        progress: Progress | None = None,
        cancelled: threading.Event | None = None,
    ) -> str:
        """PUT one part and return its ETag. Raises `NotAllowed` or `Gone` on an expired URL."""
        target = self._session.named(url.url, "artifacts/multipart")
        _, headers = self._send("PUT", target, url.headers, source, progress, cancelled)
        etag = headers.get("ETag", "")
        if not etag:
            raise BadAnswer(f"part {url.number}: the object store answered without an ETag")
        return etag

    def complete_multipart(
        self, upload_id: str, sha256: str, size_bytes: int, parts: Sequence[tuple[int, str]]
    ) -> Artifact:
        """Have the parts joined. `parts` are numbers and ETags."""
        body = {
            "sha256": sha256,
            "size": size_bytes,
            "parts": [{"part_number": number, "etag": etag} for number, etag in parts],
        }
        document, _ = self._session.json("POST", self._multipart(upload_id, "/complete"), body=body)
        return wire_artifacts.answered_artifact(document, "POST /artifacts/multipart/…/complete")

    def abandon_multipart(self, upload_id: str) -> None:
        """Give the upload up; one that is gone already is fine."""

        def attempt() -> None:
            with self._session.open("DELETE", self._session.call(self._multipart(upload_id))):
                return

        try:
            self._session.run(attempt, deadline_s=5)
        except Gone:
            return

    def _multipart(self, upload_id: str, rest: str = "") -> str:
        return f"artifacts/multipart/{segment(upload_id)}{rest}"

    def _start(self, way: str, sha256: str, size_bytes: int, filename: str) -> object:
        body = {
            "sha256": sha256,
            "size": size_bytes,
            "filename": filename.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        }
        # Not repeated here: of bytes that the service has, each request makes one more artifact.
        document, _ = self._session.json(
            "POST", f"artifacts/{way}", body=body, optional=True, deadline_s=0.0
        )
        return document

    def _send_small(
        self,
        url: Url,
        headers: Mapping[str, str],
        source: RequestBody,
        progress: Progress | None,
        cancelled: threading.Event | None,
    ) -> bytes | None:
        """Send a whole file in one piece; None where only the library can."""
        with source.open() as file:
            data = file.read(source.size_bytes)
        if len(data) != source.size_bytes:
            raise ConnectionError("the file became shorter while it was sent")
        if progress is not None:
            progress(len(data))
        return self._session.run(
            lambda: self._session.post(url, headers, data), cancelled=cancelled, deadline_s=0.0
        )

    def _send(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str | bytes],
        source: RequestBody,
        progress: Progress | None,
        cancelled: threading.Event | None,
        *,
        token: bool = False,
        deadline_s: float | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:
        """Send a body. Where no token goes along, a redirect that keeps the method is followed."""
        length = {"Content-Length": str(source.size_bytes)}

        def attempt(target: Url, accept: frozenset[int]) -> tuple[bytes, Mapping[str, str]] | Url:
            with self._session.open(
                method,
                target,
                headers=dict(headers) | length,  # type: ignore[arg-type]
                data=lambda: SendProgress(source, progress, cancelled),
                token=token,
                accept=accept,
            ) as response:
                if response.status_code in accept:
                    return redirected(target, response.headers.get("Location", ""))
                read = decoding(response.raw.read, response.headers, f"{method} {target.shown}")
                return read_all(read, MOST_ANSWER_BYTES), response.headers

        def attempts() -> tuple[bytes, Mapping[str, str]]:
            answer = attempt(url, frozenset() if token else _SAME_METHOD)
            if isinstance(answer, Url):
                answer = attempt(answer, frozenset())
            assert not isinstance(answer, Url)
            return answer

        return self._session.run(attempts, cancelled=cancelled, deadline_s=deadline_s)
