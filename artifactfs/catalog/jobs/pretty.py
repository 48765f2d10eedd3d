"""JSON set out for people, and otherwise untouched. Pure.

Parsing and writing anew would change what it says: a number of many digits, ``1.10``, a key that
comes twice. So only the blanks between the tokens are replaced; every string, number and word stays
as the service wrote it.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(rb'[ \t\r\n]+|"(?:[^"\\]|\\.)*+"|[{}\[\],:]|[^ \t\r\n"{}\[\],:]+', re.DOTALL)
_STEP = b"  "


def pretty(document: bytes) -> bytes:
    """`document`, which is JSON, with a value a line; a line end at its end."""
    out: list[bytes] = []
    depth = 0
    empty = False  # whether what was opened last has nothing in it yet
    for matched in _TOKEN.finditer(document):
        token = matched[0]
        first = token[:1]
        if first in b" \t\r\n":
            continue
        if first in b"}]":
            depth -= 1
            if not empty:
                out.append(b"\n" + _STEP * depth)
            out.append(token)
            empty = False
            continue
        if empty:
            out.append(b"\n" + _STEP * depth)
            empty = False
        out.append(token)
        if first in b"{[":
            depth += 1
            empty = True
        elif first == b",":
            out.append(b"\n" + _STEP * depth)
        elif first == b":":
            out.append(b" ")
    out.append(b"\n")
    return b"".join(out)
