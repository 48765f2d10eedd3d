"""The outbox against the real service: what is closed arrives once, whatever happens between."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from artifactfs import system
from artifactfs.config import SpoolConfig
from artifactfs.errors import SpoolFull
from artifactfs.outbox import EntryState
from artifactfs.outbox.journal import Journal
from artifactfs.outbox.spool import SpoolSlot
from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until

from .conftest import Bench, digest, entry, write


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5 << 20, (10 << 20) + 1])
def test_a_file_arrives_with_its_hash_whatever_way_its_size_takes(bench: Bench, size: int) -> None:
    outbox = bench.outbox()
    data = os.urandom(size)
    write(outbox, "file.bin", data)
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"file.bin": digest(data)}
    assert bench.adopted == [("file.bin", data)]
    assert entry(outbox, "file.bin").state is EntryState.UPLOADED


def test_what_is_written_out_of_order_is_hashed_again(bench: Bench) -> None:
    outbox = bench.outbox()
    file = outbox.create("scattered", 0o644)
    file.write(100, b"end")
    file.write(0, b"start")
    file.truncate(50)
    file.write(10, b"middle")
    file.flush(0)
    expected = file.read(0, 1000)
    file.release()
    assert len(expected) == 50
    assert outbox.wait(timeout_s=10) == []
    assert bench.listed() == {"scattered": digest(expected)}


def test_nothing_is_uploaded_before_it_is_closed(bench: Bench) -> None:
    outbox = bench.outbox()
    file = outbox.create("open", 0o644)
    file.write(0, b"x")
    assert [one.state for one in outbox.wait(timeout_s=0.2)] == [EntryState.WRITING]
    assert bench.listed() == {}
    file.flush(0)
    file.release()
    assert outbox.wait(timeout_s=10) == []


def test_a_killed_writers_file_waits_until_it_is_wanted(bench: Bench) -> None:
    outbox = bench.outbox()
    bench.killed = True
    write(outbox, "torso", b"half")
    assert entry(outbox, "torso").state is EntryState.INTERRUPTED
    assert [one.path for one in outbox.wait(timeout_s=0.2)] == ["torso"]
    assert outbox.retry("torso") == 1
    assert outbox.wait(timeout_s=10) == []
    assert bench.listed() == {"torso": digest(b"half")}


def test_an_interrupted_file_that_is_written_and_closed_properly_is_uploaded(bench: Bench) -> None:
    outbox = bench.outbox()
    bench.killed = True
    write(outbox, "file", b"half")
    bench.killed = False
    file = outbox.open("file", os.O_WRONLY)
    file.write(4, b" and half")
    file.flush(0)
    file.release()
    assert outbox.wait(timeout_s=10) == []
    assert bench.listed() == {"file": digest(b"half and half")}


def test_what_was_closed_survives_a_crash(bench: Bench, controller: LocalController) -> None:
    controller.stop()
    outbox = bench.outbox()
    for number in range(5):
        write(outbox, f"file{number}", str(number).encode())
    bench.close(outbox)
    controller.start()
    assert bench.outbox().wait(timeout_s=30) == []
    assert bench.listed() == {f"file{n}": digest(str(n).encode()) for n in range(5)}


def test_what_was_never_closed_is_interrupted_after_a_crash(bench: Bench) -> None:
    outbox = bench.outbox()
    file = outbox.create("open", 0o644)
    file.write(0, b"partial")
    bench.close(outbox)
    again = bench.outbox()
    found = entry(again, "open")
    assert found.state is EntryState.INTERRUPTED
    reading = again.open("open", os.O_RDONLY)
    assert reading.read(0, 100) == b"partial"
    reading.release()
    file.release()


def test_a_rename_before_the_upload_renames_the_artifact(
    bench: Bench, controller: LocalController
) -> None:
    controller.stop()
    outbox = bench.outbox()
    write(outbox, "a", b"x")
    outbox.make_folder("dir", 0o755)
    outbox.rename("a", "dir/b")
    controller.start()
    outbox.retry()
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"dir/b": digest(b"x")}


def test_a_temporary_name_waits_for_its_rename(bench: Bench) -> None:
    outbox = bench.outbox()
    write(outbox, ".model.bin.aB3xYz", b"model")
    assert [one.waits_for_name for one in outbox.wait(timeout_s=0.2)] == [True]
    assert bench.listed() == {}
    outbox.rename(".model.bin.aB3xYz", "model.bin")
    assert outbox.wait(timeout_s=10) == []
    assert bench.listed() == {"model.bin": digest(b"model")}


def test_a_rename_over_a_file_replaces_it(bench: Bench, controller: LocalController) -> None:
    controller.stop()
    outbox = bench.outbox()
    write(outbox, "target", b"old")
    write(outbox, "new.tmp", b"new")
    outbox.rename("new.tmp", "target")
    assert [one.path for one in outbox.entries()] == ["target"]
    controller.start()
    outbox.retry()
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"target": digest(b"new")}


def test_an_uploaded_file_that_is_renamed_is_uploaded_under_its_new_name(bench: Bench) -> None:
    outbox = bench.outbox()
    write(outbox, "download.bin", b"data")
    assert outbox.wait(timeout_s=10) == []
    outbox.rename("download.bin", "final.bin")
    assert outbox.wait(timeout_s=10) == []
    assert set(bench.listed()) == {"download.bin", "final.bin"}


def test_an_unlinked_file_is_withdrawn_and_works_on_while_open(
    bench: Bench, controller: LocalController
) -> None:
    controller.stop()
    outbox = bench.outbox()
    file = outbox.create("gone", 0o644)
    file.write(0, b"still ")
    outbox.unlink("gone")
    file.write(6, b"here")
    assert file.read(0, 100) == b"still here"
    assert file.entry.size_bytes == 10
    file.flush(0)
    file.release()
    assert outbox.entries() == []
    assert not any((bench.directory).rglob("files/*"))


def test_an_overwritten_upload_is_not_the_old_one(bench: Bench, proxy: FaultProxy) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/artifacts", delay_s=0.5)
    write(outbox, "file", b"first")
    wait_until(lambda: entry(outbox, "file").state is EntryState.UPLOADING)
    file = outbox.open("file", os.O_WRONLY | os.O_TRUNC)
    file.write(0, b"second")
    file.flush(0)
    file.release()
    assert outbox.wait(timeout_s=30) == []
    newest = next(one for one in bench.service.artifacts.list() if one.filename == "file")
    assert newest.sha256 == digest(b"second")


def test_writing_to_an_uploaded_file_leaves_the_cached_copy_alone(bench: Bench) -> None:
    outbox = bench.outbox()
    linked = bench.directory.parent / "cached"
    bench._adopt = lambda artifact, path: os.link(path or "", linked)  # type: ignore[method-assign]
    outbox.close()
    bench.open.clear()
    outbox = bench.outbox()
    write(outbox, "file", b"original")
    assert outbox.wait(timeout_s=10) == []
    file = outbox.open("file", os.O_RDWR)
    file.write(0, b"changed!")
    assert linked.read_bytes() == b"original"
    assert file.read(0, 10) == b"changed!"
    file.flush(0)
    file.release()


def test_what_has_lingered_leaves_and_its_folder_with_it(bench: Bench) -> None:
    bench.drop = replace(bench.drop, linger_s=0)
    outbox = bench.outbox()
    outbox.make_folder("made", 0o755)
    outbox.make_folder("used", 0o755)
    write(outbox, "used/file", b"x")
    wait_until(lambda: [one.path for one in outbox.children("")] == ["made"], 20)


def test_a_full_spool_says_so_and_keeps_what_was_closed(bench: Bench) -> None:
    bench.spool = SpoolConfig(max_size_bytes=1000)
    bench.drop = replace(bench.drop, linger_s=3600)
    outbox = bench.outbox()
    write(outbox, "first", b"x" * 600)
    file = outbox.create("second", 0o644)
    with pytest.raises(SpoolFull):
        file.write(0, b"y" * 600)
    outbox.unlink("second")
    file.flush(0)
    file.release()
    assert outbox.wait(timeout_s=10) == []
    assert bench.listed() == {"first": digest(b"x" * 600)}
    write(outbox, "third", b"z" * 300)


def test_folders_behave_like_a_local_directory(bench: Bench) -> None:
    outbox = bench.outbox()
    outbox.make_folder("d", 0o755)
    write(outbox, "d/f.tmp", b"x")

    def refused(act: Callable[[], object]) -> int | None:
        with pytest.raises(OSError) as caught:
            act()
        return caught.value.errno

    assert refused(lambda: outbox.make_folder("d", 0o755)) == errno.EEXIST
    assert refused(lambda: outbox.remove_folder("d")) == errno.ENOTEMPTY
    assert refused(lambda: outbox.remove_folder("d/f.tmp")) == errno.ENOTDIR
    assert refused(lambda: outbox.unlink("d")) == errno.EISDIR
    assert refused(lambda: outbox.unlink("none")) == errno.ENOENT
    assert refused(lambda: outbox.create("none/f", 0o644)) == errno.ENOENT
    assert refused(lambda: outbox.create("d/f.tmp/g", 0o644)) == errno.ENOTDIR
    assert refused(lambda: outbox.create("d/f.tmp", 0o644, exclusive=True)) == errno.EEXIST
    assert refused(lambda: outbox.create("x" * 256, 0o644)) == errno.ENAMETOOLONG
    assert refused(lambda: outbox.rename("d", "d/e", 0)) == errno.EINVAL
    assert refused(lambda: outbox.rename("d/f.tmp", "d", 0)) == errno.EISDIR
    outbox.rename("d", "e", 0)
    assert [one.path for one in outbox.children("e")] == ["e/f.tmp"]
    assert outbox.find("d") is None


def test_names_that_are_not_utf8_are_kept(bench: Bench) -> None:
    outbox = bench.outbox()
    name = os.fsdecode(b"caf\xe9.bin")
    write(outbox, name, b"x")
    assert outbox.wait(timeout_s=10) == []
    bench.close(outbox)
    assert bench.outbox().find(name) is not None


def test_two_outboxes_share_a_spool_and_the_next_takes_over_what_is_left(
    bench: Bench, controller: LocalController
) -> None:
    controller.stop()
    first, second = bench.outbox(), bench.outbox()
    write(first, "one", b"1")
    write(second, "two", b"2")
    bench.close(first)
    bench.close(second)
    controller.start()
    assert bench.outbox().wait(timeout_s=30) == []
    assert bench.listed() == {"one": digest(b"1"), "two": digest(b"2")}


def test_a_file_without_a_row_and_a_row_without_a_file_are_shown(
    bench: Bench, controller: LocalController
) -> None:
    controller.stop()
    outbox = bench.outbox()
    write(outbox, "lost", b"x")
    bench.close(outbox)
    (files,) = bench.directory.glob("*/0/files")
    next(files.iterdir()).unlink()
    (files / "77").write_bytes(b"stray")
    again = bench.outbox()
    assert entry(again, "lost").state is EntryState.FAILED
    (stray,) = [one for one in again.entries() if one.path != "lost"]
    assert stray.state is EntryState.INTERRUPTED
    assert stray.size_bytes == 5


def test_a_lost_answer_does_not_double_the_upload(bench: Bench, proxy: FaultProxy) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/api/v1/artifacts", lose_answer=True)
    write(outbox, "small", b"small")
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"small": digest(b"small")}


def test_a_lost_completion_does_not_double_a_multipart_upload(
    bench: Bench, proxy: FaultProxy
) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/complete", lose_answer=True)
    data = os.urandom(11 << 20)
    write(outbox, "large", data)
    assert outbox.wait(timeout_s=60) == []
    assert bench.listed() == {"large": digest(data)}


def test_an_expired_part_url_is_asked_for_again(bench: Bench, proxy: FaultProxy) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="PUT", path="/objects/parts/", status=403, times=2)
    data = os.urandom(11 << 20)
    write(outbox, "large", data)
    assert outbox.wait(timeout_s=60) == []
    assert bench.listed() == {"large": digest(data)}


@pytest.mark.parametrize("status", [404, 405, 501])
def test_without_direct_and_multipart_the_controller_takes_everything(
    bench: Bench, proxy: FaultProxy, status: int
) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/artifacts/direct", status=status, times=99)
    proxy.break_with(method="POST", path="/artifacts/multipart", status=status, times=99)
    data = os.urandom(6 << 20)
    write(outbox, "file", data)
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"file": digest(data)}


@pytest.mark.parametrize(("status", "words"), [(402, "no credits"), (403, "viewer"), (422, "no")])
def test_a_refusal_stays_with_the_services_words_until_retried(
    bench: Bench, proxy: FaultProxy, status: int, words: str
) -> None:
    outbox = bench.outbox()
    body = f'{{"error": {{"message": "{words}"}}}}'.encode()
    proxy.break_with(method="POST", path="/artifacts", status=status, body=body, times=1)
    write(outbox, "file", b"x")
    (failed,) = outbox.wait(timeout_s=10)
    assert failed.state is EntryState.FAILED
    assert words in (failed.error or "")
    assert outbox.retry() == 1
    assert outbox.wait(timeout_s=10) == []


def test_a_service_that_is_away_delays_and_loses_nothing(
    bench: Bench, controller: LocalController
) -> None:
    outbox = bench.outbox()
    controller.stop()
    write(outbox, "file", b"x")
    wait_until(lambda: entry(outbox, "file").error is not None, 20)
    assert entry(outbox, "file").state in (EntryState.QUEUED, EntryState.UPLOADING)
    controller.start()
    assert outbox.wait(timeout_s=60) == []
    assert bench.listed() == {"file": digest(b"x")}


def test_sync_makes_close_wait(bench: Bench) -> None:
    bench.drop = replace(bench.drop, sync=True)
    outbox = bench.outbox()
    file = outbox.create("now", 0o644)
    file.write(0, b"now")
    file.flush(0)
    assert bench.listed() == {}
    assert file.settles
    file.settle()
    assert bench.listed() == {"now": digest(b"now")}
    file.release()


def test_sync_makes_only_the_last_of_several_writers_wait(bench: Bench) -> None:
    bench.drop = replace(bench.drop, sync=True)
    outbox = bench.outbox()
    first = outbox.create("file", 0o644)
    second = outbox.open("file", os.O_WRONLY)
    reader = outbox.open("file", os.O_RDONLY)
    first.write(0, b"one")
    first.flush(0)
    assert not first.settles
    first.release()
    assert entry(outbox, "file").state is EntryState.WRITING
    second.write(3, b" two")
    second.flush(0)
    assert second.settles
    second.settle()
    assert bench.listed() == {"file": digest(b"one two")}
    second.release()
    reader.release()


def test_fsync_is_durable_here_and_waits_for_no_upload(
    bench: Bench, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/artifacts", delay_s=600, times=99)
    write(outbox, "closed", b"x")
    wait_until(lambda: entry(outbox, "closed").state is EntryState.UPLOADING)
    reached: list[str] = []

    def note(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def noted(self: object) -> None:
            reached.append(name)
            real(self)

        monkeypatch.setattr(owner, name, noted)

    note(Journal, "reach_disk")
    note(SpoolSlot, "names_reach_disk")
    data_sync = system.data_sync
    monkeypatch.setattr(system, "data_sync", lambda fd: (reached.append("bytes"), data_sync(fd)))
    began_s = time.monotonic()
    closed = outbox.open("closed", os.O_RDONLY)
    closed.fsync()
    assert reached[0] == "bytes"
    assert "reach_disk" in reached
    reached.clear()
    fresh = outbox.create("fresh", 0o644)
    fresh.write(0, b"x")
    fresh.fsync()
    assert (reached[0], reached[1], reached[2]) == ("bytes", "names_reach_disk", "reach_disk")
    reached.clear()
    outbox.make_folder("made", 0o755)
    outbox.sync()
    assert reached[:2] == ["names_reach_disk", "reach_disk"]
    assert time.monotonic() - began_s < 30
    assert entry(outbox, "closed").state is EntryState.UPLOADING
    closed.release()
    fresh.release()


def test_closing_is_quick_while_the_service_hangs(bench: Bench, proxy: FaultProxy) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/artifacts", delay_s=60, times=99)
    write(outbox, "file", b"x")
    wait_until(lambda: entry(outbox, "file").state is EntryState.UPLOADING)
    bench.service.close()
    started = time.monotonic()
    bench.close(outbox)
    assert time.monotonic() - started < 8
