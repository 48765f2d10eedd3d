"""The calls about artifacts as such: list, head, references.

Lists that come page by page.

The next page is named by a cursor in the answer, which may be a URL, or by a ``Link`` header
(RFC 8288). A service that names the same page again and again is not followed for ever. A next page
that lies elsewhere is refused: a list is the service's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests

from artifactfs.errors import (
    BadAnswer,
    Gone,
    Unsupported,
)
from artifactfs.model import Artifact
from artifactfs.remote import wire_artifacts
from artifactfs.remote.content_encoding import codings_of
from artifactfs.remote.header_values import http_date, whole_number
from artifactfs.remote.session import HttpSession
from artifactfs.remote.url import (
    of_header,
    parse,
    segment,
)


@dataclass(frozen=True, slots=True)
class ArtifactHead:
    """What a HEAD request tells; None where the service does not say."""

    size_bytes: int | None
    etag: str | None


class ArtifactsApi:
    """Lists artifacts and tells about one."""

    def __init__(self, session: HttpSession) -> None:
        self._session = session
        self._warned: set[str] = set()  # what is odd is so in every listing, and named once

    def list(self, *, deadline_s: float | None = None) -> Iterator[Artifact]:
        """Every artifact, page by page, in the service's order."""
        listed = pages(self._session, "artifacts", wire_artifacts.page_fast, deadline_s=deadline_s)
        with self._listing():
            for entries in listed:
                yield from wire_artifacts.artifacts_fast(entries, self._warned)

    def probe(self) -> datetime | None:
        """Ask for one artifact, to see whether service and token are in order.

        Returns the service's clock, to the second, if it said (RFC 9110 §6.6.1).
        """
        deadline_s = min(5, self._session.retry_for_s)
        with self._listing():
            document, headers = self._session.json(
                "GET", "artifacts", params={"limit": "1"}, deadline_s=deadline_s
            )
        wire_artifacts.page(document, "GET /artifacts", wire_artifacts.LISTS)
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

    def head(self, artifact_id: str) -> ArtifactHead | None:
        """Size and ETag, or None where the service does not know HEAD. Raises `Gone` for 410."""
        url = self._session.call(f"artifacts/{segment(artifact_id)}")

        def attempt() -> ArtifactHead | None:
            with self._session.open(
                "HEAD", url, optional=True, accept=frozenset({301, 302, 303, 307, 308})
            ) as response:
                if response.status_code >= 300:
                    return None
                size_bytes = whole_number(response.headers.get("Content-Length"))
                if codings_of(response.headers):
                    size_bytes = None  # that of the encoded bytes
                return ArtifactHead(size_bytes, response.headers.get("ETag"))

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
        return wire_artifacts.answered_artifact(document, "POST /artifacts/external")


PAGE = 10_000  # as a service may show fewer, and a list of any length is a handful of calls
MOST_PAGES = 100_000


def pages(
    session: HttpSession,
    call: str,
    read: Callable[[bytes, str], wire_artifacts.ArtifactPage],
    *,
    optional: bool = False,
    deadline_s: float | None = None,
) -> Iterator[tuple[Any, ...]]:
    """The raw entries of GET `call`, a page at a time, as `read` finds them in an answer."""
    url = session.call(call)
    params: dict[str, str] | None = {"limit": str(PAGE)}
    seen: set[str] = set()
    for _ in range(MOST_PAGES):
        page, headers = session.body(
            "GET",
            url,
            params=params,
            optional=optional,
            deadline_s=deadline_s,
            read=lambda body: read(body, f"GET /{call}"),
        )
        yield page.entries
        following = requests.utils.parse_header_links(of_header(headers.get("Link", "")))
        link = next((one["url"] for one in following if one.get("rel") == "next"), None)
        cursor = page.cursor
        if cursor is not None and cursor.startswith(("http://", "https://")):
            cursor, link = None, cursor
        if cursor is not None:
            params = {"limit": str(PAGE), "cursor": cursor}
            mark = cursor
        elif link is not None:
            url, params, mark = parse(link, url), None, link
            if not session.is_api(url):
                raise BadAnswer(f"GET /{call}: the next page is {url.shown}, not of the service")
        else:
            return
        if mark in seen:
            raise BadAnswer(f"GET /{call}: the same page comes again and again")
        seen.add(mark)
