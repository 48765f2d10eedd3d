"""A directory's entries, made one by one as they are read.

The kernel reads a directory in pieces, and a program may stop after the first. So `Listed` holds
two parallel sequences that are there anyway, names and what they mean, and makes a node only for
the entry that is asked for. It does not change when the directory does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, overload

from artifactfs.tree.node import Entry, Node

T = TypeVar("T")


class Listed(Sequence[Entry], Generic[T]):
    """`names[i]` means what `node_of(values[i])` makes."""

    __slots__ = ("_names", "_node_of", "_values")

    def __init__(
        self, names: Sequence[str], values: Sequence[T], node_of: Callable[[T], Node]
    ) -> None:
        self._names = names
        self._values = values
        self._node_of = node_of

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if isinstance(index, slice):
            return [
                Entry(name, self._node_of(value))
                for name, value in zip(self._names[index], self._values[index], strict=True)
            ]
        return Entry(self._names[index], self._node_of(self._values[index]))

    def __iter__(self) -> Iterator[Entry]:
        for name, value in zip(self._names, self._values, strict=True):
            yield Entry(name, self._node_of(value))
