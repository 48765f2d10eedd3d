"""Thousands of pending entries (ten thousand in the long form), and a huge one among them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from artifactfs.outbox import EntryState
from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy
from tests.long import LONG

from .conftest import Bench, digest, entry, write

MANY = 10_000 if LONG else 2_500
AT_ONCE = 8


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_thousands_drain_in_the_order_of_closing(bench: Bench, controller: LocalController) -> None:
    controller.stop()
    outbox = bench.outbox()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda n: write(outbox, f"{n:05}.tmp", b"%d" % n), range(MANY)))
    for number in range(MANY):
        outbox.rename(f"{number:05}.tmp", f"{number:05}")
    bench.close(outbox)
    bench.service.close()
    controller.start()
    direct = Bench(bench.directory, controller.url, controller.token)
    try:
        again = direct.outbox()
        turns = {one.path: one.turn for one in again.entries()}
        assert len(again.children("")) == MANY
        assert again.wait(timeout_s=200) == []
        names = [one.filename for one in direct.service.artifacts.list()]
        assert len(names) == len(set(names)) == MANY
        came = {name: place for place, name in enumerate(reversed(names))}
        order = sorted(turns, key=lambda name: turns[name])
        late = max(abs(came[name] - place) for place, name in enumerate(order))
        assert late <= 64, "they did not come in the order in which they were closed"
        direct.close(again)
    finally:
        for left in direct.open:
            left.close()
        direct.service.close()


def test_small_files_are_not_stuck_behind_a_huge_one(bench: Bench, proxy: FaultProxy) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="PUT", path="/objects/parts/", delay_s=60, times=99)
    write(outbox, "huge", bytes(30 << 20))
    for number in range(20):
        write(outbox, f"small-{number}", b"%d" % number)
    assert outbox.wait("small-19", timeout_s=20) == []
    assert {f"small-{n}" for n in range(20)} <= set(bench.listed())
    assert entry(outbox, "huge").state is not EntryState.UPLOADED
    bench.service.close()


def test_a_large_file_gets_through_a_stream_of_small_ones(bench: Bench) -> None:
    outbox = bench.outbox()
    data = bytes(6 << 20)
    for number in range(50):
        write(outbox, f"before-{number}", b"b%d" % number)
    write(outbox, "large", data)
    number = 0
    while entry(outbox, "large").state is not EntryState.UPLOADED:
        number += 1
        assert number < 20_000, "it waits without end"
        write(outbox, f"after-{number}", b"a%d" % number)
    assert bench.listed()["large"] == digest(data)
