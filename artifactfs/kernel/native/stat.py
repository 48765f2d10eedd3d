"""A node's attributes in the kernel's layouts.

The same sixteen numbers appear in four messages (GETATTR, LOOKUP and its kin, READDIRPLUS, STATX);
here is the one place that makes them. READDIRPLUS makes one record per entry of a directory, so
`entry_plus` packs it in one go, without intermediate objects.
"""

from __future__ import annotations

import stat as mode_bits
from functools import lru_cache
from typing import Final

from artifactfs.kernel.native import wire
from artifactfs.tree.node import (
    Attributes,
    Kind,
    Node,
)

_NS: Final = 1_000_000_000
_MASK_64: Final = (1 << 64) - 1
_S_IFREG: Final = mode_bits.S_IFREG
_LONGEST_S: Final = 10 * 365 * 86_400.0

_PADDING: Final = [b"\0" * (-length % 8) for length in range(8)]


@lru_cache(64)
def _split_s(seconds: float) -> tuple[int, int]:
    """Whole seconds and nanoseconds of a time-out."""
    if not seconds > 0.0:
        return 0, 0
    whole = int(min(seconds, _LONGEST_S))
    return whole, min(int((min(seconds, _LONGEST_S) - whole) * _NS), _NS - 1)


def _type_bits(kind: Kind) -> int:
    # Compared, not looked up: an Enum's hash is computed in Python each time.
    if kind is Kind.FILE:
        return mode_bits.S_IFREG
    return mode_bits.S_IFDIR if kind is Kind.DIRECTORY else mode_bits.S_IFLNK


class Stat:
    """Packs attributes for one mount, whose files all belong to `uid` and `gid`."""

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    def attributes(self, node: Node) -> bytes:
        """The answer to GETATTR and SETATTR."""
        seconds, nanoseconds = _split_s(node.lifetime_s)
        return wire.ATTR_OUT.pack(seconds, nanoseconds, 0, *self._fields(node.attributes()))

    def entry(self, node: Node) -> bytes:
        """The answer to LOOKUP and whatever makes a node. Its `ino` is its number."""
        seconds, nanoseconds = _split_s(node.lifetime_s)
        fields = self._fields(node.attributes())
        return wire.ENTRY_OUT.pack(node.ino, 0, seconds, seconds, nanoseconds, nanoseconds, *fields)

    def entry_plus(self, node: Node, name: bytes, cookie: int) -> bytes:
        """One record of READDIRPLUS."""
        seconds, nanoseconds = _split_s(node.lifetime_s)
        a = node.attributes()
        mtime_s, mtime_ns = divmod(a.mtime_ns, _NS)
        ctime_s, ctime_ns = divmod(a.ctime_ns, _NS)
        kind = _S_IFREG if a.kind is Kind.FILE else _type_bits(a.kind)
        mode = kind | (a.mode & 0o7777)
        ino = node.ino
        length = len(name)
        return (
            wire.DIRENTPLUS.pack(
                ino,
                0,
                seconds,
                seconds,
                nanoseconds,
                nanoseconds,
                a.ino,
                a.size_bytes,
                a.blocks,
                mtime_s & _MASK_64,
                mtime_s & _MASK_64,
                ctime_s & _MASK_64,
                mtime_ns,
                mtime_ns,
                ctime_ns,
                mode,
                a.nlink,
                self.uid,
                self.gid,
                0,
                a.unit_bytes,
                0,
                ino,
                cookie,
                length,
                mode >> 12,
            )
            + name
            + _PADDING[length & 7]
        )

    def statx(self, node: Node) -> bytes:
        """The answer to STATX: what GETATTR says; a time of birth is not known."""
        seconds, nanoseconds = _split_s(node.lifetime_s)
        a = node.attributes()
        mtime_s, mtime_ns = divmod(a.mtime_ns, _NS)
        ctime_s, ctime_ns = divmod(a.ctime_ns, _NS)
        times = (mtime_s, mtime_ns, 0, 0, 0, 0, ctime_s, ctime_ns, 0, mtime_s, mtime_ns, 0)
        mode = _type_bits(a.kind) | (a.mode & 0o7777)
        return wire.STATX_OUT.pack(
            seconds,
            nanoseconds,
            0,
            wire.STATX_BASIC_STATS,
            a.unit_bytes,
            0,
            a.nlink,
            self.uid,
            self.gid,
            mode,
            0,
            a.ino,
            a.size_bytes,
            a.blocks,
            0,
            *times,
            0,
            0,
            0,
            0,
        )

    def _fields(self, a: Attributes) -> tuple[int, ...]:
        mtime_s, mtime_ns = divmod(a.mtime_ns, _NS)
        ctime_s, ctime_ns = divmod(a.ctime_ns, _NS)
        return (
            a.ino,
            a.size_bytes,
            a.blocks,
            mtime_s & _MASK_64,
            mtime_s & _MASK_64,
            ctime_s & _MASK_64,
            mtime_ns,
            mtime_ns,
            ctime_ns,
            _type_bits(a.kind) | (a.mode & 0o7777),
            a.nlink,
            self.uid,
            self.gid,
            0,
            a.unit_bytes,
            0,
        )


def dirent(ino: int, name: bytes, cookie: int, kind: Kind) -> bytes:
    """One record of READDIR."""
    record = wire.DIRENT.pack(ino, cookie, len(name), _type_bits(kind) >> 12)
    return record + name + _PADDING[len(name) & 7]


def bare_entry_plus(ino: int, name: bytes, cookie: int, kind: Kind) -> bytes:
    """A record of READDIRPLUS that shows a name without a look-up: ``.``, ``..``, a broken node."""
    return bytes(wire.ENTRY_OUT.size) + dirent(ino, name, cookie, kind)
