"""Names: what the service calls an artifact, made safe as a path. Pure text, nothing else.

A file name comes from elsewhere and may be anything. What a user sees of it must be one path of
components that every program can take: not empty, not ``.`` or ``..``, no NUL and no control
character, valid UTF-8, 255 bytes at most. And two names must never become one.

**Escaping.** What cannot stay is percent-encoded, byte by byte of its UTF-8, as in a URL:

    new\\nline        new%0Aline
    ..               %2E%2E
    /absolute        %2Fabsolute        a slash parts two components only between
    a//b             a/%2Fb             a character before it and one after it
    trailing/        trailing%2F
    100%             100%               a percent sign stays,
    percent%2Fname   percent%252Fname   unless it would read as an escape

So `decoded`, an ordinary percent-decoding, gives back the name exactly: one-to-one by construction.
Lone surrogates (a name that was not UTF-8) are encoded as Python's ``surrogatepass`` does it.

**Shortening.** A component that is still too long keeps its beginning and its extension, and has
``%~`` and 128 bits of BLAKE2 of the whole in between. Escaping never leaves ``%~`` in a name (the
percent sign before a tilde is escaped), so that no other name looks like a shortened one. It cannot
be decoded; the xattr ``user.artifactfs.filename`` has the whole. A path of too many components, or
too long for ``PATH_MAX``, folds its tail into one component the same way.

**Telling apart.** Where several artifacts have one name, `tagged` puts part of a hash before the
extension: ``name~<hash>.ext``. Nothing protects this form: an artifact may really be called so.
``name_index``, which gives names out, looks for that; `untagged` tells it where to look.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from functools import partial
from hashlib import blake2b
from itertools import islice
from urllib.parse import unquote_to_bytes

NAME_MAX_BYTES = 255
DEPTH_MAX = 40
PATH_MAX_BYTES = 2048  # of PATH_MAX's 4096: the mount point needs some, and programs add suffixes

_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f/\ud800-\udfff]|%(?=[0-9A-Fa-f]{2}|~)|\A\.{1,2}\Z|\A%\Z|\A\Z"
)
_SEPARATOR = re.compile(r"(?<=[^/])/(?=.)", re.DOTALL)
_TAGGED = re.compile(
    r"(?P<stem>.+)~(?:[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{16}|[0-9a-f]{8})(?:~[0-9]+)?", re.DOTALL
)
_NO_NAMES = frozenset({"", ".", ".."})
_AT_ONCE = 1000
_MARK = "%~"
_MARK_DIGITS = 32
_EXTENSION_MAX_BYTES = 24
_CUT_ESCAPE = re.compile(r"%[0-9A-F]?\Z")


def safe_path(name: str) -> str:
    """The components, joined by ``/``, under which an artifact called `name` appears."""
    if _is_plain(name) or _is_plain_path(name):
        return name
    components = _SEPARATOR.split(name, DEPTH_MAX)
    safe: list[str] = []
    room_bytes = PATH_MAX_BYTES - NAME_MAX_BYTES
    for index, component in enumerate(components):
        made = safe_name(component)
        room_bytes -= _length(made) + 1
        is_last = index == len(components) - 1
        if not is_last and (index == DEPTH_MAX - 1 or room_bytes < 0):
            safe.append(safe_name("/".join(components[index:])))
            break
        safe.append(made)
    return "/".join(safe)


def safe_name(text: str) -> str:
    """`text` as one component; its slashes are escaped."""
    if _is_plain(text):
        return text
    escaped = "%" if not text else _UNSAFE.sub(_escape, text)
    return _shortened(escaped) if _length(escaped) > NAME_MAX_BYTES else escaped


def odd_names(texts: Iterable[str]) -> Iterator[str]:
    """Those of which `safe_name` may make something else: few of many, and found quickly."""
    left = iter(texts)
    while some := list(islice(left, _AT_ONCE)):
        if not _are_plain(some):
            yield from (text for text in some if not _is_plain(text))


def decoded(path: str) -> str | None:
    """The name that `safe_path` or `safe_name` made `path` of; None where it was shortened."""
    if _MARK in path:
        return None
    if path == "%":
        return ""
    raw = unquote_to_bytes(path.encode("utf-8", "surrogatepass"))
    return raw.decode("utf-8", "surrogatepass")


def is_shortened(name: str) -> bool:
    """Whether this component does not hold the whole of its name."""
    return _MARK in name


def tagged(component: str, tag: str) -> str:
    """`component` with ``~tag`` before its extension."""
    stem, extension = posixpath.splitext(component)
    made = f"{stem}~{tag}{extension}"
    return _shortened(made) if _length(made) > NAME_MAX_BYTES else made


def untagged(component: str) -> str | None:
    """The component of which `tagged` may have made this one; None where it has not."""
    stem, extension = posixpath.splitext(component)
    matched = _TAGGED.fullmatch(stem)
    return matched["stem"] + extension if matched else None


def joined(folder: str, component: str) -> str:
    """The path of `component` in `folder`, whose own path is empty at the top."""
    return f"{folder}/{component}" if folder else component


def parted(path: str) -> tuple[str, str]:
    """The folder's path and the component: the opposite of `joined`."""
    folder, _, component = path.rpartition("/")
    return folder, component


def _is_plain(text: str) -> bool:
    """Whether `text` is surely safe as one component as it stands: the case that must be quick."""
    return (
        text.isascii()
        and text.isprintable()
        and len(text) <= NAME_MAX_BYTES
        and "%" not in text
        and "/" not in text
        and text not in _NO_NAMES
    )


def _are_plain(texts: list[str]) -> bool:
    """Whether `_is_plain` holds for each: for many at once, and not in Python."""
    together = "".join(texts)
    return (
        together.isascii()
        and together.isprintable()
        and "%" not in together
        and "/" not in together
        and max(map(len, texts)) <= NAME_MAX_BYTES
        and _NO_NAMES.isdisjoint(texts)
    )


def _is_plain_path(text: str) -> bool:
    """Whether `text` is surely safe as a path as it stands: the other quick case."""
    return (
        text.isascii()
        and text.isprintable()
        and 0 < len(text) <= NAME_MAX_BYTES
        and "%" not in text
        and "//" not in text
        and "/." not in text
        and text[0] not in "./"
        and text[-1] != "/"
        and text.count("/") < DEPTH_MAX
    )


def _escape(matched: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in matched[0].encode("utf-8", "surrogatepass"))


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


_digest = partial(blake2b, digest_size=_MARK_DIGITS // 2)


def _shortened(escaped: str) -> str:
    """`escaped`, too long, in 255 bytes with a hash of the whole."""
    extension = posixpath.splitext(escaped)[1]
    if _length(extension) > _EXTENSION_MAX_BYTES or "%" in extension:
        extension = ""
    mark = _MARK + _digest(escaped.encode("utf-8")).hexdigest()
    room_bytes = NAME_MAX_BYTES - len(mark) - _length(extension)
    beginning = escaped.encode("utf-8")[:room_bytes].decode("utf-8", "ignore")
    return _CUT_ESCAPE.sub("", beginning) + mark + extension
