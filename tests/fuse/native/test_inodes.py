"""What the kernel was told and has forgotten: the counts are honest."""

from __future__ import annotations

import errno

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from artifactfs.fuse.native.inodes import InodeTable
from artifactfs.vfs.node import (
    Attributes,
    Directory,
    DirectoryEntry,
    File,
    Handle,
    Kind,
    Node,
)


class Plain(File):
    def __init__(self, ino: int) -> None:
        self._ino = ino

    @property
    def ino(self) -> int:
        return self._ino

    def attributes(self) -> Attributes:
        return Attributes(self._ino, Kind.FILE, 0o444, 0, 1, 0, 0)

    def open(self, flags: int) -> Handle:
        raise AssertionError


class Empty(Directory):
    @property
    def ino(self) -> int:
        return 1

    def attributes(self) -> Attributes:
        return Attributes(1, Kind.DIRECTORY, 0o555, 0, 2, 0, 0)

    def find(self, name: str) -> Node | None:
        return None

    def entries(self) -> list[DirectoryEntry]:
        return []


class Counting(RuleBasedStateMachine):
    """Against a plain dictionary of counts."""

    def __init__(self) -> None:
        super().__init__()
        self.inodes = InodeTable(Empty())
        self.counts: dict[int, int] = {}

    @rule(inos=st.lists(st.integers(1, 8), max_size=6))
    def tell_many(self, inos: list[int]) -> None:
        self.inodes.remember_all([Plain(ino) for ino in inos])
        for ino in inos:
            if ino != 1:
                self.counts[ino] = self.counts.get(ino, 0) + 1

    @rule(ino=st.integers(2, 8))
    def tell(self, ino: int) -> None:
        assert self.inodes.remember(Plain(ino)) == ino
        self.counts[ino] = self.counts.get(ino, 0) + 1

    @rule(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=6))
    def forget(self, pairs: list[tuple[int, int]]) -> None:
        self.inodes.forget_all(pairs)
        for ino, lookups in pairs:
            if ino in self.counts:
                self.counts[ino] -= lookups
                if self.counts[ino] <= 0:
                    del self.counts[ino]

    @rule(ino=st.integers(1, 8), version=st.integers(0, 2))
    def list_directory(self, ino: int, version: int) -> None:
        self.inodes.note_listing(ino, version)
        assert self.inodes.note_listing(ino, version)
        assert not self.inodes.note_listing(ino, version + 1)

    @invariant()
    def what_is_counted_is_known_and_nothing_else(self) -> None:
        assert self.inodes.count() == len(self.counts)
        for ino in range(2, 10):
            assert self.inodes.knows(ino) == (ino in self.counts)
        assert self.inodes.knows(1)


TestCounting = Counting.TestCase


def test_a_forgotten_number_is_stale() -> None:
    inodes = InodeTable(Empty())
    inodes.remember(Plain(5))
    inodes.forget(5, 1)
    with pytest.raises(OSError) as raised:
        inodes.node(5)
    assert raised.value.errno == errno.ESTALE


def test_the_root_is_never_forgotten() -> None:
    inodes = InodeTable(Empty())
    inodes.forget(1, 1 << 60)
    assert isinstance(inodes.directory(1), Empty)


def test_the_later_object_of_a_number_is_kept() -> None:
    inodes = InodeTable(Empty())
    first, second, third = Plain(5), Plain(5), Plain(6)
    inodes.remember(first)
    inodes.remember(second)
    assert inodes.node(5) is second
    inodes.renew(first)
    assert inodes.node(5) is first
    inodes.renew(third)
    assert not inodes.knows(6)


def test_a_file_is_no_directory_and_the_other_way_round() -> None:
    inodes = InodeTable(Empty())
    inodes.remember(Plain(5))
    with pytest.raises(NotADirectoryError):
        inodes.directory(5)
    with pytest.raises(OSError) as raised:
        inodes.file(1)
    assert raised.value.errno == errno.EISDIR
