"""An upload is of one generation: what is adopted, shown or removed is that one, or nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from artifactfs.model import Artifact
from artifactfs.outbox import EntryState, Outbox
from artifactfs.system import KEEP_SIZE, PUNCH_HOLE
from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until

from .conftest import Bench, digest, entry, write

OLD = b"old" * 1000


def overwrite(outbox: Outbox) -> None:
    _change(outbox, 0, lambda file: file.write(0, b"NEW"))


def write_anew(outbox: Outbox) -> None:
    _change(outbox, os.O_TRUNC, lambda file: file.write(0, OLD.upper()))


def cut(outbox: Outbox) -> None:
    _change(outbox, 0, lambda file: file.truncate(7))


def cut_by_path(outbox: Outbox) -> None:
    outbox.change("file", size_bytes=7)


def punch(outbox: Outbox) -> None:
    _change(outbox, 0, lambda file: file.allocate(PUNCH_HOLE | KEEP_SIZE, 0, 10))


def copy_in(outbox: Outbox) -> None:
    path = outbox.directory / "source"  # on the same disk
    path.write_bytes(b"COPY")
    with path.open("rb") as source:
        _change(outbox, 0, lambda file: file.copy_in(source.fileno(), 0, 0, 4))


def _change(outbox: Outbox, flags: int, change: Callable[..., object]) -> None:
    file = outbox.open("file", os.O_RDWR | flags)
    change(file)
    file.flush(os.getpid())
    file.release()


CHANGES = [overwrite, write_anew, cut, cut_by_path, punch, copy_in]


class Adopting:
    """A cache that takes its time: it looks at a file only when it is told to go on."""

    def __init__(self, bench: Bench) -> None:
        self.called = threading.Event()
        self.go_on = threading.Event()
        self.seen: dict[str, bytes | None] = {}
        bench._adopt = self.adopt  # type: ignore[method-assign]

    def adopt(self, artifact: Artifact, path: Path | None) -> None:
        self.called.set()
        assert self.go_on.wait(30)
        assert artifact.sha256 is not None
        self.seen.setdefault(artifact.sha256, None if path is None else path.read_bytes())


@pytest.fixture
def adopting(bench: Bench) -> Iterator[Adopting]:
    made = Adopting(bench)
    try:
        yield made
    finally:
        made.go_on.set()


def content(outbox: Outbox) -> bytes:
    file = outbox.open("file", os.O_RDONLY)
    try:
        return file.read(0, 1 << 20)
    finally:
        file.release()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_while_the_cache_adopts_it_is_adopted_as_it_was_sent(
    bench: Bench, adopting: Adopting, change: Callable[[Outbox], None]
) -> None:
    outbox = bench.outbox()
    write(outbox, "file", OLD)
    assert adopting.called.wait(30)
    change(outbox)
    changed = content(outbox)
    assert changed != OLD
    adopting.go_on.set()
    assert outbox.wait(timeout_s=30) == []
    assert adopting.seen == {digest(OLD): OLD, digest(changed): changed}
    assert entry(outbox, "file").sha256 == digest(changed)
    assert content(outbox) == changed


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_while_the_answer_is_waited_for_is_not_adopted(
    bench: Bench, proxy: FaultProxy, adopting: Adopting, change: Callable[[Outbox], None]
) -> None:
    adopting.go_on.set()
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/artifacts", delay_s=0.5)
    write(outbox, "file", OLD)
    wait_until(lambda: entry(outbox, "file").state is EntryState.UPLOADING)
    change(outbox)
    changed = content(outbox)
    assert outbox.wait(timeout_s=30) == []
    assert adopting.seen.pop(digest(changed)) == changed
    assert set(adopting.seen.values()) <= {None, OLD}
    assert entry(outbox, "file").sha256 == digest(changed)


def test_a_link_that_a_crash_left_behind_is_no_entry(bench: Bench, adopting: Adopting) -> None:
    outbox = bench.outbox()
    write(outbox, "file", OLD)
    assert adopting.called.wait(30)
    (files,) = bench.directory.glob("*/0/files")
    (link,) = [name for name in os.listdir(files) if "." in name]
    os.link(files / link, files / f"{link}left")  # as if this process had been killed here
    adopting.go_on.set()
    assert outbox.wait(timeout_s=30) == []
    bench.close(outbox)
    again = bench.outbox()
    assert [one.path for one in again.entries()] == ["file"]
    assert len(os.listdir(files)) == 1


def test_what_has_lingered_stays_if_it_was_written_again_since(bench: Bench) -> None:
    bench.drop = replace(bench.drop, linger_s=3600)
    outbox = bench.outbox()
    write(outbox, "file", OLD)
    assert outbox.wait(timeout_s=30) == []
    before = entry(outbox, "file")
    overwrite(outbox)
    assert outbox.wait(timeout_s=30) == []
    outbox._desk.leave([(before.id, before.generation)])
    now = entry(outbox, "file")
    assert now.state is EntryState.UPLOADED
    outbox._desk.leave([(now.id, now.generation)])
    assert outbox.find("file") is None
