"""Values of header fields that a peer may write in any form.

A value that is not well formed, or that Python's numbers and dates do not hold, is None: the caller
treats the field as absent. Nothing here raises, so no header can end a thread or make a listing
fail with an exception that the layers above do not know.
"""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, datetime
from typing import NamedTuple

_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes[ \t]+(?:([0-9]+)-([0-9]+)|\*)/([0-9]+|\*)")
# Dates are added to and compared, which overflows at the ends of the calendar.
_FIRST_DATE = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_DATE = datetime(2261, 12, 31, tzinfo=UTC)


class ContentRange(NamedTuple):
    """``Content-Range`` (RFC 9110 §14.4): half-open; `start` and `stop` are None in ``bytes */n``.

    `size_bytes` is the size of the whole, None where it is ``*``.
    """

    start: int | None
    stop: int | None
    size_bytes: int | None


def whole_number(value: str | None) -> int | None:
    """Return a number of decimal digits (RFC 9110 §8.6), below 10**18."""
    value = (value or "").strip(" \t")
    return int(value) if _NUMBER.fullmatch(value) else None


def content_range(value: str | None) -> ContentRange | None:
    """Return a range of bytes."""
    found = _CONTENT_RANGE.fullmatch((value or "").strip(" \t"))
    if found is None:
        return None
    first, last, size = (whole_number(part) for part in found.groups())
    if size is None and found[3] != "*":
        return None
    if found[1] is None:
        return ContentRange(None, None, size)
    if first is None or last is None or last < first:
        return None
    return ContentRange(first, last + 1, size)


def http_date(value: str | None) -> datetime | None:
    """Return a date (RFC 9110 §5.6.7), cut to 1970 to 2261; one without a zone is UTC."""
    try:
        date = email.utils.parsedate_to_datetime(value or "")
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return min(max(date, _FIRST_DATE), _LAST_DATE)
