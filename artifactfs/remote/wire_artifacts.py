"""The service's JSON, whatever shape it has, and the only place that looks at it.

(What concerns jobs stands on a second leaf, ``wire_jobs``; the list of artifacts, which has to be
read quickly, on a third, ``wire_artifacts``.)

Documented are few shapes; what stands here is what the client asks for and everything it must also
accept (other key names, wrapped or bare lists, times in several forms). What is missing and needed
raises `BadAnswer` that names the field, so that nobody guesses on. Nothing here talks to the
network or logs a value that could be secret.

**One entry of a list never costs the others.** `parse` takes JSON apart where the decoder refuses
it as a whole (nesting too deep for the stack, a token that is no JSON in one entry), and puts
`Unreadable` in the place of the smallest part that cannot be read. What it returns can be compared,
copied and encoded again: it is nested at most some hundred levels, and a number that Python's
numbers do not hold stands as its text. An entry whose id, size or hash is unusable is skipped with
a warning (`usable`). Any other field that is unusable counts as absent: times outside 1970 to 2261
(9999 for an expiry) above all, because what computes with a time uses nanoseconds in 64 bits.

The list of artifacts, decoded as quickly as its hundred thousand entries deserve.

(A third leaf of ``wire_artifacts``, which says what an artifact looks like and what else is
accepted.)

Nearly every entry has exactly the shape that API.md fixes. So a page is parted into the bytes of
its entries first, and each of them is decoded by `msgspec` into `_PlainArtifact`, a class with that
shape, without a dictionary in between. What does not fit, a page in other words or an entry with
more, less or other in it, is read by ``wire_artifacts`` as everything else is; whether an entry is
usual makes no difference to the artifact that comes out, which a test compares.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from sys import intern
from typing import Annotated, Any, TypeVar

import msgspec

from artifactfs.errors import BadAnswer
from artifactfs.model import Artifact

RETENTION = timedelta(days=7)
MOST_WORDS = 300
MOST_SIZE_BYTES = 1 << 62
MAX_DEPTH = 100
FIRST_TIME = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_CREATED = datetime(2262, 1, 1, tzinfo=UTC)
LAST_TIME = datetime.max.replace(tzinfo=UTC)

_HASH = re.compile(r"[0-9a-f]{64}")
_UNUSABLE = (ValueError, ArithmeticError, RecursionError)
_MAX_DIGITS = 600  # int() of more can be refused (sys.set_int_max_str_digits), from 640 on
_MAX_SPLITS = 8
_MAX_SHOWN = 120
_MAX_WARNED = 10_000
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},:]', re.DOTALL)
_CLOSED_BY = {"]": "[", "}": "{"}

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


T = TypeVar("T")


class Unreadable(str):
    """The beginning of a part of an answer that is not JSON, or is nested too deeply."""

    __slots__ = ()


def parse(body: bytes | str, what: str) -> Any:
    """The JSON in `body`; `what` names the call in the `BadAnswer` if it is none."""
    try:
        return _read(_text_of(body), _MAX_SPLITS, in_list=False)
    except ValueError as error:
        raise BadAnswer(f"{what}: the answer is not JSON") from error


def parse_entry(body: bytes | str) -> Any:
    """The JSON of one entry of a list, `Unreadable` where it is none."""
    return _read(_text_of(body), _MAX_SPLITS, in_list=True)


def _text_of(body: bytes | str) -> str:
    if isinstance(body, str):
        return body
    return body.decode(json.detect_encoding(body), "replace")


def _whole_number(text: str) -> Any:
    return int(text) if len(text) <= _MAX_DIGITS else text


def _fraction(text: str) -> Any:
    number = float(text)
    return number if math.isfinite(number) else text


_decoder = json.JSONDecoder(
    strict=False, parse_int=_whole_number, parse_float=_fraction, parse_constant=str
)


def _read(text: str, splits: int, *, in_list: bool) -> Any:
    """The value of `text`, taken apart where it cannot be read as a whole.

    Raises ValueError for what is not JSON outside of a list.
    """
    try:
        found = _decoder.decode(text)
        if _is_shallow(found, MAX_DEPTH):
            return found
        refused = None
    except ValueError as error:
        refused = error
    except RecursionError:
        refused = None
    text = text.strip()
    try:
        if splits and text.startswith("{"):
            members = _members(text)
            return {key: _read(value, splits - 1, in_list=in_list) for key, value in members}
        if splits and text.startswith("["):
            return [_read(item, splits - 1, in_list=True) for _, item in _parts(text)]
        if refused is not None:
            raise refused
    except ValueError:
        if not in_list:
            raise
    return Unreadable(text[:_MAX_SHOWN])


def _is_shallow(value: Any, levels: int) -> bool:
    if type(value) is dict:
        value = value.values()
    elif type(value) is not list:
        return True
    return levels > 0 and all(
        _is_shallow(one, levels - 1) for one in value if type(one) is dict or type(one) is list
    )


def _members(text: str) -> Iterator[tuple[str, str]]:
    for key, value in _parts(text):
        name = None if key is None else _decoder.decode(key)
        if not isinstance(name, str):
            raise ValueError("a member of an object has no name")
        yield name, value


def _parts(text: str) -> Iterator[tuple[str | None, str]]:
    """The members (name and value) of an object, the items (None and value) of an array.

    Only brackets, strings, commas and colons are looked at. Raises ValueError where they do not
    fit together.
    """
    open_brackets: list[str] = []
    start, colon, count = 1, None, 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign == '"':
            raise ValueError("a string does not end")
        if sign in ("[", "{"):
            open_brackets.append(sign)
        elif sign == ":" and len(open_brackets) == 1 and colon is None:
            colon = token.start()
        elif sign in ("]", "}", ","):
            if sign != "," and open_brackets.pop() != _CLOSED_BY[sign]:
                raise ValueError("brackets do not match")
            if len(open_brackets) > (sign == ","):
                continue
            key = None if colon is None or text[0] == "[" else text[start:colon]
            value = text[start if key is None or colon is None else colon + 1 : token.start()]
            if value.strip():
                yield key, value
                count += 1
            elif sign == "," or count:
                raise ValueError("a value is missing")
            start, colon = token.end(), None
            if not open_brackets:
                break
    if open_brackets or text[start:].strip():
        raise ValueError("it has no end, or more behind it")


def usable(
    entries: Iterable[Any], read: Callable[[Any], T], what: str, warned: set[str] | None = None
) -> Iterator[T]:
    """What `read` makes of each entry; one that it refuses is named in a warning.

    A warning that is in `warned` is not repeated.
    """
    for entry in entries:
        try:
            found = read(entry)
        except _UNUSABLE as error:
            _warn(f"{what} is left out, {error}: {_described(entry)}", warned)
        else:
            yield found


def _warn(message: str, warned: set[str] | None) -> None:
    if warned is not None:
        if message in warned:
            return
        if len(warned) >= _MAX_WARNED:
            warned.clear()
        warned.add(message)
    _log.warning("%s", message)


def _described(entry: Any) -> str:
    """An entry in few words, also one that is large."""
    if isinstance(entry, dict):
        keys = (*_ID, *_FILENAME, "job_id", "task_id", "part_number")
        named = (entry[key] for key in keys if isinstance(entry.get(key), str | int))
        entry = next(named, "an object without a name")
    if isinstance(entry, list):
        return "an array"
    return words(repr(entry[:_MAX_SHOWN] if isinstance(entry, str) else entry)[:_MAX_SHOWN])


def words(text: str) -> str:
    """Someone else's words for our messages: one line, bounded, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MOST_WORDS]).split())
    return line if len(line) <= MOST_WORDS else line[: MOST_WORDS - 1] + "…"


@dataclass(frozen=True, slots=True)
class WireWarning:
    """What the service says about an error."""

    message: str
    code: str = ""
    action: str = ""


def wire_warning(body: bytes) -> WireWarning:
    """The service's own words out of an error's body, whatever that is."""
    try:
        document = parse(body, "")
    except BadAnswer:
        text = body.decode("utf-8", "replace")
        if "<html" in text[:500].lower() or "<!doctype" in text[:500].lower():
            title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
            text = title[1] if title else "a web page instead of an answer"
        return WireWarning(words(text))
    if isinstance(document, dict):
        inner = document.get("error", document)
        if isinstance(inner, str):
            return WireWarning(words(inner))
        if isinstance(inner, dict):
            return WireWarning(
                words(_text(inner, "message") or _text(document, "message")),
                words(_text(inner, "code")),
                words(_text(inner, "recommended_action")),
            )
    return WireWarning("")


def _text(document: Mapping[str, Any], key: str) -> str:
    return name_of(document.get(key)) or ""


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
    """A time in UTC from ISO 8601, with or without fraction and zone, or epoch (milli)seconds.

    None if it is none, or before 1970; one past the year 9999 is `LAST_TIME`.
    """
    try:
        if isinstance(value, str):
            time = datetime.fromisoformat(value.strip())
            if time.tzinfo is not UTC:
                time = _in_utc(time)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            time = datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC)
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return time if time >= FIRST_TIME else None


def _in_utc(time: datetime) -> datetime:
    if time.tzinfo is None:
        return time.replace(tzinfo=UTC)
    try:
        return time.astimezone(UTC)
    except OverflowError:
        return LAST_TIME if time.year > 1 else FIRST_TIME


def created_of(time: datetime | None) -> datetime | None:
    """`time` if something can have been made then."""
    return time if time is not None and time < END_OF_CREATED else None


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
    filename = name_of(_first(document, _FILENAME))
    identity = identity_of(_first(document, _ID))
    created = created_of(time_of(_first(document, _CREATED)))
    expires = time_of(document.get("expires_at"))
    if expires is None:
        expires = LAST_TIME if created is None else created + RETENTION
    more = document.keys() - _KNOWN
    return Artifact(
        id=identity,
        filename=filename or identity,
        created_at=created or FIRST_TIME,
        expires_at=expires,
        sha256=hash_of(_first(document, _HASHES)),
        size_bytes=size_of(_first(document, _SIZE)),
        content_type=intern(_text(document, "content_type") or "application/octet-stream"),
        status=intern(_text(document, "status") or "ready"),
        external_url=name_of(_first(document, _EXTERNAL)) or None,
        job_id=name_of(document.get("job_id"), numbers=True),
        metadata={key: value for key, value in document.items() if key in more} or _NOTHING,
    )


def identity_of(value: Any) -> str:
    """An id, which can be part of a URL; ValueError if it cannot."""
    identity = name_of(value, numbers=True)
    if not identity:
        raise ValueError("it has no id")
    if not is_text(identity):
        raise ValueError("its id is no text")
    return identity


def name_of(value: Any, *, numbers: bool = False) -> str | None:
    """A text, or where `numbers` can be names a whole number as text."""
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and not isinstance(value, Unreadable) else None


def is_text(text: str) -> bool:
    """Whether `text` can be encoded: JSON can hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def answered_artifact(document: Any, what: str) -> Artifact:
    """The artifact that a call answers with. Raises `BadAnswer`."""
    try:
        return artifact(document)
    except ValueError as error:
        raise BadAnswer(f"{what}: no usable artifact in the answer: {error}") from error


@dataclass(frozen=True, slots=True)
class ArtifactPage:
    """One page of a list: the raw entries, and where the next one is (None: there is none)."""

    entries: tuple[Any, ...]
    cursor: str | None


def page(document: Any, what: str, keys: tuple[str, ...]) -> ArtifactPage:
    """A page from a bare array or an object that has the list under one of `keys`."""
    if isinstance(document, list):
        return ArtifactPage(tuple(document), None)
    mapping = _mapping(document, what)
    entries = _first(mapping, keys)
    if not isinstance(entries, list):
        raise BadAnswer(f"{what}: the answer has no list {' or '.join(keys)}")
    return ArtifactPage(tuple(entries), cursor_of(mapping, what))


def cursor_of(mapping: Mapping[str, Any], what: str) -> str | None:
    """Where the next page is. Raises `BadAnswer` for what cannot be asked for.

    It is not taken for the end of the list: what is on the pages to come would seem to be gone.
    """
    value = _first(mapping, ("next_cursor", "next", "next_page_token"))
    cursor = name_of(value, numbers=True)
    if cursor is None and value:
        raise BadAnswer(f"{what}: the answer has no usable next_cursor: {_described(value)}")
    if cursor and not is_text(cursor):
        raise BadAnswer(f"{what}: the answer has no usable next_cursor: it is no text")
    return cursor or None


def artifacts(entries: Iterable[Any], warned: set[str] | None = None) -> Iterator[Artifact]:
    """The usable artifacts of a page; each other one is named in a warning, see `usable`."""
    return usable(entries, artifact, "an artifact", warned)


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
    return tuple(usable(parts, _part_url, f"{what}: a part"))


def _part_url(document: Any) -> PartUrl:
    mapping = _entry(document)
    url = _first(mapping, ("url", "upload_url"))
    if not _is_url(url):
        raise ValueError("it has no usable url")
    return PartUrl(_number_of(mapping), url, _headers_of(mapping.get("headers")))


def multipart_state(document: Any) -> MultipartState:
    """Raises `BadAnswer` that names what is missing."""
    what = "GET /artifacts/multipart/…"
    mapping = _mapping(document, what)
    uploaded = mapping.get("uploaded", [])
    if not isinstance(uploaded, list):
        raise BadAnswer(f"{what}: uploaded is not a list")
    return MultipartState(
        status=_text(mapping, "status"),
        part_size_bytes=_count(mapping, "part_size", what),
        part_count=_count(mapping, "part_count", what),
        uploaded=tuple(usable(uploaded, _uploaded, f"{what}: an uploaded part")),
    )


def _uploaded(document: Any) -> UploadedPart:
    mapping = _entry(document)
    etag = _text(mapping, "etag")
    if not etag:
        raise ValueError("it has no etag")
    return UploadedPart(_number_of(mapping), size_of(mapping.get("size")) or 0, etag)


def _entry(document: Any) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise ValueError("it is not an object")
    return document


def _number_of(mapping: Mapping[str, Any]) -> int:
    value = mapping.get("part_number")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST_SIZE_BYTES:
        raise ValueError("it has no usable part_number")
    return value


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("http://", "https://", "/"))


def _count(mapping: Mapping[str, Any], key: str, what: str) -> int:
    value = mapping.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST_SIZE_BYTES:
        raise BadAnswer(f"{what}: the answer has no usable {key}")
    return value


def _headers(value: Any, what: str) -> Mapping[str, str]:
    try:
        return _headers_of(value)
    except ValueError as error:
        raise BadAnswer(f"{what}: {error}") from error


def _headers_of(value: Any) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("headers is not an object")
    headers = {str(name): str(content) for name, content in value.items()}
    if any(not 31 < ord(c) < 256 for pair in headers.items() for text in pair for c in text):
        raise ValueError("a header holds characters that no header can hold")
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


LISTS = ("artifacts", "items", "data")

_Named = Annotated[str, msgspec.Meta(min_length=1)]
_UNLIKE = (msgspec.MsgspecError, RecursionError, ValueError)


class _PlainArtifact(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An artifact that was uploaded, as API.md has it: every key is there, and none else."""

    id: _Named
    sha256: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    size: Annotated[int, msgspec.Meta(ge=0, le=MOST_SIZE_BYTES)]
    filename: _Named
    content_type: _Named
    created_at: datetime
    expires_at: datetime
    status: _Named
    external_url: None
    job_id: str | None


class _PlainPage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    artifacts: list[msgspec.Raw]
    next_cursor: str | None


_page = msgspec.json.Decoder(_PlainPage)
_usual = msgspec.json.Decoder(_PlainArtifact)


def page_fast(body: bytes, what: str) -> ArtifactPage:
    """A page of the list, its entries for `artifacts_fast` alone. Raises `BadAnswer`."""
    try:
        found = _page.decode(body)
    except _UNLIKE:
        return page(parse(body, what), what, LISTS)
    return ArtifactPage(tuple(found.artifacts), cursor_of({"next": found.next_cursor}, what))


def artifacts_fast(entries: tuple[Any, ...], warned: set[str] | None = None) -> Iterator[Artifact]:
    """The usable artifacts of a page; each other one is named in a warning, see `wire.usable`."""
    for entry in entries:
        if type(entry) is not msgspec.Raw:
            yield from artifacts((entry,), warned)
        elif (found := _decode(entry)) is not None:
            yield found
        else:
            yield from artifacts((parse_entry(bytes(entry)),), warned)


def _decode(entry: msgspec.Raw) -> Artifact | None:
    """The artifact, or None if the entry is unusual. Strings that many share are held once."""
    try:
        one = _usual.decode(entry)
    except _UNLIKE:
        return None
    created, expires = one.created_at, one.expires_at
    if created.tzinfo is not UTC or expires.tzinfo is not UTC or not is_hash(one.sha256):
        return None
    if not FIRST_TIME <= created < END_OF_CREATED or expires < FIRST_TIME:
        return None
    return Artifact(
        one.id, one.filename, created, expires, one.sha256, one.size,
        intern(one.content_type), intern(one.status), None, one.job_id, _NOTHING,
    )  # fmt: skip
