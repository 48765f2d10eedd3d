"""File names on their way through HTTP. Pure.

A name is bytes inside the service: nearly always UTF-8, but nothing forbids others. As text, lone
surrogates stand for what is no character (and JSON writes them as ``\\udcXX``).

In ``X-Artifact-Filename`` a name is Latin-1, as all header values are, or else percent-encoded
UTF-8. It counts as encoded if it is ASCII and every ``%`` begins an escape.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

_ENCODED = re.compile(r"(?:[\x20-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")
_UNQUOTABLE = re.compile(r'[^\x20-\x7e]|["\\%]')


def text_of(filename: bytes) -> str:
    """A name as text; what is no UTF-8 becomes lone surrogates."""
    try:
        return filename.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return filename.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """A name out of JSON, lone surrogates and all."""
    return text.encode("utf-8", "surrogatepass")


def header_filename(value: str) -> bytes:
    """The name in ``X-Artifact-Filename``, as aiohttp hands the header out.

    That is: decoded as UTF-8, with surrogates for what is none.
    """
    text = value.encode("utf-8", "surrogateescape").decode("latin-1")
    if "%" in text and _ENCODED.fullmatch(text):
        return unquote_to_bytes(text)
    return text.encode()


def disposition(filename: str) -> str:
    """``Content-Disposition`` for saving under this name's last component (RFC 6266, RFC 8187)."""
    name = filename.rpartition("/")[2] or "artifact"
    plain = _UNQUOTABLE.sub("_", name)
    quoted = f'attachment; filename="{plain}"'
    if plain == name.strip():  # blanks at the ends do not survive in quotes everywhere
        return quoted
    encoded = quote(name.encode("utf-8", "surrogatepass").decode("utf-8", "replace"), safe="")
    return f"{quoted}; filename*=UTF-8''{encoded}"
