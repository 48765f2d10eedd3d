"""A closed file that is written again is open, on the disk, before its first byte changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifactfs import system
from artifactfs.outbox import (
    EntryState,
    Outbox,
    OutboxHandle,
)
from artifactfs.outbox import open_file as spooled
from artifactfs.system import KEEP_SIZE, PUNCH_HOLE
from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until

from .conftest import Bench, digest, entry, write
from .test_generations import CHANGES

OLD = b"old" * 1000


class Disk:
    """What a power cut leaves of a spool: the journal as it was last synced.

    Of the files everything is left, which is the worst for what is looked for here. `cut_at_change`
    has the power cut come when the first byte of a spool file changes.
    """

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
        self._slot = next(bench.directory.glob("*/0"))
        self._copy = copy / bench.directory.name / self._slot.relative_to(bench.directory)
        self.is_cut = False
        real = system.data_sync

        def data_sync(descriptor: int) -> None:
            real(descriptor)
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith("-wal") and not self.is_cut:
                self._sync()

        self._patch = monkeypatch
        monkeypatch.setattr(system, "data_sync", data_sync)

    def _sync(self) -> None:
        shutil.rmtree(self._copy, ignore_errors=True)
        self._copy.mkdir(parents=True)
        for part in self._slot.glob("journal.sqlite*"):
            shutil.copyfile(part, self._copy / part.name)

    def cut_at_change(self) -> None:
        for module, name in (
            (os, "pwrite"),
            (os, "ftruncate"),
            (system, "copy_range"),
            (spooled, "fallocate"),
        ):
            self._patch.setattr(module, name, self._noticed(getattr(module, name)))

    def _noticed(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*values: Any) -> Any:
            self.is_cut = True
            return real(*values)

        return change

    def left(self) -> Path:
        """The spool as the next start finds it."""
        shutil.copytree(self._slot / "files", self._copy / "files")
        return self._copy.parent.parent


def after_the_cut(bench: Bench, disk: Disk) -> EntryState:
    assert disk.is_cut
    for outbox in list(bench.open):
        bench.close(outbox)
    bench.directory = disk.left()
    return entry(bench.outbox(), "file").state


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("before", [EntryState.QUEUED, EntryState.UPLOADED])
def test_a_closed_file_that_is_changed_comes_back_as_interrupted(
    bench: Bench,
    proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Outbox], None],
    before: EntryState,
) -> None:
    if before is EntryState.QUEUED:
        bench.quiet_s = 3600
    outbox = bench.outbox()
    disk = Disk(bench, monkeypatch, tmp_path / "after")
    write(outbox, "file", OLD)
    wait_until(lambda: entry(outbox, "file").state is before)
    disk.cut_at_change()
    change(outbox)
    assert after_the_cut(bench, disk) is EntryState.INTERRUPTED


INSIDE: dict[str, Callable[[OutboxHandle], object]] = {
    "write": lambda file: file.write(0, b"NEW"),
    "append": lambda file: file.write(len(OLD), b"NEW"),
    "truncate": lambda file: file.truncate(5),
    "allocate": lambda file: file.allocate(PUNCH_HOLE | KEEP_SIZE, 0, 5),
}


@pytest.mark.parametrize("change", INSIDE.values(), ids=INSIDE)
def test_a_change_after_one_descriptor_was_closed_is_open_again(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[OutboxHandle], object],
) -> None:
    outbox = bench.outbox()
    disk = Disk(bench, monkeypatch, tmp_path / "after")
    file = outbox.create("file", 0o644)
    file.write(0, OLD)
    file.flush(os.getpid())
    disk.cut_at_change()
    change(file)
    assert after_the_cut(bench, disk) is EntryState.INTERRUPTED
    file.release()


def test_a_sync_that_fails_keeps_the_bytes_as_they_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.quiet_s = 3600
    outbox = bench.outbox()
    write(outbox, "file", OLD)
    file = outbox.open("file", os.O_RDWR)
    with monkeypatch.context() as broken:

        def data_sync(descriptor: int) -> None:
            raise OSError(5, os.strerror(5))

        broken.setattr(system, "data_sync", data_sync)
        with pytest.raises(OSError):
            file.write(0, b"NEW")
        assert file.read(0, 10_000) == OLD
    file.write(0, b"NEW")
    file.flush(os.getpid())
    file.release()
    assert entry(outbox, "file").state is EntryState.QUEUED


# truncate(2) by path


def test_a_truncation_by_path_leaves_a_file_open_that_a_writer_has_open(bench: Bench) -> None:
    bench.quiet_s = 0.0
    outbox = bench.outbox()
    file = outbox.create("file", 0o644)
    file.write(0, OLD)
    outbox.change("file", size_bytes=3)
    assert entry(outbox, "file").state is EntryState.WRITING
    assert not entry(outbox, "file").closed
    assert [one.path for one in outbox.wait(timeout_s=0.3)] == ["file"]
    assert bench.listed() == {}
    file.write(3, b"more")
    file.flush(os.getpid())
    file.release()
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"file": digest(OLD[:3] + b"more")}


def test_a_truncation_by_path_of_what_is_read_only_is_closed(bench: Bench) -> None:
    outbox = bench.outbox()
    write(outbox, "file", OLD)
    assert outbox.wait(timeout_s=30) == []
    reading = outbox.open("file", os.O_RDONLY)
    outbox.change("file", size_bytes=3)
    assert entry(outbox, "file").closed
    assert outbox.wait(timeout_s=30) == []
    reading.release()
    newest = next(one for one in bench.service.artifacts.list() if one.filename == "file")
    assert newest.sha256 == digest(OLD[:3])


def test_a_truncation_by_path_does_not_wait_for_the_upload(bench: Bench, proxy: FaultProxy) -> None:
    outbox = bench.outbox()
    write(outbox, "file", OLD)
    assert outbox.wait(timeout_s=30) == []
    bench.close(outbox)
    bench.drop = replace(bench.drop, sync=True)
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/artifacts", status=503, times=99)
    outbox.change("file", size_bytes=3)  # with sync, close(2) waits; this is none
    assert entry(outbox, "file").state is not EntryState.UPLOADED
    proxy.heal()
    outbox.retry()
    assert outbox.wait(timeout_s=60) == []
