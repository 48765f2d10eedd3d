"""Lists that come page by page.

The next page is named by a cursor in the answer, or by a ``Link`` header (RFC 8288). A service that
names the same page again and again is not followed for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin

import requests

from artifactfs.errors import BadAnswer
from artifactfs.remote import wire
from artifactfs.remote.session import Session

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
    path: str = call
    params: dict[str, str] | None = {"limit": str(PAGE)}
    seen: set[str] = set()
    for _ in range(MOST_PAGES):
        page, headers = session.body(
            "GET",
            path,
            params=params,
            optional=optional,
            deadline_s=deadline_s,
            read=lambda body: read(body, f"GET /{call}"),
        )
        yield page.entries
        following = requests.utils.parse_header_links(headers.get("Link", ""))
        link = next((one["url"] for one in following if one.get("rel") == "next"), None)
        if page.cursor is not None:
            params = {"limit": str(PAGE), "cursor": page.cursor}
            mark = page.cursor
        elif link is not None:
            path, params, mark = urljoin(session.absolute(call), link), None, link
        else:
            return
        if mark in seen:
            raise BadAnswer(f"GET /{call}: the same page comes again and again")
        seen.add(mark)
