"""What open paths mean, without a mount."""

from __future__ import annotations

import errno

import pytest

from artifactfs.fuse.libfuse.open_files import (
    NodePin,
    OpenFiles,
    hides,
)
from artifactfs.vfs.node import (
    Attributes,
    Directory,
    Handle,
    Kind,
    Node,
)

HIDDEN = "/drop/.fuse_hidden0000000a00000001"


class Numbered(Node):
    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def ino(self) -> int:
        return self.number

    def attributes(self) -> Attributes:
        return Attributes(self.number, Kind.FILE, 0o444, 0, 1, 0, 0)


class Silent(Handle):
    def read(self, start: int, stop: int) -> bytes:
        return b""


OLD, NEW = Numbered(7), Numbered(8)


@pytest.fixture
def files() -> OpenFiles:
    return OpenFiles()


def opened(
    files: OpenFiles, path: str, node: Node, *, uncached: bool = False
) -> tuple[int, bool, NodePin]:
    pin = files.claim(path, node)
    number, keep = files.add(pin, Silent(), uncached=uncached, keeps=True)
    return number, keep, pin


def test_a_number_finds_its_handle_until_it_is_removed(files: OpenFiles) -> None:
    number, _, _ = opened(files, "/a", OLD)
    assert files.get(number).node is OLD
    assert files.remove(number).node is OLD
    for use in (files.get, files.remove, files.get_directory):
        with pytest.raises(OSError) as raised:
            use(number)
        assert raised.value.errno == errno.EBADF


def test_numbers_are_never_used_twice(files: OpenFiles) -> None:
    numbers = set()
    for _ in range(100):
        number, _, _ = opened(files, "/a", OLD)
        files.remove(number)
        numbers.add(number)
    assert len(numbers) == 100
    assert 0 not in numbers


def test_a_path_that_is_open_with_page_cache_keeps_its_meaning(files: OpenFiles) -> None:
    first, _, _ = opened(files, "/a", OLD)
    assert files.meaning("/a") is OLD
    second, _, pin = opened(files, "/a", NEW)
    assert pin.node is OLD
    files.remove(first)
    assert files.meaning("/a") is OLD
    files.remove(second)
    assert files.meaning("/a") is None


def test_a_path_being_opened_means_what_is_being_opened(files: OpenFiles) -> None:
    pin = files.claim("/a", OLD)
    assert files.meaning("/a") is OLD
    files.unclaim(pin)
    assert files.meaning("/a") is None


def test_a_path_that_is_open_without_page_cache_means_what_the_tree_says(files: OpenFiles) -> None:
    first, _, _ = opened(files, "/a", OLD, uncached=True)
    assert files.meaning("/a") is None
    second, _, pin = opened(files, "/a", NEW, uncached=True)
    assert pin.node is NEW
    assert files.get(first).node is OLD
    files.remove(first)
    files.remove(second)
    assert files.meaning("/a") is None


def test_pages_are_kept_only_for_the_same_inode(files: OpenFiles) -> None:
    def keeps(node: Node) -> bool:
        number, keep, _ = opened(files, "/a", node)
        files.remove(number)
        return keep

    assert [keeps(node) for node in (OLD, OLD, NEW, NEW, OLD)] == [False, True, False, True, False]


def test_a_path_that_the_kernel_knows_as_another_inode_is_noticed(files: OpenFiles) -> None:
    assert not files.was_shown_as_another("/a", 7)
    files.shown("/a", 7)
    assert not files.was_shown_as_another("/a", 7)
    assert files.was_shown_as_another("/a", 8)


def test_hiding_is_told_from_renaming() -> None:
    assert hides("/drop/a", HIDDEN)
    assert hides("/a", "/.fuse_hidden0000000a00000001")
    assert not hides("/drop/a", "/other/.fuse_hidden0000000a00000001")
    assert not hides("/drop/a", "/drop/.fuse_hidden-of-mine")


def test_hiding_what_is_not_open_any_more_leaves_nothing(files: OpenFiles) -> None:
    files.hide("/drop/a", HIDDEN)
    assert files.meaning(HIDDEN) is None


def test_a_hidden_path_means_the_open_file_until_it_is_closed(files: OpenFiles) -> None:
    number, _, _ = opened(files, "/drop/a", OLD, uncached=True)
    files.hide("/drop/a", HIDDEN)
    assert files.meaning("/drop/a") is None
    assert files.meaning(HIDDEN) is OLD
    other, _, _ = opened(files, "/drop/a", NEW, uncached=True)
    files.remove(number)
    assert files.meaning(HIDDEN) is None
    assert files.get(other).node is NEW


def test_a_hidden_path_ends_with_its_unlink(files: OpenFiles) -> None:
    number, _, _ = opened(files, "/drop/a", OLD, uncached=True)
    files.hide("/drop/a", HIDDEN)
    files.reveal(HIDDEN)
    assert files.meaning(HIDDEN) is None
    files.remove(number)
    files.reveal("/never/there")


def test_renaming_takes_along_what_is_open_below(files: OpenFiles) -> None:
    inside, _, _ = opened(files, "/drop/d/a", OLD)
    opened(files, "/drop/dd", NEW)
    files.renamed("/drop/d", "/drop/e")
    assert files.meaning("/drop/d/a") is None
    assert files.meaning("/drop/e/a") is OLD
    assert files.meaning("/drop/dd") is NEW
    files.remove(inside)
    assert files.meaning("/drop/e/a") is None


def test_ending_gives_back_all_that_is_open(files: OpenFiles) -> None:
    opened(files, "/a", OLD)
    opened(files, "/b", NEW)
    assert {one.node.ino for one in files.remove_all()} == {7, 8}
    assert files.remove_all() == []


def test_directories_have_numbers_of_their_own(files: OpenFiles) -> None:
    class Empty(Numbered, Directory):
        def find(self, name: str) -> None:
            return None

        def entries(self) -> list:
            return []

    number = files.add_directory(Empty(5), 1)
    assert files.get_directory(number).parent_ino == 1
    files.remove_directory(number)
    files.remove_directory(number)
