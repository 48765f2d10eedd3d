"""Whose turn it is, and who may use a connection: first come, first served, nobody for ever."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.errors import Cancelled
from artifactfs.outbox.transfer_limiter import TransferLimiter
from artifactfs.outbox.upload_queue import SizeClass, UploadQueue
from tests.helpers import wait_until

SMALL, LARGE = SizeClass.SMALL, SizeClass.LARGE


@given(st.permutations(range(30)))
def test_they_go_in_the_order_of_their_turns_however_they_come(order: list[int]) -> None:
    turns = UploadQueue()
    for turn in order:
        turns.put(100 + turn, turn, SMALL, 0.0, 0.0)
    assert [turns.take(SMALL, 0.0) for _ in order] == [100 + turn for turn in range(30)]
    assert turns.take(SMALL, 0.0) is None


def test_one_that_has_to_wait_lets_others_by_and_then_goes_first() -> None:
    turns = UploadQueue()
    turns.put(1, 1, SMALL, 10.0, 0.0)
    turns.put(2, 2, SMALL, 0.0, 0.0)
    turns.put(3, 3, SMALL, 0.0, 0.0)
    assert turns.next_s(SMALL) == 10.0
    assert turns.take(SMALL, 0.0) == 2
    assert turns.take(SMALL, 10.0) == 1
    assert turns.take(SMALL, 10.0) == 3


def test_the_last_word_about_an_entry_counts() -> None:
    turns = UploadQueue()
    turns.put(1, 1, SMALL, 5.0, 0.0)
    turns.put(1, 1, LARGE, 0.0, 0.0)
    turns.put(2, 2, SMALL, 0.0, 0.0)
    turns.drop(2)
    assert turns.take(SMALL, 9.0) is None
    assert turns.next_s(SMALL) is None
    assert turns.take(LARGE, 9.0) == 1
    assert len(turns) == 0


def test_nobody_waits_any_more_when_told_to_hurry() -> None:
    turns = UploadQueue()
    turns.put(1, 1, SMALL, 60.0, 0.0)
    turns.hurry()
    assert turns.take(SMALL, 0.0) == 1


def uses(gate: TransferLimiter, lanes: list[SizeClass], most: int) -> list[SizeClass]:
    """The order in which these get through, all of them waiting while `most` are inside."""
    order: list[SizeClass] = []
    inside = 0
    lock = threading.Lock()
    never = threading.Event()

    def use(lane: SizeClass) -> None:
        nonlocal inside
        with gate.use(lane, never):
            with lock:
                order.append(lane)
                inside += 1
                assert inside <= most
            with lock:
                inside -= 1

    with ThreadPoolExecutor(len(lanes)) as pool:
        list(pool.map(use, lanes))
    return order


@pytest.mark.parametrize("connections", [1, 2, 4])
def test_no_more_go_at_once_than_there_are_connections_and_all_get_through(
    connections: int,
) -> None:
    lanes = [SMALL, LARGE] * 20
    assert Counter(uses(TransferLimiter(connections), lanes, connections)) == Counter(lanes)


def test_a_small_file_gets_through_while_large_ones_take_all_they_may() -> None:
    gate, never = TransferLimiter(3), threading.Event()
    with gate.use(LARGE, never), gate.use(LARGE, never):
        waiting = threading.Event()

        def third() -> None:
            with gate.use(LARGE, never):
                waiting.set()

        thread = threading.Thread(target=third)
        thread.start()
        with gate.use(SMALL, never):
            assert not waiting.is_set()
    thread.join()
    assert waiting.is_set()


def test_with_one_connection_both_kinds_take_turns() -> None:
    gate, never = TransferLimiter(1), threading.Event()
    order: list[SizeClass] = []

    def use(lane: SizeClass) -> None:
        with gate.use(lane, never):
            order.append(lane)

    with gate.use(LARGE, never):
        threads = [threading.Thread(target=use, args=(lane,)) for lane in [LARGE] * 5 + [SMALL] * 5]
        for thread in threads:
            thread.start()
        wait_until(lambda: gate.waiting == 10)
    for thread in threads:
        thread.join()
    assert order == [SMALL, LARGE] * 5


def test_who_is_cancelled_leaves_the_line() -> None:
    gate, never, cancelled = TransferLimiter(1), threading.Event(), threading.Event()
    cancelled.set()
    with gate.use(SMALL, never), pytest.raises(Cancelled), gate.use(SMALL, cancelled):
        pass
    with gate.use(SMALL, never):
        pass
