"""Which process wrote last, and whether it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from artifactfs import caller
from artifactfs.caller import (
    NOT_VISIBLE,
    LastWriter,
    process_of,
)
from artifactfs.outbox import EntryState

from .conftest import Bench, entry


def test_the_threads_of_a_process_are_one() -> None:
    mine = process_of(os.getpid())
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(process_of(threading.get_native_id())))
    thread.start()
    thread.join()
    assert found == [mine]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        other = process_of(child.pid)
        assert other not in (mine, NOT_VISIBLE)
        assert other.started >= mine.started
        child.communicate(b"\n")
    assert process_of(0) == process_of(1 << 22) == NOT_VISIBLE


def test_proc_is_read_once_for_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def resolve(thread: int) -> caller.Process:
        asked.append(thread)
        return caller.Process(thread // 10, 1)

    monkeypatch.setattr(caller, "process_of", resolve)
    writer = LastWriter(lambda thread: thread == 11)
    for thread in (10, 10, 11, 10, 20, 20, 11):
        writer.wrote(thread)
        writer.changed()
    assert asked == [10, 11, 20]
    assert writer.closes(11)
    assert writer.closes(20)  # who wrote last is dead, whoever closes
    writer.wrote(20)
    assert not writer.closes(20)


def test_a_number_that_is_used_again_is_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = 1
    monkeypatch.setattr(caller, "process_of", lambda thread: caller.Process(thread, started))
    killed = True
    writer = LastWriter(lambda thread: killed)
    writer.wrote(7)
    assert writer.closes(7)
    started, killed = 2, False
    writer.wrote(7)
    assert not writer.closes(7)


def test_a_process_that_is_not_visible_counts_as_one_that_closes(bench: Bench) -> None:
    outbox = bench.outbox()
    file = outbox.create("file", 0o644)
    file.written_by(0)
    file.write(0, b"whole")
    bench.killed = True  # another one that holds the descriptor
    file.flush(os.getpid())
    file.release()
    assert outbox.wait(timeout_s=30) == []
    assert entry(outbox, "file").state is EntryState.UPLOADED


def test_pages_written_back_after_a_killed_close_stay_partial(bench: Bench) -> None:
    outbox = bench.outbox()
    file = outbox.create("file", 0o644)
    file.write(0, b"half")
    bench.killed = True
    file.flush(os.getpid())
    file.write(0, b"HALF")  # by the kernel, of a mapping
    file.release()
    outbox.wait(timeout_s=1)
    assert entry(outbox, "file").state is EntryState.INTERRUPTED


@pytest.mark.parametrize("cut", ["by path", "as it is opened"])
def test_a_file_that_was_cut_is_nobodys(bench: Bench, cut: str) -> None:
    outbox = bench.outbox()
    reading = outbox.create("file", 0o644)
    reading.written_by(os.getpid())
    reading.write(0, b"half")
    bench.killed = True
    reading.flush(os.getpid())
    reading.release()
    assert entry(outbox, "file").state is EntryState.INTERRUPTED
    bench.killed = False
    if cut == "by path":
        outbox.change("file", size_bytes=2)
    else:
        file = outbox.open("file", os.O_WRONLY | os.O_TRUNC)
        file.flush(os.getpid())
        file.release()
    assert outbox.wait(timeout_s=30) == []
    assert entry(outbox, "file").state is EntryState.UPLOADED
