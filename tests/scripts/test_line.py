"""The line of the benchmark: its bucket and its delay as pure logic, the relay as a process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from benchmarks.line import BURST_S, QUANTUM_S, DelayLine, Line, TokenBucket

RATE = 20e6
MIB = 1 << 20


def pass_bytes(bucket: TokenBucket, duration_s: float, *, late_s: float = 0.0) -> int:
    """What passes in a time, with a timer that is always late by so much."""
    now_s = passed = 0
    while now_s < duration_s:
        count = bucket.available(now_s)
        bucket.spend(count)
        passed += count
        now_s += bucket.wait_s() + late_s
    return passed


def test_a_bucket_passes_its_rate() -> None:
    assert abs(pass_bytes(TokenBucket(RATE, 0.0), 10.0) / 10 - RATE) < 0.01 * RATE


def test_a_late_timer_loses_nothing() -> None:
    late_s = (BURST_S - QUANTUM_S) / 2
    passed = pass_bytes(TokenBucket(RATE, 0.0), 10.0, late_s=late_s)
    assert abs(passed / 10 - RATE) < 0.01 * RATE


def test_a_bucket_that_was_idle_passes_one_burst() -> None:
    bucket = TokenBucket(RATE, 0.0)
    assert bucket.available(1000.0) == int(RATE * BURST_S)


def test_a_bucket_of_a_slow_rate_still_passes_bytes() -> None:
    assert 9 <= pass_bytes(TokenBucket(1.0, 0.0), 10.0) <= 11


def test_bytes_arrive_after_the_latency_in_the_order_in_which_they_came() -> None:
    line = DelayLine()
    line.add(1.0, 10)
    line.add(2.0, 5)
    assert [line.due_bytes(now_s) for now_s in (0.9, 1.0, 1.9, 2.0)] == [0, 10, 10, 15]
    line.remove(4)
    assert (line.due_bytes(1.0), line.queued_bytes, line.next_due_s()) == (6, 11, 1.0)
    line.remove(6)
    assert (line.due_bytes(1.5), line.next_due_s()) == (0, 2.0)
    line.remove(5)
    assert (line.next_due_s(), line.queued_bytes) == (None, 0)


def test_bytes_do_not_overtake_when_the_latency_falls() -> None:
    line = DelayLine()
    line.add(2.0, 10)
    line.add(1.0, 5)
    assert line.due_bytes(1.5) == 0
    assert line.due_bytes(2.0) == 15


@contextlib.contextmanager
def source() -> Iterator[str]:
    """A server that sends as many zeros as each line asks for, and the address of it."""

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reading, contextlib.suppress(OSError):
            for line in reading:
                connection.sendall(bytes(int(line)))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


def fetch(url: str, size_bytes: int) -> tuple[float, float]:
    """Seconds to the first byte, and to the last."""
    host, _, port = url.rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        began_s = time.monotonic()
        connection.sendall(b"%d\n" % size_bytes)
        received, first_s = 0, 0.0
        while received < size_bytes:
            received += len(connection.recv(MIB))
            first_s = first_s or time.monotonic() - began_s
        return first_s, time.monotonic() - began_s


def test_a_relay_delays_and_limits_each_connection_and_can_be_changed() -> None:
    with source() as target, Line(target, 0.2, 10e6) as line:
        first_s, whole_s = fetch(line.url, 10 * MIB)
        assert first_s >= 0.2
        assert whole_s >= 0.2 + 0.7 * 10 * MIB / 10e6
        counters = line.counters()
        assert counters["received_bytes"] == 10 * MIB
        assert counters["elapsed_s"] >= whole_s
        line.set(0.0, 0.0)
        _, fast_s = fetch(line.url, 10 * MIB)
        assert fast_s < whole_s / 2


def test_two_connections_carry_twice_as_much() -> None:
    with source() as target, Line(target, 0.0, 5e6) as line:
        threads = [threading.Thread(target=fetch, args=(line.url, 5 * MIB)) for _ in range(2)]
        began_s = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together_s = time.monotonic() - began_s
        assert together_s >= 0.7 * 5 * MIB / 5e6
        _, one_s = fetch(line.url, 10 * MIB)
        assert one_s > together_s * 1.2
