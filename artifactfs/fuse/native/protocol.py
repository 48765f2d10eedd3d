"""The FUSE protocol as the kernel writes and reads it: numbers and layouts, nothing else.

Source: ``include/uapi/linux/fuse.h``. Everything from protocol 7.31 (Linux 5.4) on has one layout
only, so there are no variants for older kernels here; `negotiation` refuses those. Numbers that a
distribution's header may lack (passthrough, 7.40; statx, 7.39; the request time-out, 7.43) stand
here on their own feet.

All integers are in the machine's byte order with standard sizes and without padding of Python's
own (``=``); what padding the C structs have is written out. The tests compare every size with the
kernel's header. Names follow the header: `X_IN` is what the kernel sends, `X_OUT` what it reads.

A node's attributes in the kernel's layouts.

The same sixteen numbers appear in four messages (GETATTR, LOOKUP and its kin, READDIRPLUS, STATX);
here is the one place that makes them. READDIRPLUS makes one record per entry of a directory, so
`entry_plus` packs it in one go, without intermediate objects.
"""

from __future__ import annotations

import stat as mode_bits
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Final

from artifactfs.vfs.node import (
    Attributes,
    Kind,
    Node,
)

MAJOR: Final = 7
MINOR: Final = 43
OLDEST_MINOR: Final = 31
ROOT_ID: Final = 1
NAME_MAX: Final = 255
MIN_READ_BUFFER_BYTES: Final = 8192

# Every message: struct fuse_in_header, struct fuse_out_header.
# len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
IN_HEADER: Final = Struct("=IIQQIIIHH")
# len, error, unique
OUT_HEADER: Final = Struct("=IiQ")


class Opcode(IntEnum):
    """What the kernel asks: enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


OPERATIONS: Final = {int(opcode): opcode.name.lower() for opcode in Opcode}
WITHOUT_ANSWER: Final = frozenset(
    {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY}
)

# INIT flags; from bit 32 on they travel in flags2, which INIT_EXT opens.
ASYNC_READ: Final = 1 << 0
ATOMIC_O_TRUNC: Final = 1 << 3
BIG_WRITES: Final = 1 << 5
AUTO_INVAL_DATA: Final = 1 << 12
DO_READDIRPLUS: Final = 1 << 13
READDIRPLUS_AUTO: Final = 1 << 14
ASYNC_DIO: Final = 1 << 15
WRITEBACK_CACHE: Final = 1 << 16
PARALLEL_DIROPS: Final = 1 << 18
ABORT_ERROR: Final = 1 << 21
MAX_PAGES: Final = 1 << 22
CACHE_SYMLINKS: Final = 1 << 23
EXPLICIT_INVAL_DATA: Final = 1 << 25
HANDLE_KILLPRIV_V2: Final = 1 << 28
SETXATTR_EXT: Final = 1 << 29
INIT_EXT: Final = 1 << 30
DIRECT_IO_ALLOW_MMAP: Final = 1 << 36
PASSTHROUGH: Final = 1 << 37
REQUEST_TIMEOUT: Final = 1 << 42

# fuse_open_out.open_flags
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PASSTHROUGH: Final = 1 << 7

# fuse_setattr_in.valid
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_MTIME_NOW: Final = 1 << 8

# enum fuse_notify_code
NOTIFY_INVAL_ENTRY: Final = 3

STATX_BASIC_STATS: Final = 0x7FF

# INIT
# major, minor, max_readahead, flags; then, from 7.36 on, flags2 and 11 unused words
INIT_IN: Final = Struct("=IIII")
INIT_IN_FLAGS2: Final = Struct("=16xI44x")
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
# max_pages, map_alignment, flags2, max_stack_depth, request_timeout, 11 unused u16
INIT_OUT: Final = Struct("=IIIIHHIIHHIIH22x")

# Attributes. struct fuse_attr is ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec,
# ctimensec, mode, nlink, uid, gid, rdev, blksize, flags.
_ATTR = "QQQQQQIIIIIIIIII"
ATTR: Final = Struct("=" + _ATTR)
# attr_valid, attr_valid_nsec, dummy, attr
ATTR_OUT: Final = Struct("=QII" + _ATTR)
# nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, attr
_ENTRY = "QQQQII" + _ATTR
ENTRY_OUT: Final = Struct("=" + _ENTRY)
# ino, off, namelen, type; the name follows, padded to 8 bytes
DIRENT: Final = Struct("=QQII")
DIRENTPLUS: Final = Struct("=" + _ENTRY + "QQII")
# mask, blksize, attributes, nlink, uid, gid, mode, spare, ino, size, blocks, attributes_mask,
# atime, btime, ctime, mtime (each s64 seconds, u32 nanoseconds, s32 reserved), rdev_major,
# rdev_minor, dev_major, dev_minor, 14 spare u64; before all that: attr_valid, attr_valid_nsec,
# flags, two spare u64
STATX_OUT: Final = Struct("=QII16x" + "IIQIIIHHQQQQ" + "qIi" * 4 + "IIII112x")
# getattr_flags, reserved, fh, sx_flags, sx_mask
STATX_IN: Final = Struct("=IIQII")
GETATTR_IN: Final = Struct("=IIQ")
# valid, padding, fh, size, lock_owner, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode,
# unused4, uid, gid, unused5
SETATTR_IN: Final = Struct("=IIQQQQQQIIIIIIII")
ACCESS_IN: Final = Struct("=II")
# blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding, 6 spare
STATFS_OUT: Final = Struct("=QQQQQIIII24x")

# Names. What is not listed here consists of names only, each ended by a NUL.
FORGET_IN: Final = Struct("=Q")
BATCH_FORGET_IN: Final = Struct("=II")
FORGET_ONE: Final = Struct("=QQ")
MKNOD_IN: Final = Struct("=IIII")  # mode, rdev, umask, padding
MKDIR_IN: Final = Struct("=II")  # mode, umask
RENAME_IN: Final = Struct("=Q")  # newdir
RENAME2_IN: Final = Struct("=QII")  # newdir, flags, padding
# size, flags (without SETXATTR_EXT, which is not asked for)
SETXATTR_IN: Final = Struct("=II")
GETXATTR_IN: Final = Struct("=II")  # size, padding
GETXATTR_OUT: Final = Struct("=II")

# Files
OPEN_IN: Final = Struct("=II")  # flags, open_flags
CREATE_IN: Final = Struct("=IIII")  # flags, mode, umask, open_flags
OPEN_OUT: Final = Struct("=QIi")  # fh, open_flags, backing_id
RELEASE_IN: Final = Struct("=QIIQ")  # fh, flags, release_flags, lock_owner
FLUSH_IN: Final = Struct("=QIIQ")  # fh, unused, padding, lock_owner
READ_IN: Final = Struct("=QQIIQII")  # fh, offset, size, read_flags, lock_owner, flags, padding
WRITE_IN: Final = Struct("=QQIIQII")  # fh, offset, size, write_flags, lock_owner, flags, padding
WRITE_OUT: Final = Struct("=II")  # size, padding
WRITE_CACHE: Final = 1  # write_flags: pages that the kernel writes back
FSYNC_IN: Final = Struct("=QII")  # fh, fsync_flags, padding
FALLOCATE_IN: Final = Struct("=QQQII")  # fh, offset, length, mode, padding
# fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
COPY_FILE_RANGE_IN: Final = Struct("=QQQQQQQ")
LSEEK_IN: Final = Struct("=QQII")  # fh, offset, whence, padding
LSEEK_OUT: Final = Struct("=Q")
INTERRUPT_IN: Final = Struct("=Q")  # unique

# Notifications
NOTIFY_INVAL_ENTRY_OUT: Final = Struct("=QII")  # parent, namelen, flags

# Requests to the device itself (ioctl), for passthrough
BACKING_OPEN: Final = 0x4010E501
BACKING_CLOSE: Final = 0x4004E502
BACKING_MAP: Final = Struct("=iIQ")  # fd, flags, padding
BACKING_ID: Final = Struct("=I")

HEADER_BYTES: Final = IN_HEADER.size
OUT_HEADER_BYTES: Final = OUT_HEADER.size


class NameTooLong(Exception):
    """A name of more than `NAME_MAX` bytes: answered with ENAMETOOLONG, not a trouble."""


def split_name(body: memoryview, start: int) -> tuple[bytes, int]:
    """The NUL-ended name at `start` and the offset of what follows it.

    Raises `ValueError` if there is no NUL: then the message is not one of the kernel's. Raises
    `NameTooLong`.
    """
    rest = bytes(body[start:])
    stop = rest.find(b"\0")
    if stop < 0:
        raise ValueError("a name without an end")
    if stop > NAME_MAX:
        raise NameTooLong
    return rest[:stop], start + stop + 1


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


class AttributeEncoder:
    """Packs attributes for one mount, whose files all belong to `uid` and `gid`."""

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    def attributes(self, node: Node) -> bytes:
        """The answer to GETATTR and SETATTR."""
        seconds, nanoseconds = _split_s(node.lifetime_s)
        return ATTR_OUT.pack(seconds, nanoseconds, 0, *self._fields(node.attributes()))

    def entry(self, node: Node) -> bytes:
        """The answer to LOOKUP and whatever makes a node. Its `ino` is its number."""
        seconds, nanoseconds = _split_s(node.lifetime_s)
        fields = self._fields(node.attributes())
        return ENTRY_OUT.pack(node.ino, 0, seconds, seconds, nanoseconds, nanoseconds, *fields)

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
            DIRENTPLUS.pack(
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
        return STATX_OUT.pack(
            seconds,
            nanoseconds,
            0,
            STATX_BASIC_STATS,
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
    record = DIRENT.pack(ino, cookie, len(name), _type_bits(kind) >> 12)
    return record + name + _PADDING[len(name) & 7]


def bare_entry_plus(ino: int, name: bytes, cookie: int, kind: Kind) -> bytes:
    """A record of READDIRPLUS that shows a name without a look-up: ``.``, ``..``, a broken node."""
    return bytes(ENTRY_OUT.size) + dirent(ino, name, cookie, kind)
