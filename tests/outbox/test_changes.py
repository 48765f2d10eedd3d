"""The README's table: what one does to an entry in each state, and what becomes of its upload."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from artifactfs.outbox import EntryState, Outbox
from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until

from .conftest import Bench, digest, entry, write

OLD, NEW = b"old bytes", b"new"


def rename(outbox: Outbox) -> None:
    outbox.rename("file", "other")


def rename_over(outbox: Outbox) -> None:
    write(outbox, "fresh.tmp", NEW)
    outbox.rename("fresh.tmp", "file")


def remove(outbox: Outbox) -> None:
    outbox.unlink("file")


def _write(outbox: Outbox, flags: int, offset: int) -> None:
    file = outbox.open("file", os.O_WRONLY | flags)
    file.write(offset, NEW)
    file.flush(os.getpid())
    file.release()


def overwrite(outbox: Outbox) -> None:
    _write(outbox, os.O_TRUNC, 0)


def append(outbox: Outbox) -> None:
    _write(outbox, 0, len(OLD))


def truncate(outbox: Outbox) -> None:
    outbox.change("file", size_bytes=3)


def look(outbox: Outbox) -> None:
    file = outbox.open("file", os.O_RDWR)
    assert file.read(0, 100) == OLD
    file.flush(os.getpid())
    file.release()
    outbox.change("file", mode=0o600, mtime_ns=1)


@dataclass(frozen=True)
class Act:
    """What is done, and what is on the service then; of an entry that did not go by itself too."""

    do: Callable[[Outbox], None]
    name: str
    content: bytes | None


ACTS = [
    Act(rename, "other", OLD),
    Act(rename_over, "file", NEW),
    Act(remove, "file", None),
    Act(overwrite, "file", NEW),
    Act(append, "file", OLD + NEW),
    Act(truncate, "file", OLD[:3]),
    Act(look, "file", OLD),
]


def arrange(bench: Bench, proxy: FaultProxy, state: EntryState) -> Outbox:
    """An outbox whose "file" is in this state, and stays there until the proxy is healed."""
    bench.upload = replace(bench.upload, connections=1)
    outbox = bench.outbox()
    if state is EntryState.INTERRUPTED:
        bench.killed = True
        write(outbox, "file", OLD)
        bench.killed = False
    elif state is EntryState.FAILED:
        proxy.break_with(method="POST", path="/artifacts", status=422)
        write(outbox, "file", OLD)
    elif state is EntryState.UPLOADED:
        write(outbox, "file", OLD)
    elif state is EntryState.UPLOADING:
        proxy.break_with(method="POST", path="/artifacts", delay_s=1.0)
        write(outbox, "file", OLD)
    else:
        proxy.break_with(method="POST", path="/artifacts", delay_s=1.0)
        write(outbox, "before", b"before")
        wait_until(lambda: entry(outbox, "before").state is EntryState.UPLOADING)
        write(outbox, "file", OLD)
    wait_until(lambda: entry(outbox, "file").state is state)
    return outbox


STATES = [
    EntryState.QUEUED,
    EntryState.UPLOADING,
    EntryState.UPLOADED,
    EntryState.FAILED,
    EntryState.INTERRUPTED,
]


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.do.__name__)
def test_what_is_done_to_an_entry(
    bench: Bench, proxy: FaultProxy, state: EntryState, act: Act
) -> None:
    outbox = arrange(bench, proxy, state)
    act.do(outbox)
    left = outbox.wait(timeout_s=30)
    arrived = [
        (one.filename, one.sha256)
        for one in bench.service.artifacts.list()
        if one.filename != "before"
    ]
    assert len(arrived) == len(set(arrived)), "something arrived twice"
    wanted = (act.name, digest(act.content)) if act.content is not None else None
    stays = state in (EntryState.FAILED, EntryState.INTERRUPTED) and act.content == OLD
    if stays:
        assert [(one.path, one.state) for one in left] == [(act.name, state)]
        assert arrived == []
        return
    assert left == []
    # What had arrived, or was just arriving, stays on the service.
    may = {("file", digest(OLD))} if state in (EntryState.UPLOADING, EntryState.UPLOADED) else set()
    if state is EntryState.UPLOADED:
        assert may <= set(arrived)
    assert set(arrived) - may - {wanted} == set()
    assert wanted is None or wanted in arrived
    assert outbox.find("file") is None if act.name != "file" or wanted is None else True


def test_a_file_that_is_renamed_at_once_is_uploaded_once_under_its_last_name(bench: Bench) -> None:
    bench.quiet_s = 2.0
    outbox = bench.outbox()
    for number in range(20):
        write(outbox, f"{number}.new", b"%d" % number)
        outbox.rename(f"{number}.new", f"{number}.pt")
        write(outbox, f"probe-{number}", b"")
        outbox.unlink(f"probe-{number}")
    assert outbox.wait(timeout_s=30) == []
    assert set(bench.listed()) == {f"{number}.pt" for number in range(20)}
