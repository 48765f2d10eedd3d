"""The service's JSON, whatever shape it has, and the only place that looks at it.

(What concerns jobs stands on a second leaf, ``wire_jobs``; the list of artifacts, which has to be
read quickly, on a third, ``wire_listed``.)

Documented are few shapes; what stands here is what the client asks for and everything it must also
accept (other key names, wrapped or bare lists, times in several forms). What is missing and needed
raises `BadAnswer` that names the field, so that nobody guesses on. Nothing here talks to the
network or logs a value that could be secret.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from sys import intern
from typing import Any

from artifactfs.artifact import Artifact
from artifactfs.errors import BadAnswer

RETENTION = timedelta(days=7)
MOST_WORDS = 300
MOST_SIZE_BYTES = 1 << 62

_HASH = re.compile(r"[0-9a-f]{64}")
_SHAPELESS = (RecursionError, ValueError)

_ID = ("id", "artifact_id")
_FILENAME = ("filename", "name", "file_name")
_SIZE = ("size", "size_bytes", "bytes")
_HASHES = ("sha256", "hash", "digest")
_CREATED = ("created_at", "inserted_at")
_EXTERNAL = ("external_url", "url", "source_url")
_KNOWN = frozenset(
    {*_ID, *_FILENAME, *_SIZE, *_HASHES, *_CREATED, *_EXTERNAL}
    | {"expires_at", "content_type", "status", "job_id"}
)
_NOTHING: Mapping[str, Any] = {}

_log = logging.getLogger(__name__)


def parse(body: bytes, what: str) -> Any:
    """The JSON in `body`; `what` names the call in the `BadAnswer` if it is none."""
    try:
        return json.loads(body)
    except _SHAPELESS as error:
        raise BadAnswer(f"{what}: the answer is not JSON") from error


def words(text: str) -> str:
    """Someone else's words for our messages: one line, bounded, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MOST_WORDS]).split())
    return line if len(line) <= MOST_WORDS else line[: MOST_WORDS - 1] + "…"


@dataclass(frozen=True, slots=True)
class Complaint:
    """What the service says about an error."""

    message: str
    code: str = ""
    action: str = ""


def complaint(body: bytes) -> Complaint:
    """The service's own words out of an error's body, whatever that is."""
    try:
        document = json.loads(body)
    except _SHAPELESS:
        text = body.decode("utf-8", "replace")
        if "<html" in text[:500].lower() or "<!doctype" in text[:500].lower():
            title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
            text = title[1] if title else "a web page instead of an answer"
        return Complaint(words(text))
    if isinstance(document, dict):
        inner = document.get("error", document)
        if isinstance(inner, str):
            return Complaint(words(inner))
        if isinstance(inner, dict):
            return Complaint(
                words(_text(inner, "message") or _text(document, "message")),
                words(_text(inner, "code")),
                words(_text(inner, "recommended_action")),
            )
    return Complaint("")


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


def _first(document: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        value = document.get(key)
        if value is not None:
            return value
    return None


def _mapping(document: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise BadAnswer(f"{what}: an object is expected, not {type(document).__name__}")
    return document


def time_of(value: Any) -> datetime | None:
    """A time in UTC from ISO 8601, with or without fraction and zone, or epoch (milli)seconds."""
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value.strip())
            if parsed.tzinfo is UTC:
                return parsed
            return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
        except (ValueError, OverflowError):
            return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        try:
            return datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    return None


def is_hash(text: str) -> bool:
    """Whether `text` is a hash as we write it: 64 lowercase hex digits."""
    return _HASH.fullmatch(text) is not None


def hash_of(value: Any) -> str | None:
    """64 lowercase hex digits from a hash as the service writes it; ValueError if it is none."""
    if value is None or value == "":
        return None
    digits = value.lower().removeprefix("sha256:") if isinstance(value, str) else ""
    if not _HASH.fullmatch(digits):
        raise ValueError("its hash is not 64 hex digits")
    return digits


def size_of(value: Any) -> int | None:
    """A size in bytes; ValueError if it cannot be one."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("its size is not a number")
    if not 0 <= value <= MOST_SIZE_BYTES:
        raise ValueError("its size is impossible")
    return value


def artifact(document: Any) -> Artifact:
    """One artifact; what is the same in a hundred thousand is held once.

    Raises ValueError that says why it is not usable.
    """
    if isinstance(document, dict):
        for wrapper in ("artifact", "data"):
            inner = document.get(wrapper)
            if isinstance(inner, dict) and _first(document, _ID) is None:
                document = inner
    if not isinstance(document, dict):
        raise ValueError("it is not an object")
    identity = _first(document, _ID)
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity:
        raise ValueError("it has no id")
    filename = _first(document, _FILENAME)
    created = time_of(_first(document, _CREATED)) or datetime.fromtimestamp(0, UTC)
    expires = time_of(document.get("expires_at"))
    if expires is None:
        known = _first(document, _CREATED) is not None
        expires = created + RETENTION if known else datetime.max.replace(tzinfo=UTC)
    external = _first(document, _EXTERNAL)
    job = document.get("job_id")
    more = document.keys() - _KNOWN
    return Artifact(
        id=identity,
        filename=filename if isinstance(filename, str) and filename else identity,
        created_at=created,
        expires_at=expires,
        sha256=hash_of(_first(document, _HASHES)),
        size_bytes=size_of(_first(document, _SIZE)),
        content_type=intern(_text(document, "content_type") or "application/octet-stream"),
        status=intern(_text(document, "status") or "ready"),
        external_url=external if isinstance(external, str) and external else None,
        job_id=str(job) if isinstance(job, str | int) else None,
        metadata={key: value for key, value in document.items() if key in more} or _NOTHING,
    )


def answered_artifact(document: Any, what: str) -> Artifact:
    """The artifact that a call answers with. Raises `BadAnswer`."""
    try:
        return artifact(document)
    except ValueError as error:
        raise BadAnswer(f"{what}: no usable artifact in the answer: {error}") from error


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: the raw entries, and where the next one is (None: there is none)."""

    entries: tuple[Any, ...]
    cursor: str | None


def page(document: Any, what: str, keys: tuple[str, ...]) -> Page:
    """A page from a bare array or an object that has the list under one of `keys`."""
    if isinstance(document, list):
        return Page(tuple(document), None)
    mapping = _mapping(document, what)
    entries = _first(mapping, keys)
    if not isinstance(entries, list):
        raise BadAnswer(f"{what}: the answer has no list {' or '.join(keys)}")
    cursor = _first(mapping, ("next_cursor", "next", "next_page_token"))
    if isinstance(cursor, int) and not isinstance(cursor, bool):
        cursor = str(cursor)
    return Page(tuple(entries), cursor if isinstance(cursor, str) and cursor else None)


def artifacts(entries: tuple[Any, ...]) -> Iterator[Artifact]:
    """The usable artifacts of a page; each other one is named in a warning."""
    for entry in entries:
        try:
            yield artifact(entry)
        except ValueError as error:
            name = _first(entry, (*_ID, *_FILENAME)) if isinstance(entry, dict) else entry
            _log.warning("an artifact is left out, %s: %s", error, words(repr(name))[:120])


@dataclass(frozen=True, slots=True)
class DirectTicket:
    """Leave to PUT one file to the object store."""

    artifact_id: str | None
    method: str
    url: str
    headers: Mapping[str, str]
    complete_url: str | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class PartUrl:
    """Where one part is PUT, with which headers. Parts count from 1."""

    number: int
    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MultipartTicket:
    """A multipart upload that was begun; `parts` may hold only the first URLs."""

    artifact_id: str | None
    upload_id: str
    part_size_bytes: int
    part_count: int
    parts: tuple[PartUrl, ...]
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that the service has."""

    number: int
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class MultipartState:
    """What has arrived of a multipart upload."""

    status: str
    part_size_bytes: int
    part_count: int
    uploaded: tuple[UploadedPart, ...]


def existing(document: Any, what: str) -> Artifact | None:
    """The artifact of an answer that says that the bytes are there already."""
    mapping = _mapping(document, what)
    if mapping.get("status") != "exists":
        return None
    return answered_artifact(mapping, what)


def direct_ticket(document: Any, now: datetime) -> DirectTicket:
    """Raises `BadAnswer` that names what is missing."""
    what = "POST /artifacts/direct"
    mapping = _mapping(document, what)
    url = _first(mapping, ("upload_url", "url"))
    if not _is_url(url):
        raise BadAnswer(f"{what}: the answer has no usable upload_url")
    identity = _first(mapping, _ID)
    return DirectTicket(
        artifact_id=identity if isinstance(identity, str) else None,
        method=_text(mapping, "method").upper() or "PUT",
        url=url,
        headers=_headers(mapping.get("headers"), what),
        complete_url=_text(mapping, "complete_url") or None,
        expires_at=_expiry(mapping, now),
    )


def multipart_ticket(document: Any, size_bytes: int, now: datetime) -> MultipartTicket:
    """Raises `BadAnswer` that names what is missing or cannot be."""
    what = "POST /artifacts/multipart"
    mapping = _mapping(document, what)
    upload_id = mapping.get("upload_id")
    if not isinstance(upload_id, str) or not upload_id:
        raise BadAnswer(f"{what}: the answer has no upload_id")
    part_size = _count(mapping, "part_size", what)
    part_count = -(-size_bytes // part_size) or 1
    told = mapping.get("part_count")
    if told is not None and told != part_count:
        raise BadAnswer(f"{what}: part_count is {words(repr(told))}, {part_count} is needed")
    identity = _first(mapping, _ID)
    return MultipartTicket(
        artifact_id=identity if isinstance(identity, str) else None,
        upload_id=upload_id,
        part_size_bytes=part_size,
        part_count=part_count,
        parts=part_urls(mapping, what),
        expires_at=_expiry(mapping, now),
    )


def part_urls(document: Any, what: str) -> tuple[PartUrl, ...]:
    """The URLs of parts in an answer."""
    parts = _mapping(document, what).get("parts", [])
    if not isinstance(parts, list):
        raise BadAnswer(f"{what}: parts is not a list")
    found = []
    for part in parts:
        mapping = _mapping(part, what)
        url = _first(mapping, ("url", "upload_url"))
        if not _is_url(url):
            raise BadAnswer(f"{what}: a part has no usable url")
        number = _count(mapping, "part_number", what)
        found.append(PartUrl(number, url, _headers(mapping.get("headers"), what)))
    return tuple(found)


def multipart_state(document: Any) -> MultipartState:
    """Raises `BadAnswer` that names what is missing."""
    what = "GET /artifacts/multipart/…"
    mapping = _mapping(document, what)
    uploaded = mapping.get("uploaded", [])
    if not isinstance(uploaded, list):
        raise BadAnswer(f"{what}: uploaded is not a list")
    parts = []
    for entry in uploaded:
        part = _mapping(entry, what)
        etag = _text(part, "etag")
        if not etag:
            raise BadAnswer(f"{what}: an uploaded part has no etag")
        number, size = _count(part, "part_number", what), part.get("size", 0)
        parts.append(UploadedPart(number, size if isinstance(size, int) else 0, etag))
    return MultipartState(
        status=_text(mapping, "status"),
        part_size_bytes=_count(mapping, "part_size", what),
        part_count=_count(mapping, "part_count", what),
        uploaded=tuple(parts),
    )


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("http://", "https://", "/"))


def _count(mapping: Mapping[str, Any], key: str, what: str) -> int:
    value = mapping.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST_SIZE_BYTES:
        raise BadAnswer(f"{what}: the answer has no usable {key}")
    return value


def _headers(value: Any, what: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadAnswer(f"{what}: headers is not an object")
    headers = {str(name): str(content) for name, content in value.items()}
    if any(ord(c) < 32 for pair in headers.items() for text in pair for c in text):
        raise BadAnswer(f"{what}: a header holds control characters")
    return headers


def _expiry(mapping: Mapping[str, Any], now: datetime) -> datetime | None:
    expires = time_of(mapping.get("expires_at"))
    seconds = mapping.get("expires_in")
    if expires is None and isinstance(seconds, int | float) and not isinstance(seconds, bool):
        try:
            expires = now + timedelta(seconds=seconds)
        except (OverflowError, ValueError):
            return None
    return expires
