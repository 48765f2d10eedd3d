"""A change that did not get to the disk leaves a partial file, whichever change it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifactfs import system
from artifactfs.config import SpoolConfig
from artifactfs.drop import OpenFile, Outbox, State
from artifactfs.drop import files as spooled
from artifactfs.drop.missing import MissingRanges
from artifactfs.errors import SpoolFull
from artifactfs.fallocate import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from artifactfs.spans import Span

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


Change = Callable[[OpenFile, int], object]
CHANGES: dict[str, Change] = {
    "write": lambda file, source: file.write(5, b"w" * ROOM),
    "copy": lambda file, source: file.copy_in(source, 0, 5, ROOM),
    "allocate": lambda file, source: file.allocate(0, 0, ROOM + 5),
    "zero": lambda file, source: file.allocate(ZERO_RANGE, 0, ROOM + 5),
    "extend": lambda file, source: file.truncate(ROOM + 5),
}


def begun(bench: Bench) -> tuple[Outbox, OpenFile]:
    outbox = bench.outbox()
    file = outbox.create("file", 0o644)
    file.write(0, BEGIN)
    return outbox, file


def finish(outbox: Outbox, file: OpenFile) -> State:
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
    assert finish(outbox, file) is State.INTERRUPTED
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
    assert finish(outbox, file) is State.INTERRUPTED
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
    assert finish(outbox, file) is State.UPLOADED


def test_space_that_is_only_kept_for_later_is_no_part_of_the_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, file = begun(bench)
    heal = failing(monkeypatch, errno.ENOSPC)
    with pytest.raises(SpoolFull):
        file.allocate(KEEP_SIZE, 0, ROOM)
    heal()
    assert finish(outbox, file) is State.UPLOADED


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
    assert finish(outbox, file) is State.INTERRUPTED
    again = outbox.open("file", os.O_RDWR)
    again.write(205, b"s" * 800)
    assert finish(outbox, again) is State.UPLOADED
    assert bench.listed() == {"file": digest(BEGIN + b"s" * 1000)}


def test_every_range_that_failed_has_to_be_written_or_cut_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(file: OpenFile) -> None:
        heal = failing(monkeypatch, errno.ENOSPC)
        for offset in (100, 200, 300):
            with pytest.raises(SpoolFull):
                file.write(offset, b"x" * 50)
        heal()

    outbox, file = begun(bench)
    failed(file)
    file.write(300, b"x" * 50)
    file.write(200, b"x" * 50)
    assert finish(outbox, file) is State.INTERRUPTED
    outbox.unlink("file")
    file = outbox.create("file", 0o644)
    failed(file)
    file.truncate(250)
    file.write(50, b"x" * 120)
    file.write(170, b"x" * 80)
    assert finish(outbox, file) is State.UPLOADED


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
    assert finish(outbox, file) is State.UPLOADED


def test_missing_ranges_shrink_by_what_arrives() -> None:
    missing = MissingRanges()
    missing.add(Span(10, 20))
    missing.arrived(Span(12, 14))
    missing.arrived(Span(0, 12))
    assert missing.first == 14
    missing.arrived(Span(0, 100), zeros=True)
    assert missing.first == 14
    missing.cut(14)
    assert missing.first is None
    missing.add(Span(30, 40), zeros=True)
    missing.arrived(Span(0, 35), zeros=True)
    assert missing.first == 35
    missing.arrived(Span(35, 40))
    assert missing.first is None
