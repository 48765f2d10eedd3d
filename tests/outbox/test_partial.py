"""A change that did not get to the disk leaves a partial file, whichever change it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifactfs import system
from artifactfs.byte_range import ByteRange
from artifactfs.config import SpoolConfig
from artifactfs.errors import SpoolFull
from artifactfs.outbox import (
    EntryState,
    Outbox,
    OutboxHandle,
)
from artifactfs.outbox import open_file as spooled
from artifactfs.outbox.missing_ranges import MAX_RANGES, MissingRanges
from artifactfs.system import (
    KEEP_SIZE,
    PUNCH_HOLE,
    ZERO_RANGE,
)

from .conftest import Bench, digest, entry

ROOM = 10_000
BEGIN = b"begin"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "source"
    path.write_bytes(b"s" * 2 * ROOM)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


Change = Callable[[OutboxHandle, int], object]
CHANGES: dict[str, Change] = {
    "write": lambda file, source: file.write(5, b"w" * ROOM),
    "copy": lambda file, source: file.copy_in(source, 0, 5, ROOM),
    "allocate": lambda file, source: file.allocate(0, 0, ROOM + 5),
    "zero": lambda file, source: file.allocate(ZERO_RANGE, 0, ROOM + 5),
    "extend": lambda file, source: file.truncate(ROOM + 5),
}


def begun(bench: Bench) -> tuple[Outbox, OutboxHandle]:
    outbox = bench.outbox()
    file = outbox.create("file", 0o644)
    file.write(0, BEGIN)
    return outbox, file


def finish(outbox: Outbox, file: OutboxHandle) -> EntryState:
    file.flush(os.getpid())
    file.release()
    outbox.wait(timeout_s=30)
    return entry(outbox, "file").state


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_spools_limit_refuses_leaves_a_partial_file(
    bench: Bench, source: int, change: Change
) -> None:
    bench.spool = SpoolConfig(max_size_bytes=ROOM)
    outbox, file = begun(bench)
    with pytest.raises(SpoolFull):
        change(file, source)
    assert finish(outbox, file) is EntryState.INTERRUPTED
    assert bench.listed() == {}


def failing(monkeypatch: pytest.MonkeyPatch, number: int, after: int = 0) -> Callable[[], None]:
    """Have every change of a spool file fail like this, but for the first `after` calls."""
    left = after

    def broken(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*values: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(number, os.strerror(number))
            return real(*values)

        return act

    patch = monkeypatch.context()
    inside = patch.__enter__()
    inside.setattr(system, "copy_range", broken(system.copy_range))
    inside.setattr(spooled, "fallocate", broken(spooled.fallocate))
    inside.setattr(os, "pwrite", broken(os.pwrite))
    inside.setattr(os, "ftruncate", broken(os.ftruncate))
    return lambda: patch.__exit__(None, None, None)


CUTS: dict[str, Change] = {
    "cut": lambda file, source: file.truncate(2),
    "punch": lambda file, source: file.allocate(PUNCH_HOLE | KEEP_SIZE, 0, 3),
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("change", (CHANGES | CUTS).values(), ids=CHANGES | CUTS)
def test_what_the_disk_refuses_leaves_a_partial_file(
    bench: Bench, source: int, monkeypatch: pytest.MonkeyPatch, change: Change, number: int
) -> None:
    outbox, file = begun(bench)
    heal = failing(monkeypatch, number)
    with pytest.raises((SpoolFull, OSError)):
        change(file, source)
    heal()
    assert finish(outbox, file) is EntryState.INTERRUPTED
    assert bench.listed() == {}


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL])
@pytest.mark.parametrize("name", ["copy", "allocate", "zero"])
def test_what_the_file_system_cannot_do_is_left_to_the_program(
    bench: Bench, source: int, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    outbox, file = begun(bench)
    heal = failing(monkeypatch, number)
    with pytest.raises(OSError):
        CHANGES[name](file, source)
    heal()
    assert finish(outbox, file) is EntryState.UPLOADED


def test_space_that_is_only_kept_for_later_is_no_part_of_the_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, file = begun(bench)
    heal = failing(monkeypatch, errno.ENOSPC)
    with pytest.raises(SpoolFull):
        file.allocate(KEEP_SIZE, 0, ROOM)
    heal()
    assert finish(outbox, file) is EntryState.UPLOADED


def test_a_copy_that_stops_in_the_middle_is_missing_from_there_on(
    bench: Bench, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = system.copy_range
    monkeypatch.setattr(system, "copy_range", lambda a, b, size, *at: real(a, b, 100, *at))
    outbox, file = begun(bench)
    heal = failing(monkeypatch, errno.ENOSPC, after=2)
    with pytest.raises(SpoolFull):
        file.copy_in(source, 0, 5, 1000)
    heal()
    assert file.size_bytes == 205
    assert finish(outbox, file) is EntryState.INTERRUPTED
    again = outbox.open("file", os.O_RDWR)
    again.write(205, b"s" * 800)
    assert finish(outbox, again) is EntryState.UPLOADED
    assert bench.listed() == {"file": digest(BEGIN + b"s" * 1000)}


def test_every_range_that_failed_has_to_be_written_or_cut_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(file: OutboxHandle) -> None:
        heal = failing(monkeypatch, errno.ENOSPC)
        for offset in (100, 200, 300):
            with pytest.raises(SpoolFull):
                file.write(offset, b"x" * 50)
        heal()

    outbox, file = begun(bench)
    failed(file)
    file.write(300, b"x" * 50)
    file.write(200, b"x" * 50)
    assert finish(outbox, file) is EntryState.INTERRUPTED
    outbox.unlink("file")
    file = outbox.create("file", 0o644)
    failed(file)
    file.truncate(250)
    file.write(50, b"x" * 120)
    file.write(170, b"x" * 80)
    assert finish(outbox, file) is EntryState.UPLOADED


def test_room_that_a_failed_change_did_not_need_is_free_again(
    bench: Bench, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.spool = SpoolConfig(max_size_bytes=2 * ROOM)
    outbox, file = begun(bench)
    heal = failing(monkeypatch, errno.ENOSPC)
    for change in CHANGES.values():
        with pytest.raises(SpoolFull):
            change(file, source)
    heal()
    file.truncate(0)
    file.write(0, b"x" * 2 * ROOM)
    assert finish(outbox, file) is EntryState.UPLOADED


def test_missing_ranges_shrink_by_what_arrives() -> None:
    missing = MissingRanges()
    missing.add(ByteRange(10, 20))
    missing.arrived(ByteRange(12, 14))
    missing.arrived(ByteRange(0, 12))
    assert missing.first == 14
    missing.arrived(ByteRange(0, 100), zeros=True)
    assert missing.first == 14
    missing.cut(14)
    assert missing.first is None
    missing.add(ByteRange(30, 40), zeros=True)
    missing.arrived(ByteRange(0, 35), zeros=True)
    assert missing.first == 35
    missing.arrived(ByteRange(35, 40))
    assert missing.first is None


def closed_again(outbox: Outbox, *changes: Callable[[OutboxHandle], object]) -> EntryState:
    """Open the file for writing, change it, and close it properly."""
    file = outbox.open("file", os.O_RDWR)
    for change in changes:
        change(file)
    return finish(outbox, file)


def remounted(bench: Bench, outbox: Outbox) -> Outbox:
    bench.close(outbox)
    return bench.outbox()


def kept_open(bench: Bench, outbox: Outbox) -> Outbox:
    outbox.open("file", os.O_RDONLY)
    return outbox


BETWEEN: dict[str, Callable[[Bench, Outbox], Outbox]] = {
    "closed": lambda bench, outbox: outbox,
    "open for reading": kept_open,
    "remounted": remounted,
    "renamed": lambda bench, outbox: (
        outbox.rename("file", "other"),
        outbox.rename("other", "file"),
        outbox,
    )[-1],
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_partial_file_stays_partial_until_what_is_missing_is_written_or_cut_off(
    bench: Bench,
    source: int,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    between: Callable[[Bench, Outbox], Outbox],
) -> None:
    outbox, file = begun(bench)
    heal = failing(monkeypatch, errno.ENOSPC)
    with pytest.raises(SpoolFull):
        change(file, source)
    heal()
    assert finish(outbox, file) is EntryState.INTERRUPTED
    outbox = between(bench, outbox)
    end = ROOM + 5
    assert closed_again(outbox, lambda one: one.write(end, b"appended")) is EntryState.INTERRUPTED
    outbox = between(bench, outbox)
    assert closed_again(outbox, lambda one: one.write(0, b"x" * end)) is EntryState.UPLOADED
    assert bench.listed() == {"file": digest(b"x" * end + b"appended")}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_a_file_that_could_not_be_synced_stays_partial_until_it_is_written_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, between: Callable[[Bench, Outbox], Outbox]
) -> None:
    outbox, file = begun(bench)

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(system, "data_sync", broken)
        with pytest.raises(OSError, match="Input/output"):
            file.fsync()
    with pytest.raises(OSError, match="Input/output"):
        file.flush(os.getpid())
    file.release()
    outbox = between(bench, outbox)
    assert closed_again(outbox, lambda one: one.write(5, b"!")) is EntryState.INTERRUPTED
    outbox = between(bench, outbox)
    whole = [lambda one: one.truncate(0), lambda one: one.write(0, b"anew")]
    assert closed_again(outbox, *whole) is EntryState.UPLOADED
    assert bench.listed() == {"file": digest(b"anew")}


def test_a_driver_that_ends_before_the_close_leaves_what_is_missing(
    bench: Bench, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, file = begun(bench)
    heal = failing(monkeypatch, errno.ENOSPC)
    with pytest.raises(SpoolFull):
        CHANGES["write"](file, source)
    heal()
    outbox = remounted(bench, outbox)
    assert entry(outbox, "file").state is EntryState.INTERRUPTED
    assert closed_again(outbox, lambda one: one.write(2 * ROOM, b"!")) is EntryState.INTERRUPTED


@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open for reading"])
def test_a_partial_file_that_is_retried_counts_as_whole(
    bench: Bench, source: int, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    outbox, file = begun(bench)
    heal = failing(monkeypatch, errno.ENOSPC)
    with pytest.raises(SpoolFull):
        CHANGES["write"](file, source)
    heal()
    assert finish(outbox, file) is EntryState.INTERRUPTED
    if is_open:
        kept_open(bench, outbox)
    assert outbox.retry("file") == 1
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"file": digest(BEGIN)}
    assert closed_again(outbox, lambda one: one.write(len(BEGIN), b"!")) is EntryState.UPLOADED


@pytest.mark.parametrize("spans", [
    [], [ByteRange(0, 1)], [ByteRange(5, 9), ByteRange(9, 12), ByteRange(1 << 40, 1 << 41)],
])  # fmt: skip
@pytest.mark.parametrize("zeros", [False, True])
def test_missing_ranges_are_the_same_after_they_were_text(
    spans: list[ByteRange], zeros: bool
) -> None:
    missing = MissingRanges()
    for span in spans:
        missing.add(span, zeros=zeros)
    again = MissingRanges(str(missing))
    assert str(again) == str(missing)
    assert again.first == missing.first
    again.arrived(ByteRange(0, 1 << 42), zeros=zeros)
    assert again.first is None


def test_missing_ranges_are_few_and_cover_all_that_failed() -> None:
    missing = MissingRanges()
    for number in range(10_000):
        missing.add(ByteRange(number * 10, number * 10 + 5))
    assert len(str(missing).split()) <= MAX_RANGES
    for number in range(10_000):
        missing.arrived(ByteRange(number * 10 + 5, number * 10 + 10))
    assert missing.first == 0
    assert len(str(missing).split()) <= MAX_RANGES
    for number in range(10_000):
        missing.arrived(ByteRange(number * 10, number * 10 + 5))
    assert missing.first is not None
    missing.arrived(ByteRange(0, 100_000))
    assert missing.first is None
