"""A directory's entries, made one by one as they are read.

The kernel reads a directory in pieces, and a program may stop after the first. So `Listed` holds
two parallel sequences that are there anyway, names and what they mean, and makes a node only for
the entry that is asked for. It does not change when the directory does.

Who only lists names needs no node at all: `numbered` gives of each entry what ``getdents`` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

from artifactfs.tree.node import (
    Entry,
    Kind,
    Node,
    kind_of,
)

T = TypeVar("T")


Number = tuple[int, Kind]


class Listed(Sequence[Entry], Generic[T]):
    """`names[i]` means what `node_of(values[i])` makes.

    `number_of` tells the number and the kind of that node without making it.
    """

    __slots__ = ("_names", "_node_of", "_number_of", "_values")

    def __init__(
        self,
        names: Sequence[str],
        values: Sequence[T],
        node_of: Callable[[T], Node],
        number_of: Callable[[T], Number] | None = None,
    ) -> None:
        self._names = names
        self._values = values
        self._node_of = node_of
        self._number_of = number_of or (lambda value: _number(node_of(value)))

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

    def numbered(self, start: int, stop: int) -> Iterable[tuple[str, Number]]:
        """Names and numbers of the entries [start, stop)."""
        return zip(
            self._names[start:stop], map(self._number_of, self._values[start:stop]), strict=True
        )


def numbered(entries: Sequence[Entry], start: int, stop: int) -> Iterable[tuple[str, Number]]:
    """Names, numbers and kinds of the entries [start, stop) of any directory."""
    if isinstance(entries, Listed):
        return entries.numbered(start, stop)
    return [(entry.name, _number(entry.node)) for entry in entries[start:stop]]


def _number(node: Node) -> Number:
    return node.ino, kind_of(node)
