"""URLs: one value decides where a connection goes, what is asked there, and who sees the token.

Two parsers that read the same text differently are how a token goes to a foreign host
(``http://foreign:80\\@service/``). So every URL is parsed once, here, into a `Url`, by the parser
of the library that makes the connections (`urllib3.util.parse_url`). From then on only the value is
used: connections are made to its host and port, requests name its target, and where the other
library must send one it is given `Url.text`, the canonical form, which every parser reads alike.

`parse` refuses what has no place in a URL that a program made: backslashes, white space, control
and other unprintable characters, user names and passwords (RFC 9110 §4.2.4), IPv6 zones (they mean
something on one machine only), percent-encoded hosts, names that are no names (RFC 1123, RFC 5891)
and IPv4 addresses in other forms than four decimal numbers.

The path is normalised to the form that is sent (RFC 3986 §6.2.2): unreserved characters are not
percent-encoded, dot segments are resolved, everything else that is not printable ASCII is encoded.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlencode

import urllib3.exceptions
import urllib3.util

from artifactfs.errors import BadAnswer

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65535
_MAX_PORT_DIGITS = 5
_MAX_URL_CHARS = 32 << 10
_MAX_NAME_CHARS = 253
_MAX_SHOWN_CHARS = 200
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ABSOLUTE = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[^\]]*\]|[^/?#\[\]@:%]+)"
    r"(?::(?P<port>[0-9]*))?(?P<rest>[/?#].*)?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
_PRINTABLE = "".join(map(chr, range(33, 127)))
_PARAMETERS = re.compile(r";[^/]*")


@dataclass(frozen=True, slots=True)
class Url:
    """An http or https URL in its canonical form.

    `host` is a name in ASCII, or an address without brackets; `path` begins with a slash.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str | None = None

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what one server answers for."""
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        """Host and port as in a Host header: the port only where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query as in the first line of a request."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    @property
    def text(self) -> str:
        """The whole URL."""
        return f"{self.scheme}://{self.netloc}{self.target}"

    @property
    def shown(self) -> str:
        """The URL for messages: without the query, which may hold a signature."""
        return f"{self.scheme}://{self.netloc}{self.path}"

    def with_parameters(self, parameters: Mapping[str, str] | None) -> Url:
        """Return this URL with more parameters in its query."""
        if not parameters:
            return self
        added = urlencode(parameters)
        return replace(self, query=f"{self.query}&{added}" if self.query else added)

    def is_below(self, base: Url) -> bool:
        """Return whether this URL is on `base`'s origin and below its path, however it is read.

        A server that decodes a path again, takes a backslash for a slash or drops parameters of a
        segment before it resolves dot segments must arrive below that path as well.
        """
        return self.origin == base.origin and all(
            path.startswith(base.path.rstrip("/") + "/")
            for path in (self.path, _as_read_loosely(self.path))
        )


@functools.lru_cache(maxsize=4096)
def parse(text: str, base: Url | None = None) -> Url:
    """Return the URL that `text` says, resolved against `base` (RFC 3986 §5.2) if there is one.

    Raises `BadAnswer`.
    """
    if not text or len(text) > _MAX_URL_CHARS:
        raise _unusable(text, "it is empty" if not text else "it is too long")
    for character in text:
        if character == "\\" or character.isspace() or not character.isprintable():
            raise _unusable(text, f"it holds the character {character!a}")
    parts = _ABSOLUTE.fullmatch(_resolved(text, base))
    if parts is None:
        raise _unusable(text, "an http or https URL without a user name is expected")
    scheme = parts["scheme"].lower()
    port = _port(text, parts["port"]) if parts["port"] else _DEFAULT_PORTS[scheme]
    host = _host(text, parts["host"])
    rest = _ENCODED.sub(_unreserved, parts["rest"] or "/")
    bracketed = f"[{host}]" if ":" in host else host
    try:
        parsed = urllib3.util.parse_url(f"{scheme}://{bracketed}:{port}{rest}")
    except (urllib3.exceptions.LocationParseError, UnicodeError) as error:
        raise _unusable(text, "it is malformed") from error
    if (parsed.host, parsed.port, parsed.auth) != (bracketed, port, None):
        raise _unusable(text, "it can be read in two ways")
    return Url(scheme, host, port, parsed.path or "/", parsed.query or None)


def of_header(value: str) -> str:
    """Return the text of a URL in a header, whose bytes were decoded as Latin-1."""
    try:
        return quote(value.encode("latin-1"), safe=_PRINTABLE + " \t")
    except UnicodeError:
        return value


def segment(name: str) -> str:
    """Return a name as one segment of a path. Raises `BadAnswer` for what cannot be one."""
    if name in ("", ".", ".."):  # these would be resolved, however they are written
        raise BadAnswer(f"{name or 'an empty name'} cannot be asked for", remedy="")
    return quote(name, safe="")


def _resolved(text: str, base: Url | None) -> str:
    if base is None or _SCHEME.match(text):
        return text
    if text.startswith("//"):
        return f"{base.scheme}:{text}"
    root = f"{base.scheme}://{base.netloc}"
    if text.startswith("/"):
        return root + text
    if text.startswith("?"):
        return root + base.path + text
    if text.startswith("#"):
        return base.text
    return root + base.path[: base.path.rindex("/") + 1] + text


def _port(text: str, digits: str) -> int:
    if len(digits) > _MAX_PORT_DIGITS or digits.startswith("0") or int(digits) > _MAX_PORT:
        raise _unusable(text, f"{digits[:_MAX_SHOWN_CHARS]} is no port")
    return int(digits)


def _host(text: str, named: str) -> str:
    """The host in its canonical form."""
    if named.startswith("["):
        try:
            address = ipaddress.IPv6Address(named[1:-1])
        except ValueError as error:
            raise _unusable(text, f"{named} is no IPv6 address") from error
        if address.scope_id is not None:
            raise _unusable(text, f"{named} holds a zone")
        return address.compressed
    if not named.isascii() and unicodedata.normalize("NFKC", named.lower()) != named:
        raise _unusable(text, f"{named} is no normalised name")
    try:  # for IDNA 2008
        name = urllib3.util.parse_url(f"http://{named}/").host or ""
    except (urllib3.exceptions.LocationParseError, UnicodeError) as error:
        raise _unusable(text, f"{named} is no name of a host") from error
    labels = name.removesuffix(".").split(".")
    if len(name) > _MAX_NAME_CHARS or not all(map(_LABEL.fullmatch, labels)):
        raise _unusable(text, f"{named} is no name of a host")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError as error:
            raise _unusable(text, f"{named} is no IPv4 address") from error
    return name


def _unreserved(encoded: re.Match[str]) -> str:
    character = chr(int(encoded[0][1:], 16))
    return character if character in _UNRESERVED else encoded[0].upper()


def _as_read_loosely(path: str) -> str:
    """The path as the most lenient server reads it."""
    while (decoded := unquote(path)) != path:
        path = decoded
    found: list[str] = []
    for part in _PARAMETERS.sub("", path.replace("\\", "/")).split("/"):
        if part == "..":
            del found[-1:]
        elif part not in ("", "."):
            found.append(part)
    return "/" + "/".join(found) + ("/" if path.endswith("/") else "")


def _unusable(text: str, why: str) -> BadAnswer:
    """An error that shows nothing of the text's query, user name or password."""
    shown = text.partition("?")[0].partition("#")[0]
    if "@" in shown:
        shown = f"{shown.partition('//')[0]}//…@{shown.rpartition('@')[2]}"
    why = why.encode("ascii", "backslashreplace").decode()  # a look-alike is seen to be none
    return BadAnswer(f"{shown[:_MAX_SHOWN_CHARS]!a} is no usable URL: {why}")
