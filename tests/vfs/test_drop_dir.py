"""``drop/``: nodes that follow their entries, and handles that outlive their names."""

from __future__ import annotations

import errno
import gc
import os

import pytest

from artifactfs.vfs.node import (
    AttributeChange,
    Directory,
    File,
    Kind,
)

from .conftest import World
from .fakes import fail


def made(directory: Directory, name: str, data: bytes = b"") -> File:
    """A new file, closed."""
    file, handle = directory.create(name, os.O_WRONLY | os.O_CREAT, 0o640)
    handle.write(0, data)
    handle.release()
    return file


@pytest.fixture
def drop(world: World) -> Directory:
    return world.directory("drop")


def test_a_file_is_made_written_and_shown(world: World, drop: Directory) -> None:
    file, handle = drop.create("new.bin", os.O_RDWR | os.O_CREAT, 0o640)
    assert handle.write(0, b"hello") == 5
    assert handle.read(1, 3) == b"el"
    shown = file.attributes()
    assert (shown.kind, shown.mode, shown.size_bytes) == (Kind.FILE, 0o640, 5)
    assert (shown.nlink, shown.blocks) == (1, 1)
    assert file.lifetime_s == 0
    assert not handle.keep_cache
    assert world.names("drop") == ["new.bin"]
    handle.truncate(2)
    assert file.attributes().size_bytes == 2
    handle.flush(77)
    handle.fsync()
    assert handle.seek(1, os.SEEK_DATA) == 1
    handle.release()


def test_drop_itself_may_be_written(drop: Directory) -> None:
    shown = drop.attributes()
    assert (shown.kind, shown.mode) == (Kind.DIRECTORY, 0o755)
    drop.change(AttributeChange(mode=0o700, mtime_ns=5))  # as `rsync -a` does with its target
    assert drop.attributes().mode == 0o755


def test_directories_come_and_go(world: World, drop: Directory) -> None:
    folder = drop.make_directory("sub", 0o750)
    made(folder, "x")
    assert folder.attributes().mode == 0o750
    assert world.names("drop/sub") == ["x"]
    with pytest.raises(OSError) as caught:
        drop.remove_directory("sub")
    assert caught.value.errno == errno.ENOTEMPTY
    folder.unlink("x")
    drop.remove_directory("sub")
    assert world.node("drop/sub") is None
    assert list(folder.entries()) == []
    assert folder.find("x") is None
    assert folder.attributes().nlink == 0
    for attempt in (lambda: made(folder, "y"), lambda: folder.make_directory("z", 0o755)):
        with pytest.raises(FileNotFoundError):
            attempt()


def test_a_new_file_where_one_is_already(drop: Directory) -> None:
    first = made(drop, "x", b"first")
    with pytest.raises(FileExistsError):
        drop.create("x", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    again, handle = drop.create("x", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    assert again == first
    assert handle.read(0, 10) == b""
    drop.make_directory("d", 0o755)
    with pytest.raises(IsADirectoryError):
        drop.create("d", os.O_WRONLY | os.O_CREAT, 0o644)


def test_one_entry_has_one_node_for_as_long_as_somebody_holds_it(
    world: World, drop: Directory
) -> None:
    file = made(drop, "x")
    assert drop.find("x") is file
    number = file.ino
    assert next(iter(drop.entries())).node is file
    del file
    gc.collect()
    found = drop.find("x")
    assert found is not None
    assert found.ino == number


def test_a_renamed_file_keeps_its_node_and_its_open_handles(world: World, drop: Directory) -> None:
    file, handle = drop.create("a.tmp", os.O_RDWR | os.O_CREAT, 0o644)
    handle.write(0, b"data")
    drop.rename("a.tmp", drop, "a.txt", 1)
    assert world.outbox.calls[-1] == ("rename", "a.tmp", "a.txt", 1)
    assert drop.find("a.txt") is file
    assert drop.find("a.tmp") is None
    assert file.attributes().nlink == 1
    handle.write(4, b" more")
    assert file.attributes().size_bytes == 9
    file.change(AttributeChange(mode=0o600))
    assert world.outbox.calls[-1][:2] == ("change", "a.txt")


def test_what_lies_in_a_renamed_directory_follows_it(world: World, drop: Directory) -> None:
    folder = drop.make_directory("old", 0o755)
    deeper = folder.make_directory("deeper", 0o755)
    file = made(deeper, "x", b"data")
    target = drop.make_directory("target", 0o755)
    drop.rename("old", target, "new", 0)
    assert file.attributes().size_bytes == 4
    file.change(AttributeChange(mtime_ns=9))
    assert world.outbox.calls[-1][:2] == ("change", "target/new/deeper/x")
    made(deeper, "y")
    assert world.names("drop/target/new/deeper") == ["x", "y"]


def test_an_unlinked_file_lives_for_as_long_as_it_is_open(world: World, drop: Directory) -> None:
    file, handle = drop.create("x", os.O_RDWR | os.O_CREAT, 0o644)
    drop.unlink("x")
    handle.write(0, b"still here")
    shown = file.attributes()
    assert (shown.nlink, shown.size_bytes) == (0, 10)
    file.change(AttributeChange(size_bytes=5))
    assert handle.read(0, 99) == b"still"
    assert file.xattrs() == {}
    handle.release()
    with pytest.raises(OSError) as caught:
        file.attributes()
    assert caught.value.errno == errno.ESTALE


def test_a_name_that_means_another_file_by_now_is_not_mistaken(
    world: World, drop: Directory
) -> None:
    first = made(drop, "x", b"first")
    drop.unlink("x")
    second = made(drop, "x", b"the second")
    assert first != second
    for attempt in (
        first.attributes,
        lambda: first.open(os.O_RDONLY),
        lambda: first.change(AttributeChange(mode=0)),
        lambda: first.set_xattr("user.artifactfs.retry", b"1"),
    ):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.ESTALE
    assert second.attributes().size_bytes == 10


def test_a_file_that_another_is_renamed_over_is_gone(world: World, drop: Directory) -> None:
    old, kept = drop.create("x", os.O_RDWR | os.O_CREAT, 0o644)
    kept.write(0, b"old")
    new = made(drop, "x.tmp", b"newer")
    drop.rename("x.tmp", drop, "x", 0)
    assert drop.find("x") is new
    assert new.attributes().size_bytes == 5
    assert old.attributes().nlink == 0
    assert kept.read(0, 9) == b"old"


def test_a_look_up_that_a_rename_overtakes_does_not_misplace_the_node(
    world: World, drop: Directory
) -> None:
    file = made(drop, "x", b"data")
    world.outbox.overtaken["x"] = lambda: drop.rename("x", drop, "y", 0)
    assert drop.find("x") is file
    assert file.attributes().size_bytes == 4
    file.change(AttributeChange(mode=0o600))
    assert world.outbox.calls[-1][:2] == ("change", "y")


def test_a_file_leaves_drop_only_by_being_uploaded(world: World, drop: Directory) -> None:
    made(drop, "x")
    for target in (world.tree.root, world.directory("artifacts")):
        with pytest.raises(OSError) as caught:
            drop.rename("x", target, "x", 0)
        assert caught.value.errno == errno.EROFS


def test_the_version_is_the_outboxs(world: World, drop: Directory) -> None:
    before = drop.listing_version
    made(drop, "x")
    assert drop.listing_version != before


def test_xattrs_say_how_far_an_upload_is(world: World, drop: Directory) -> None:
    file = made(drop, "x")
    world.outbox.set("x", state="uploading", progress=0.999, sha256="a" * 64)
    prefix = "user.artifactfs."
    assert file.xattrs() == {
        f"{prefix}state": b"uploading",
        f"{prefix}progress": b"99",
        f"{prefix}sha256": b"a" * 64,
    }
    world.outbox.set("x", state="failed", error="no\udcff", artifact_id="art_1", progress=2.0)
    shown = file.xattrs()
    assert shown[f"{prefix}error"] == b"no\\udcff"
    assert shown[f"{prefix}artifact_id"] == b"art_1"
    assert shown[f"{prefix}progress"] == b"100"
    world.outbox.set("x", waits_for_name=True)
    assert file.xattrs()[f"{prefix}waits_for_name"] == b"1"


def test_retrying_is_setting_an_attribute(world: World, drop: Directory) -> None:
    folder = drop.make_directory("sub", 0o755)
    for node in (made(folder, "x"), folder, drop):
        assert world.order(node, "retry") is None
    assert world.outbox.calls == [("retry", "sub/x"), ("retry", "sub"), ("retry", None)]


def test_other_attributes_cannot_be_kept_and_are_refused_as_copying_programs_expect(
    drop: Directory,
) -> None:
    file = made(drop, "x")
    for node in (file, drop):
        with pytest.raises(OSError) as caught:
            node.set_xattr("user.artifactfs.id", b"art_1")
        assert caught.value.errno == errno.EOPNOTSUPP


def test_drop_takes_the_command_to_refresh(world: World, drop: Directory) -> None:
    calls = world.calls
    assert world.order(drop, "refresh") is None
    assert world.calls == calls + 1


def test_syncing_a_directory_reaches_the_disk_and_waits_for_no_upload(
    world: World, drop: Directory
) -> None:
    folder = drop.make_directory("sub", 0o755)
    made(folder, "slow")
    world.outbox.set("sub/slow", state="uploading")
    made(drop, "bad")
    world.outbox.set("bad", state="interrupted")
    drop.sync()
    folder.sync()
    assert world.outbox.calls == [("sync",), ("sync",)]


def test_what_comes_and_goes_in_drop_is_not_told(world: World, drop: Directory) -> None:
    """The kernel keeps no name in there."""
    folder = drop.make_directory("sub", 0o755)
    file = made(folder, "x")
    folder.unlink("x")
    drop.remove_directory("sub")
    assert world.told == []
    assert (drop.lifetime_s, folder.lifetime_s, file.lifetime_s) == (0.0, 0.0, 0.0)


def test_names_that_are_no_utf8_stay_as_they_are(world: World, drop: Directory) -> None:
    made(drop, "caf\udce9 \n.bin", b"x")
    assert world.names("drop") == ["caf\udce9 \n.bin"]


def test_what_the_outbox_refuses_passes_through(world: World, drop: Directory) -> None:
    world.outbox.refusal = fail(errno.ENOSPC)
    with pytest.raises(OSError) as caught:
        made(drop, "x")
    assert caught.value.errno == errno.ENOSPC
