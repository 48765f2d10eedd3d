"""Inode numbers: stable from mount to mount, never the same for two things.

A number is 63 bits, so that it is positive also for programs that keep it signed. The highest two
say what it numbers, so that kinds cannot collide with each other:

    00  an artifact             61 bits of the xxh3-64 of its id
    01  a directory of names    61 bits of the xxh3-64 of its path
    10  an entry of ``drop/``   its id in the journal, and whether it is a folder
    11  what is always there,   61 bits of the xxh3-64 of its path (``.artifactfs/version``),
        jobs and projects       ids as the service has them in it

Two artifacts whose hashes are equal are unlikely (2^-61 for a pair), and an inode shared by two
contents would serve one's bytes as the other's. So whoever comes second gets a hash with another
seed, and keeps it for as long as it is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from xxhash import xxh3_64_intdigest

ROOT_INO = 1

_HASH_BITS = 61
_MASK = (1 << _HASH_BITS) - 1


class NumberedThing:
    """What a number is of. Plain integers: one is added for every file of every listing."""

    ARTIFACT: Final = 0
    FOLDER: Final = 1 << _HASH_BITS
    DROP: Final = 2 << _HASH_BITS
    FIXED: Final = 3 << _HASH_BITS


def drop_ino(entry_id: int, *, is_folder: bool) -> int:
    """The number of an entry of ``drop/``."""
    return NumberedThing.DROP | ((entry_id << 1 | is_folder) & _MASK)


def fixed_ino(path: str) -> int:
    """The number of what is always there."""
    return _natural(NumberedThing.FIXED, path, xxh3_64_intdigest, 0)


class SameByNumber:
    """Makes nodes of one thing equal."""

    __slots__ = ()

    @property
    def ino(self) -> int:
        """The inode number."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SameByNumber) and other.ino == self.ino

    def __hash__(self) -> int:
        return self.ino


class InodeNumbers:
    """The numbers of artifacts and folders.

    Written by the thread that takes in a listing; `of` is read without a lock by all others.
    """

    def __init__(self, hashed: Callable[[bytes, int], int] = xxh3_64_intdigest) -> None:
        self._hashed = hashed
        self._owners: dict[int, str] = {}
        self._moved: dict[tuple[int, str], int] = {}

    def of(self, kind: int, key: str) -> int:
        """The number of `key`. At once."""
        if self._moved and (moved := self._moved.get((kind, key))) is not None:
            return moved
        return _natural(kind, key, self._hashed, 0)

    def claim(self, kind: int, key: str) -> None:
        """Say that `key` is there now, so that nobody else gets its number."""
        ino = self.of(kind, key)
        if self._owners.setdefault(ino, key) == key:
            return
        seed = 1
        while self._owners.setdefault(ino := _natural(kind, key, self._hashed, seed), key) != key:
            seed += 1
        self._moved[kind, key] = ino

    def claim_all(self, kind: int, keys: Collection[str]) -> None:
        """`claim` each of these, which differ; quick where no two meet."""
        hashed = self._hashed
        numbers = [hashed(key.encode("utf-8", "surrogatepass"), 0) & _MASK for key in keys]
        wanted = {kind + number: key for number, key in zip(numbers, keys, strict=True)}
        usual = len(wanted) == len(keys) and min(numbers, default=0) > ROOT_INO
        if usual and self._owners.keys().isdisjoint(wanted):
            self._owners.update(wanted)
            return
        for key in keys:
            self.claim(kind, key)

    def release(self, kind: int, key: str) -> None:
        """Say that `key` has gone."""
        ino = self.of(kind, key)
        if self._owners.get(ino) == key:
            del self._owners[ino]
        self._moved.pop((kind, key), None)


def _natural(kind: int, key: str, hashed: Callable[[bytes, int], int], seed: int) -> int:
    number = hashed(key.encode("utf-8", "surrogatepass"), seed) & _MASK
    if number <= ROOT_INO:
        number += 2
    return kind + number
