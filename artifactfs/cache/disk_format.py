"""The file beside a content that says which of its grains are on disk, with the sum of each.

    header   64 bytes: magic, size, grain size, generation, and hints (cached bytes, verified)
             at 56 the version: a number made of the ETag that the bytes came with, or 0
    sums     8 bytes a grain, at 64 + 8 times its number: its xxh3-64, or 0 while it is absent

A grain's sum is written right after its bytes, in place. Nothing is ever written anew as a whole,
so that a content of a terabyte costs no more to keep than a small one, what was read is not lost
when the driver is killed, and several mounts of one cache directory see at once what another has
fetched. It needs no order and no fsync: a sum is believed only after the bytes were seen to have
it (`STORED` becomes `CHECKED`), so a torn sidecar, a flipped bit in it, or sums that reached the
disk before their bytes did when the power failed, mean that something is fetched again, never that
wrong bytes are read.

The *generation* is a number that a sidecar gets when it is made: who has closed a content and opens
it again knows by it whether the files are still those he knew. Half of it is random, the other half
made of the number (``st_ino``) of the file of the bytes: for any other file the sidecar does not
count (``data_file``).

**Several mounts.** All of this is by open file description locks (``fcntl(2)``), which the kernel
drops when their owner dies, however that happens. Who has a content open holds a shared one on its
header, and who gives back parts of it needs the exclusive one: nobody has bytes taken away that he
has seen to be right. Who is about to fetch grains reserves them by a lock on their sums' bytes. Who
does not get it waits, and finds the sums there afterwards.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Final, Self

import xxhash

from artifactfs.cache.blocks import (
    ABSENT,
    BLOCK_BYTES,
    STORED,
    block_count,
)
from artifactfs.file_lock import lock

_MAGIC: Final = b"artifactfs grn 2"
_HEADER: Final = struct.Struct("<16sQIBQQ")
_SUM: Final = struct.Struct("<Q")
_HALF: Final = 0xFFFFFFFF
_VERSION_AT: Final = 56
HEADER_BYTES: Final = 64
SUM_BYTES: Final = 8


def peek(header: bytes) -> tuple[int, int, bool] | None:
    """Size, cached bytes and "verified" from a sidecar's header; None if it is not sound."""
    found = _read_header(header)
    return None if found is None else (found[0], found[2], found[1])


def _read_header(header: bytes) -> tuple[int, bool, int, int] | None:
    """Size, verified, cached bytes, generation."""
    if len(header) < HEADER_BYTES:
        return None
    body = header[: _HEADER.size]
    (total,) = _SUM.unpack_from(header, _HEADER.size)
    magic, size_bytes, grain_bytes, verified, cached_bytes, generation = _HEADER.unpack(body)
    if total != xxhash.xxh3_64_intdigest(body) or (magic, grain_bytes) != (_MAGIC, BLOCK_BYTES):
        return None
    return size_bytes, bool(verified), min(size_bytes, cached_bytes), generation


class Sidecar:
    """One open sidecar. Any thread may use it; what it does to the file needs no lock."""

    def __init__(
        self, descriptor: int, size_bytes: int, generation: int, *, is_verified: bool
    ) -> None:
        self.generation = generation
        self.is_verified = is_verified
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self._count = block_count(size_bytes)

    @classmethod
    def existing(cls, path: str, size_bytes: int, inode: int) -> Self | None:
        """That of the file with this number, or None if there is none that is sound.

        Raises `OSError`.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        found = None
        try:
            found = _read_header(os.pread(descriptor, HEADER_BYTES, 0))
            if found is None or found[0] != size_bytes or found[3] & _HALF != _half(inode):
                found = None
                return None
            return cls(descriptor, size_bytes, found[3], is_verified=found[1])
        finally:
            if found is None:
                os.close(descriptor)

    @classmethod
    def new(cls, path: str, size_bytes: int, inode: int) -> Self:
        """One that says that nothing is here, in place of what is there. Raises `OSError`."""
        temporary = f"{path}.{secrets.token_hex(8)}.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        generation = secrets.randbits(32) << 32 | _half(inode)
        made = cls(descriptor, size_bytes, generation, is_verified=False)
        try:
            os.ftruncate(descriptor, HEADER_BYTES)
            made.describe(0, verified=False)
            os.rename(temporary, path)  # noqa: PTH104 - paths are text here
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        return made

    def describe(self, cached_bytes: int, *, verified: bool) -> None:
        """Write the header, with what may be known of the content without opening it."""
        header = _HEADER.pack(
            _MAGIC, self._size_bytes, BLOCK_BYTES, verified, cached_bytes, self.generation
        )
        header += _SUM.pack(xxhash.xxh3_64_intdigest(header))
        os.pwrite(self._descriptor, header, 0)

    def version(self) -> int:
        """What `set_version` was told, by whichever mount; 0 if nothing. Raises `OSError`."""
        data = os.pread(self._descriptor, _SUM.size, _VERSION_AT)
        return int.from_bytes(data, "little") if len(data) == _SUM.size else 0

    def set_version(self, version: int) -> None:
        """Of which version all bytes are. Raises `OSError`."""
        os.pwrite(self._descriptor, _SUM.pack(version), _VERSION_AT)

    def flags(self) -> bytearray:
        """STORED for each grain that has a sum, ABSENT for the others."""
        return bytearray(map(bool, self.sums(0, self._count)))

    def sums(self, first: int, stop: int) -> array[int]:
        """The sums of grains, 0 where there is none."""
        wanted_bytes = SUM_BYTES * (stop - first)
        data = os.pread(self._descriptor, wanted_bytes, HEADER_BYTES + SUM_BYTES * first)
        found = array("Q", data[: len(data) // SUM_BYTES * SUM_BYTES].ljust(wanted_bytes, b"\0"))
        if sys.byteorder == "big":
            found.byteswap()
        return found

    def record(self, first: int, sums: Sequence[int]) -> None:
        """Grains are on disk now, from `first` on. Raises `OSError`."""
        entries = array("Q", sums)
        if sys.byteorder == "big":
            entries.byteswap()
        os.pwrite(self._descriptor, entries, HEADER_BYTES + SUM_BYTES * first)

    def forget(self, first: int, stop: int) -> None:
        """Grains are not to be trusted any more. Raises `OSError`."""
        self.record(first, array("Q", bytes(SUM_BYTES * (stop - first))))

    def share(self) -> bool:
        """Say that the content is open here. False: another mount gives back parts of it."""
        return lock(self._descriptor, fcntl.F_RDLCK, 0, HEADER_BYTES)

    def own(self) -> bool:
        """Whether the content is open nowhere else, nor will be until `share` is called again.

        If not, it is shared as before. So it is where there are no such locks.
        """
        return lock(self._descriptor, fcntl.F_WRLCK, 0, HEADER_BYTES, without_locks=False)

    def reserve(self, first: int, stop: int) -> bool:
        """Keep other mounts from fetching these grains. False: one of them is doing that."""
        return lock(self._descriptor, fcntl.F_WRLCK, *_place(first, stop))

    def free(self, first: int, stop: int) -> None:
        """The opposite of `reserve`."""
        lock(self._descriptor, fcntl.F_UNLCK, *_place(first, stop))

    def close(self) -> None:
        """Let go of the file, and of what was reserved."""
        os.close(self._descriptor)


def _place(first: int, stop: int) -> tuple[int, int]:
    """Where the sums of grains lie: offset and length in bytes."""
    return HEADER_BYTES + SUM_BYTES * first, SUM_BYTES * (stop - first)


def _half(inode: int) -> int:
    return (inode ^ inode >> 32) & _HALF


def write_sidecar(
    path: str, size_bytes: int, inode: int, sums: Sequence[int], *, verified: bool
) -> None:
    """Make the sidecar of a content that is wholly in the file `inode`. Raises `OSError`."""
    sidecar = Sidecar.new(path, size_bytes, inode)
    try:
        sidecar.record(0, sums)
        sidecar.describe(size_bytes, verified=verified)
    finally:
        sidecar.close()


assert _HEADER.size + _SUM.size <= _VERSION_AT
assert _VERSION_AT + _SUM.size <= HEADER_BYTES
assert (ABSENT, STORED) == (False, True)
