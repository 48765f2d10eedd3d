"""A TCP relay that behaves like a line to a distant service: latency, and a rate per connection.

Every byte from the target to the client leaves the relay `latency_s` after it came (a delay line,
not a pause: the bytes behind it are on their way meanwhile). Each direction of each connection is
held to `rate` bytes a second by a token bucket. Requests are not delayed: one response pays the
round trip once. Establishing a connection costs nothing.

The relay is a process of its own, so that its CPU time is not the driver's. The bytes go from
socket to pipe to socket by splice(2) and never enter the interpreter; the pipe is the delay line.
What passes in a connection at once is bounded by the pipe: `PIPE_BYTES` in `latency_s`.

`Line` starts the relay, and speaks with it over its standard input and output, one line of text
each way: ``set LATENCY RATE`` changes the line for all its connections, ``counters`` answers a JSON
object. It ends when its input ends, so it never outlives the process that has started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

PIPE_BYTES = 8 << 20
RECEIVE_BUFFER_BYTES = 1 << 20
QUANTUM_S = 0.005
BURST_S = 0.025
UNLIMITED = 0.0
TICK_S = 0.1
IN_USE = 0.6  # of what the line carries in a tick
BUSY = 0.8  # of a core: above it, the relay and not the line may have been the limit
_CHUNK_BYTES = 1 << 20
_SPLICE = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class TokenBucket:
    """Tokens (bytes) that grow by `rate` a second. Pure: the caller has the clock.

    It is taken from in quanta of `QUANTUM_S`, and holds `BURST_S` at most. The difference is what a
    timer may be late without a loss, and how far a connection that was idle may run ahead.
    """

    def __init__(self, rate: float, now_s: float) -> None:
        self._rate = rate
        self._quantum = max(1.0, rate * QUANTUM_S)
        self._tokens = self._quantum
        self._at_s = now_s

    def available(self, now_s: float) -> int:
        """Return how many bytes may pass now."""
        burst = max(1.0, self._rate * BURST_S)
        self._tokens = min(burst, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return max(0, int(self._tokens))

    def spend(self, count: int) -> None:
        """Record that `count` bytes have passed."""
        self._tokens -= count

    def wait_s(self) -> float:
        """Return in how many seconds a quantum may pass."""
        return max(0.0, (self._quantum - self._tokens) / self._rate)


class DelayLine:
    """Which bytes are on their way, and when they arrive. Pure: the caller has the clock."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[float, int]] = deque()
        self.queued_bytes = 0

    def add(self, due_s: float, count: int) -> None:
        """Record that `count` bytes arrive at `due_s`, and not before those that came earlier."""
        if self._chunks:
            due_s = max(due_s, self._chunks[-1][0])
        self._chunks.append((due_s, count))
        self.queued_bytes += count

    def due_bytes(self, now_s: float) -> int:
        """Return how many bytes have arrived and not been removed."""
        total = 0
        for due_s, count in self._chunks:
            if due_s > now_s:
                break
            total += count
        return total

    def remove(self, count: int) -> None:
        """Record that the next `count` bytes were delivered."""
        self.queued_bytes -= count
        while count:
            due_s, held = self._chunks.popleft()
            if held > count:
                self._chunks.appendleft((due_s, held - count))
                return
            count -= held

    def next_due_s(self) -> float | None:
        """Return when the next bytes arrive, or None if there are none."""
        return self._chunks[0][0] if self._chunks else None


class Line:
    """A running relay to `target` (a URL). `url` leads through it; end it with its ``with``."""

    def __init__(self, target: str, latency_s: float, rate: float = UNLIMITED) -> None:
        self._target = target.rpartition("/")[2]
        self.latency_s, self.rate = latency_s, rate
        self.url = ""

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            words = (listening.fileno(), self._target, self.latency_s, self.rate)
            self.process = subprocess.Popen(
                [sys.executable, Path(__file__), *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[listening.fileno()],
                start_new_session=True,
                text=True,
            )
        self.counters()
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def set(self, latency_s: float, rate: float) -> None:
        """Change the line, also for connections that exist."""
        self.latency_s, self.rate = latency_s, rate
        self._call(f"set {latency_s} {rate}")

    def counters(self) -> dict[str, Any]:
        """What passed since the last call, and the relay's CPU seconds and the time in it."""
        return dict(json.loads(self._call("counters")))

    def _call(self, text: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the relay to {self._target} has ended")
        return answer


# The relay's process


class Relay:
    """Accepts connections and joins each with one to the target."""

    def __init__(self, target: tuple[str, int], latency_s: float, rate: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._target = target
        self.latency_s, self.rate = latency_s, rate
        self._connections: set[Connection] = set()
        self._carried: list[tuple[int, int]] = []
        self._max_sending = 0
        self._start_counting()
        self._tick()

    async def accept(self, listening: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listening)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket()
            server.setblocking(False)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await self._loop.sock_connect(server, self._target)
            except OSError:
                client.close()
                server.close()
                continue
            self._connections.add(Connection(self, client, server))

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._carried.append(connection.carried())

    def command(self, text: str) -> str:
        words = text.split()
        if words[0] == "set":
            self.latency_s, self.rate = float(words[1]), float(words[2])
            for connection in self._connections:
                connection.set_rate()
            return "ok"
        return self._counters()

    def _tick(self) -> None:
        """Count the connections that send as fast as the line lets them."""
        sending = sum(connection.is_sending(self.rate) for connection in self._connections)
        self._max_sending = max(self._max_sending, sending)
        self._loop.call_later(TICK_S, self._tick)

    def _start_counting(self) -> None:
        self._began_s, self._began_cpu_s = time.monotonic(), time.process_time()
        self._carried = []
        self._max_sending = 0

    def _counters(self) -> str:
        carried = self._carried + [one.carried() for one in self._connections]
        answer = {
            "sent_bytes": sum(up for up, _ in carried),
            "received_bytes": sum(down for _, down in carried),
            "max_sending": self._max_sending,
            "cpu_s": time.process_time() - self._began_cpu_s,
            "elapsed_s": time.monotonic() - self._began_s,
        }
        self._start_counting()
        return json.dumps(answer)


class Connection:
    """A client's connection, the one to the target, and a direction each way."""

    def __init__(self, relay: Relay, client: socket.socket, server: socket.socket) -> None:
        self._relay = relay
        self._sockets = (client, server)
        self._up = Direction(relay, client, server, lambda: 0.0, self._ended)
        self._down = Direction(relay, server, client, lambda: relay.latency_s, self._ended)
        self._sent_at_tick = 0

    def set_rate(self) -> None:
        self._up.set_rate()
        self._down.set_rate()

    def carried(self) -> tuple[int, int]:
        """Return the bytes to the target and from it since the last call."""
        self._sent_at_tick -= self._up.carried_bytes
        return self._up.take_carried(), self._down.take_carried()

    def is_sending(self, rate: float) -> bool:
        """Return whether most of what the line carries in a tick was sent since the last tick."""
        sent_bytes = self._up.carried_bytes - self._sent_at_tick
        self._sent_at_tick = self._up.carried_bytes
        return sent_bytes > IN_USE * rate * TICK_S

    def _ended(self, *, broken: bool) -> None:
        if broken or (self._up.ended and self._down.ended):
            self._up.close()
            self._down.close()
            for one in self._sockets:
                one.close()
            self._relay.forget(self)


class Direction:
    """The bytes of one direction: source, token bucket, pipe with its delay line, sink."""

    def __init__(
        self,
        relay: Relay,
        source: socket.socket,
        sink: socket.socket,
        latency_s: Callable[[], float],
        on_end: Callable[..., None],
    ) -> None:
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self._source, self._sink = source, sink
        self._latency_s, self._on_end = latency_s, on_end
        self._outlet, self._inlet = os.pipe()
        for size_bytes in (PIPE_BYTES, 1 << 20):
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._inlet, fcntl.F_SETPIPE_SZ, size_bytes)
                break
        self._delay = DelayLine()
        self._bucket: TokenBucket | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._delivery: asyncio.TimerHandle | None = None
        self._is_reading = self._is_writing = False
        self._source_ended = self._pipe_full = self._closed = False
        self.ended = False
        self.carried_bytes = 0
        self.set_rate()
        self._start_reading()

    def set_rate(self) -> None:
        rate = self._relay.rate
        self._bucket = TokenBucket(rate, self._loop.time()) if rate else None

    def take_carried(self) -> int:
        carried_bytes, self.carried_bytes = self.carried_bytes, 0
        return carried_bytes

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop_reading()
        self._stop_writing()
        for timer in (self._resume, self._delivery):
            if timer is not None:
                timer.cancel()
        os.close(self._inlet)
        os.close(self._outlet)

    def _start_reading(self) -> None:
        if not (self._is_reading or self._source_ended or self._closed or self._pipe_full):
            self._is_reading = True
            self._loop.add_reader(self._source, self._read)

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._source)

    def _start_writing(self) -> None:
        if not (self._is_writing or self._closed):
            self._is_writing = True
            self._loop.add_writer(self._sink, self._deliver)

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._sink)

    def _read(self) -> None:
        now_s = self._loop.time()
        bucket = self._bucket
        allowed = _CHUNK_BYTES if bucket is None else min(_CHUNK_BYTES, bucket.available(now_s))
        if allowed:
            try:
                count = os.splice(self._source.fileno(), self._inlet, allowed, flags=_SPLICE)
            except BlockingIOError:
                if self._delay.queued_bytes:  # the pipe is full, or the source is empty
                    self._pipe_full = True
                    self._stop_reading()
                return
            except OSError:
                self._on_end(broken=True)
                return
            if not count:
                self._source_ended = True
                self._stop_reading()
                self._schedule()
                return
            self.carried_bytes += count
            if bucket is not None:
                bucket.spend(count)
            self._delay.add(now_s + self._latency_s(), count)
            self._schedule()
        if bucket is not None and not self._closed and not bucket.available(now_s):
            self._stop_reading()
            self._resume = self._loop.call_later(bucket.wait_s(), self._start_reading)

    def _schedule(self) -> None:
        """Deliver what is due, and come back when the next bytes are, or end."""
        due_s = self._delay.next_due_s()
        if due_s is None:
            if self._source_ended and not self.ended:
                self.ended = True
                with contextlib.suppress(OSError):
                    self._sink.shutdown(socket.SHUT_WR)
                self._on_end(broken=False)
        elif due_s <= self._loop.time():
            self._deliver()
        elif self._delivery is None:
            self._delivery = self._loop.call_at(due_s, self._on_due)

    def _on_due(self) -> None:
        self._delivery = None
        self._deliver()

    def _deliver(self) -> None:
        # A timer may fire a clock tick early: what is due then counts as due.
        while due := self._delay.due_bytes(self._loop.time() + 1e-4):
            try:
                count = os.splice(self._outlet, self._sink.fileno(), due, flags=_SPLICE)
            except BlockingIOError:
                self._start_writing()
                return
            except OSError:
                self._on_end(broken=True)
                return
            self._delay.remove(count)
            if self._pipe_full:
                self._pipe_full = False
                self._start_reading()
        self._stop_writing()
        self._schedule()


async def run_relay(listening: socket.socket, target: str, latency_s: float, rate: float) -> None:
    """Be the relay until standard input ends."""
    loop = asyncio.get_running_loop()
    host, _, port = target.rpartition(":")
    listening.setblocking(False)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    relay = Relay((host, int(port)), latency_s, rate)
    accepting = asyncio.ensure_future(relay.accept(listening))
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while text := await commands.readline():
        print(relay.command(text.decode()), flush=True)
    accepting.cancel()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as passed:
        asyncio.run(run_relay(passed, sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
