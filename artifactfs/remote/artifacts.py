"""The calls about artifacts as such: list, head, references."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from artifactfs.errors import Gone, Unsupported
from artifactfs.model import Artifact
from artifactfs.remote import wire, wire_listed
from artifactfs.remote.encoding import codings_of
from artifactfs.remote.header_values import http_date, whole_number
from artifactfs.remote.paging import pages
from artifactfs.remote.session import Session
from artifactfs.remote.url import segment


@dataclass(frozen=True, slots=True)
class Head:
    """What a HEAD request tells; None where the service does not say."""

    size_bytes: int | None
    etag: str | None


class ArtifactsApi:
    """Lists artifacts and tells about one."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._warned: set[str] = set()  # what is odd is so in every listing, and named once

    def list(self, *, deadline_s: float | None = None) -> Iterator[Artifact]:
        """Every artifact, page by page, in the service's order."""
        listed = pages(self._session, "artifacts", wire_listed.page, deadline_s=deadline_s)
        with self._listing():
            for entries in listed:
                yield from wire_listed.artifacts(entries, self._warned)

    def probe(self) -> datetime | None:
        """Ask for one artifact, to see whether service and token are in order.

        Returns the service's clock, to the second, if it said (RFC 9110 §6.6.1).
        """
        deadline_s = min(5, self._session.retry_for_s)
        with self._listing():
            document, headers = self._session.json(
                "GET", "artifacts", params={"limit": "1"}, deadline_s=deadline_s
            )
        wire.page(document, "GET /artifacts", wire_listed.LISTS)
        return http_date(headers.get("Date"))

    @contextlib.contextmanager
    def _listing(self) -> Iterator[None]:
        """Name the remedy where the list, which every service has, is not found."""
        try:
            yield
        except Gone as error:
            url = self._session.base.text.rstrip("/")
            raise Gone(
                error.message, remedy=f"set url to the service's base URL, which {url} is not"
            ) from error

    def head(self, artifact_id: str) -> Head | None:
        """Size and ETag, or None where the service does not know HEAD. Raises `Gone` for 410."""
        url = self._session.call(f"artifacts/{segment(artifact_id)}")

        def attempt() -> Head | None:
            with self._session.open(
                "HEAD", url, optional=True, accept=frozenset({301, 302, 303, 307, 308})
            ) as response:
                if response.status_code >= 300:
                    return None
                size_bytes = whole_number(response.headers.get("Content-Length"))
                if codings_of(response.headers):
                    size_bytes = None  # that of the encoded bytes
                return Head(size_bytes, response.headers.get("ETag"))

        try:
            return self._session.run(attempt)
        except Unsupported:
            return None

    def add_external(
        self, url: str, filename: str, *, sha256: str | None = None, size_bytes: int | None = None
    ) -> Artifact:
        """List a reference to `url`. Raises `Unsupported` where the service has none."""
        body = {"url": url, "filename": filename, "sha256": sha256, "size": size_bytes}
        document, _ = self._session.json(
            "POST",
            "artifacts/external",
            body={key: value for key, value in body.items() if value is not None},
            optional=True,
        )
        return wire.answered_artifact(document, "POST /artifacts/external")
