"""Whatever ends a mount wakes up who waits for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from artifactfs.fuse.native.binding import (
    ENDED,
    STOP,
    MountEnd,
)


@pytest.fixture
def ending() -> Iterator[MountEnd]:
    with closing(MountEnd()) as ending:
        yield ending


def test_a_word_from_another_thread_wakes_up(ending: MountEnd) -> None:
    teller = threading.Timer(0.05, ending.tell, [STOP])
    teller.start()
    assert ending.wait(10) == STOP
    teller.join()


def test_words_come_in_order_and_none_in_time_is_none(ending: MountEnd) -> None:
    ending.tell(ENDED)
    ending.tell(STOP)
    assert [ending.wait(10), ending.wait(10), ending.wait(0.01)] == [ENDED, STOP, None]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_wakes_up_and_the_old_handlers_come_back(
    ending: MountEnd, number: signal.Signals
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with ending.signals():
        os.kill(os.getpid(), number)
        assert ending.wait(10) == number
    after = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert after == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_the_program_handles_is_left_to_it(ending: MountEnd) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: seen.append(number))
    try:
        with ending.signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert ending.wait(0.05) is None
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIGHUP]


def test_off_the_main_thread_signals_stay_as_they_are(ending: MountEnd) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def look() -> None:
        with ending.signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


def test_words_after_the_end_and_too_many_words_do_no_harm() -> None:
    ending = MountEnd()
    for _ in range(100_000):
        ending.tell(STOP)
    assert ending.wait(10) == STOP
    ending.close()
    ending.tell(STOP)
