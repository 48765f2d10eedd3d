"""The list of artifacts, decoded as quickly as its hundred thousand entries deserve.

(A third leaf of ``wire``, which says what an artifact looks like and what else is accepted.)

Nearly every entry has exactly the shape that API.md fixes. So a page is parted into the bytes of
its entries first, and each of them is decoded by `msgspec` into `_Usual`, a class with that shape,
without a dictionary in between. What does not fit, a page in other words or an entry with more,
less or other in it, is read by ``wire`` as everything else is; whether an entry is usual makes no
difference to the artifact that comes out, which a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from sys import intern
from typing import Annotated, Any

import msgspec

from artifactfs.model import Artifact
from artifactfs.remote import wire

LISTS = ("artifacts", "items", "data")

_Named = Annotated[str, msgspec.Meta(min_length=1)]
_NOTHING: Mapping[str, Any] = {}
_UNLIKE = (msgspec.MsgspecError, RecursionError, ValueError)


class _Usual(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An artifact that was uploaded, as API.md has it: every key is there, and none else."""

    id: _Named
    sha256: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    size: Annotated[int, msgspec.Meta(ge=0, le=wire.MOST_SIZE_BYTES)]
    filename: _Named
    content_type: _Named
    created_at: datetime
    expires_at: datetime
    status: _Named
    external_url: None
    job_id: str | None


class _UsualPage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    artifacts: list[msgspec.Raw]
    next_cursor: str | None


_page = msgspec.json.Decoder(_UsualPage)
_usual = msgspec.json.Decoder(_Usual)


def page(body: bytes, what: str) -> wire.Page:
    """A page of the list, its entries for `artifacts` alone. Raises `BadAnswer`."""
    try:
        found = _page.decode(body)
    except _UNLIKE:
        return wire.page(wire.parse(body, what), what, LISTS)
    return wire.Page(tuple(found.artifacts), wire.cursor_of({"next": found.next_cursor}, what))


def artifacts(entries: tuple[Any, ...], warned: set[str] | None = None) -> Iterator[Artifact]:
    """The usable artifacts of a page; each other one is named in a warning, see `wire.usable`."""
    for entry in entries:
        if type(entry) is not msgspec.Raw:
            yield from wire.artifacts((entry,), warned)
        elif (found := _read(entry)) is not None:
            yield found
        else:
            yield from wire.artifacts((wire.parse_entry(bytes(entry)),), warned)


def _read(entry: msgspec.Raw) -> Artifact | None:
    """The artifact, or None if the entry is unusual. Strings that many share are held once."""
    try:
        one = _usual.decode(entry)
    except _UNLIKE:
        return None
    created, expires = one.created_at, one.expires_at
    if created.tzinfo is not UTC or expires.tzinfo is not UTC or not wire.is_hash(one.sha256):
        return None
    if not wire.FIRST_TIME <= created < wire.END_OF_CREATED or expires < wire.FIRST_TIME:
        return None
    return Artifact(
        one.id, one.filename, created, expires, one.sha256, one.size,
        intern(one.content_type), intern(one.status), None, one.job_id, _NOTHING,
    )  # fmt: skip
