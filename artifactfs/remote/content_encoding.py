"""Answers in a content coding, though none was asked for (RFC 9110 §8.4).

Requests ask for ``identity``, but some servers store files compressed and send them so to every
client. Such a body is decoded while it is read (gzip and deflate); what is in another coding is a
`BadAnswer`, never wrong bytes. The length and ranges of such an answer are those of the encoded
bytes and say nothing about the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

from artifactfs.errors import BadAnswer, Unreachable
from artifactfs.remote.retry import Transient

Read = Callable[[int], bytes]
"""Returns some of the bytes that are next, at most so many; none at the end."""

_PIECE_BYTES = 64 << 10
_GZIP = frozenset({"gzip", "x-gzip"})
_KNOWN = _GZIP | {"deflate"}
_GZIP_BITS = 16 + zlib.MAX_WBITS
_MAX_CODINGS = 3


def codings_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the codings of a body, in the order in which they were applied."""
    named = headers.get("content-encoding", "").lower().split(",")
    return tuple(one for one in map(str.strip, named) if one not in ("", "identity"))


def decoding(read: Read, headers: Mapping[str, str], what: str) -> Read:
    """Return what reads the decoded bytes of a body. Raises `BadAnswer` if that cannot be."""
    codings = codings_of(headers)
    if len(codings) > _MAX_CODINGS or not _KNOWN.issuperset(codings):
        raise BadAnswer(
            f"{what}: answered Content-Encoding: {', '.join(codings)[:80]!a} "
            "though identity was asked for"
        )
    for coding in reversed(codings):
        read = _Decoder(read, coding, what).read
    return read


def read_all(read: Read, max_bytes: int) -> bytes:
    """Return what is there, up to so many bytes."""
    pieces = []
    while max_bytes > 0 and (piece := read(max_bytes)):
        pieces.append(piece)
        max_bytes -= len(piece)
    return b"".join(pieces)


class _Decoder:
    """One coding. For one thread."""

    def __init__(self, source: Read, coding: str, what: str) -> None:
        self._source = source
        self._is_gzip = coding in _GZIP
        self._what = what
        self._decoder = zlib.decompressobj(_GZIP_BITS if self._is_gzip else zlib.MAX_WBITS)
        self._input = b""
        self._is_begun = False

    def read(self, max_bytes: int) -> bytes:
        """Return some of the decoded bytes; none at the end."""
        while True:
            if self._decoder.eof:
                self._input = self._decoder.unused_data or self._source(_PIECE_BYTES)
                if not self._input:
                    return b""
                if not self._is_gzip:
                    raise BadAnswer(f"{self._what}: more than its encoded body")
                self._decoder = zlib.decompressobj(_GZIP_BITS)  # the next member
            self._input = self._input or self._source(_PIECE_BYTES)
            if not self._input and not self._is_begun:
                return b""  # an empty body is in no coding
            is_end = not self._input
            data = self._decode(max_bytes)
            if data:
                return data
            if is_end and not self._decoder.eof:
                raise Transient(Unreachable(f"{self._what}: the encoded body broke off"))

    def _decode(self, max_bytes: int) -> bytes:
        try:
            data = self._decoder.decompress(self._input, max_bytes)
        except zlib.error as error:
            if self._is_gzip or self._is_begun:
                raise BadAnswer(f"{self._what}: the encoded body is damaged: {error}") from error
            self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)  # as some servers send deflate
            self._is_begun = True
            return self._decode(max_bytes)
        self._is_begun = True
        self._input = self._decoder.unconsumed_tail
        return data
