"""What libfuse's table of paths makes necessary, without a mount."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.caller import CallerIntent
from artifactfs.fuse.error_reply import ErrorReplies
from artifactfs.fuse.libfuse.operations import (
    NameMovedOn,
    NodeOwner,
    Operations,
)
from tests.fuse.memory_tree import MemoryTree

HIDDEN = "/drop/.fuse_hidden0000000a00000001"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[MemoryTree]:
    tree = MemoryTree(tmp_path / "backed", lambda name: None)
    tree.start()
    yield tree
    tree.close()


@pytest.fixture
def operations(tree: MemoryTree) -> Iterator[Operations]:
    operations = Operations(
        tree,
        NodeOwner(0, 0),
        ErrorReplies(),
        wish=lambda: CallerIntent.GO_ON,
        caller_pid=lambda: 4711,
    )
    yield operations
    operations.close(10.0)


def test_a_name_that_moved_on_between_look_up_and_open_is_looked_up_again(
    tree: MemoryTree, operations: Operations
) -> None:
    tree.publish("fixed/name", b"short")
    operations.getattr("/fixed/name", None)
    tree.publish("fixed/name", b"much longer")
    with pytest.raises(NameMovedOn):
        operations.open("/fixed/name", os.O_RDONLY)
    assert operations.getattr("/fixed/name", None).size_bytes == len(b"much longer")
    opened = operations.open("/fixed/name", os.O_RDONLY)
    assert operations.read(opened.number, 0, 100) == b"much longer"


def test_a_name_that_is_open_means_the_open_file(tree: MemoryTree, operations: Operations) -> None:
    tree.publish("fixed/name", b"old")
    opened = operations.open("/fixed/name", os.O_RDONLY)
    tree.publish("fixed/name", b"newer")
    assert operations.getattr("/fixed/name", None).size_bytes == 3
    again = operations.open("/fixed/name", os.O_RDONLY)
    assert operations.read(again.number, 0, 100) == b"old"
    operations.release(opened.number)
    operations.release(again.number)
    assert operations.getattr("/fixed/name", None).size_bytes == 5


def test_pages_are_kept_until_the_name_means_something_else(
    tree: MemoryTree, operations: Operations
) -> None:
    def keeps() -> bool:
        operations.getattr("/fixed/name", None)
        opened = operations.open("/fixed/name", os.O_RDONLY)
        operations.release(opened.number)
        return opened.keep_cache

    tree.publish("fixed/name", b"old")
    assert [keeps(), keeps()] == [False, True]
    tree.publish("fixed/name", b"new")
    assert [keeps(), keeps()] == [False, True]


def test_hiding_an_open_file_unlinks_it_in_the_tree(
    tree: MemoryTree, operations: Operations
) -> None:
    opened = operations.create("/drop/a", 0o644, os.O_RDWR | os.O_CREAT)
    operations.rename("/drop/a", HIDDEN)
    assert tree.dropped() == {}
    operations.write(opened.number, 0, b"still here")
    assert operations.getattr(HIDDEN, None).size_bytes == 10
    operations.release(opened.number)
    operations.unlink(HIDDEN)
    with pytest.raises(OSError) as raised:
        operations.getattr(HIDDEN, None)
    assert raised.value.errno == errno.ENOENT


def test_what_is_open_when_the_mount_ends_is_released(
    tree: MemoryTree, operations: Operations
) -> None:
    operations.create("/drop/a", 0o644, os.O_RDWR | os.O_CREAT)
    operations.create("/drop/b", 0o644, os.O_RDWR | os.O_CREAT)
    operations.release_all()
    assert {one["handles"] for one in tree.dropped().values()} == {0}


def test_a_read_never_gives_more_than_was_asked(tree: MemoryTree, operations: Operations) -> None:
    opened = operations.open("/fixed/fetched.bin", os.O_RDONLY)
    for size in (1, 4096, 200_000):
        assert len(operations.read(opened.number, 5, 5 + size)) == size


def test_a_name_that_cannot_be_one_is_left_out_of_a_listing(
    tree: MemoryTree, operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    fixed = tree.node_at("fixed/sub")
    tree.publish_directory("fixed/sub/good")
    fixed.children["a/b"] = fixed.children["inner.txt"]
    names = {name for name, _, _ in operations.readdir(operations.opendir("/fixed/sub"))}
    assert names == {".", "..", "good", "inner.txt"}
    assert "a/b" in caplog.text
