"""Ranges and conditions of a request (RFC 9110 §13 and §14). Pure.

The ETag is the SHA-256 of a content that never changes, so that every comparison is exact. One
range is answered by its bytes; several, or what is no range, by the whole, which the standard
leaves open. Dates in conditions never match: there are none to compare them with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)
_TAGS = re.compile(r'(W/)?"([^"]*)"')
_MOST_DIGITS = 18


class Unsatisfiable(Exception):
    """The range has no byte of the content: 416."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is to be sent: the half-open span, and whether it is an answer to a range."""

    start: int
    stop: int
    partial: bool


def part_of(headers: Mapping[str, str], etag: str, size_bytes: int) -> Part:
    """What a GET with these headers gets. Raises `Unsatisfiable`."""
    whole = Part(0, size_bytes, False)
    if headers.get("If-Range", etag).strip() != etag:
        return whole
    matched = _RANGE.fullmatch(headers.get("Range", "").strip())
    if matched is None or matched.groups() == ("", ""):
        return whole
    first, last = matched.groups()
    if not first:
        count = min(_number(last), size_bytes)
        if not count:
            raise Unsatisfiable
        return Part(size_bytes - count, size_bytes, True)
    start, end = _number(first), _number(last) if last else size_bytes
    if end < start:
        if last:
            return whole
        raise Unsatisfiable
    if start >= size_bytes:
        raise Unsatisfiable
    return Part(start, min(end + 1, size_bytes), True)


def not_modified(headers: Mapping[str, str], etag: str) -> bool:
    """Whether ``If-None-Match`` names what is there: 304. Weak tags count."""
    return _names(headers.get("If-None-Match", ""), etag, weak=True)


def precondition_fails(headers: Mapping[str, str], etag: str) -> bool:
    """Whether ``If-Match`` does not name what is there: 412. Weak tags do not count."""
    wanted = headers.get("If-Match")
    return wanted is not None and not _names(wanted, etag, weak=False)


def _names(header: str, etag: str, *, weak: bool) -> bool:
    if header.strip() == "*":
        return True
    return any(f'"{tag}"' == etag for mark, tag in _TAGS.findall(header) if weak or not mark)


def _number(digits: str) -> int:
    """A number however many digits it has; one beyond every size stays beyond."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS
