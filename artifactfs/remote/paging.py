"""Lists that come page by page.

The next page is named by a cursor in the answer, which may be a URL, or by a ``Link`` header
(RFC 8288). A service that names the same page again and again is not followed for ever. A next page
that lies elsewhere is refused: a list is the service's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import requests

from artifactfs.errors import BadAnswer
from artifactfs.remote import wire
from artifactfs.remote.session import Session
from artifactfs.remote.url import of_header, parse

PAGE = 10_000  # as a service may show fewer, and a list of any length is a handful of calls
MOST_PAGES = 100_000


def pages(
    session: Session,
    call: str,
    read: Callable[[bytes, str], wire.Page],
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
