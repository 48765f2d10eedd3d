"""From a request's body to a file, as fast as the machine can.

Three ways, by what the body is:

* a small one is read by the event loop and written by one visit to a thread;
* a large one of known length is *taken over*: the event loop stops reading from the socket, and a
  thread reads from it into two buffers in turn until the body is complete. The parser has lost
  count of the connection then, so it ends with the answer (``Connection: close``), which costs a
  client one connection for each megabytes-large body and gains it two to four times the speed;
* what is left (chunked, through TLS, too many at once) comes piece by piece through the event loop.

`BodySink` is where the bytes go: a span of a file, and hashes. The SHA-256 of a piece is computed
in another thread while the next one arrives, because it takes longer than everything else together.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from typing import TypeVar

import xxhash
from aiohttp import web

from artifactfs import system
from artifactfs.server.responses import go_on
from artifactfs.server.thread_pools import ThreadPools

T = TypeVar("T")

TAKEN = web.RequestKey("taken", bool)
BUFFER_BYTES = 1 << 20
SMALL_BYTES = 256 << 10
TAKE_OVER_BYTES = 1 << 20
WRITE_BACK_BYTES = 8 << 20
PATIENCE_S = 60.0
_LOOK_MS = 200


class BodyTooLarge(Exception):
    """More bytes came than are allowed, or are announced."""


class BodyBrokenOff(ConnectionResetError):
    """The body ended before it was complete: nobody is left to be answered."""


class BodySink:
    """A span of a file, written from `offset_bytes` on by one thread at a time.

    `opener` is called at the first writing, in that thread; `close` closes what it has opened.
    With `hashing`, the executor, it knows the SHA-256 too. With `sync`, what is written is on its
    way to the disk while more comes, and `settle` has little left to wait for. What `write` was
    given must stay as it is until the next call has returned.
    """

    def __init__(
        self,
        opener: Callable[[], int],
        offset_bytes: int = 0,
        *,
        sync: bool,
        hashing: Executor | None = None,
    ) -> None:
        self.size_bytes = 0
        self._opener = opener
        self._descriptor = -1
        self._offset_bytes = offset_bytes
        self._sync = sync
        self._on_its_way_bytes = 0
        self._quick = xxhash.xxh3_128()
        self._hashing = hashing
        self._sha256 = hashlib.sha256()
        self._pending: Future[None] | None = None

    def write(self, piece: bytes | memoryview) -> None:
        """Append. Raises `OSError`."""
        if self._descriptor < 0:
            self._descriptor = self._opener()
        view = memoryview(piece)
        self._quick.update(view)
        while view:
            position = self._offset_bytes + self.size_bytes
            count = os.pwrite(self._descriptor, view, position)
            self.size_bytes += count
            view = view[count:]
        if self._sync and self.size_bytes - self._on_its_way_bytes >= WRITE_BACK_BYTES:
            self._begin_write_back()
        if self._hashing is not None:
            self._wait()
            if len(piece) < SMALL_BYTES:
                self._sha256.update(piece)
            else:
                self._pending = self._hashing.submit(self._sha256.update, piece)

    def settle(self) -> None:
        """Bring what was written to the disk."""
        if self._sync:
            system.data_sync(self._descriptor)

    def close(self) -> None:
        """Close the file. Not while another thread writes."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def sha256(self) -> hashlib._Hash:
        """The digest of all that was written."""
        self._wait()
        return self._sha256

    def etag(self) -> str:
        """A quick fingerprint of all that was written, quoted as an ETag is."""
        return f'"{self._quick.hexdigest()}"'

    def _begin_write_back(self) -> None:
        """Have the kernel write now what it has not begun to write."""
        start = self._offset_bytes + self._on_its_way_bytes
        length = self.size_bytes - self._on_its_way_bytes
        system.begin_write_back(self._descriptor, start, length)
        self._on_its_way_bytes = self.size_bytes

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


class BodyReceiver:
    """One request's body."""

    def __init__(self, request: web.Request, workers: ThreadPools) -> None:
        self._request = request
        self._workers = workers

    @property
    def length_bytes(self) -> int | None:
        """The announced length."""
        return self._request.content_length

    async def receive(self, sink: BodySink, most_bytes: int, finish: Callable[[], T]) -> T:
        """Bring the whole body into `sink` and return what `finish` does, which may block.

        Raises `BodyTooLarge`, `BodyBrokenOff`, `StoppingServer` and `OSError`.
        """
        length = self.length_bytes
        if length is not None and length > most_bytes:
            raise BodyTooLarge
        go_on(self._request)
        if length is not None and length <= SMALL_BYTES:
            return await self._small(sink, finish)
        transport = self._request.transport
        if transport is None:
            raise BodyBrokenOff("the client is gone")
        plain = transport.get_extra_info("sslcontext") is None
        if length is not None and length >= TAKE_OVER_BYTES and plain and self._workers.body_fits:
            return await self._taken_over(transport, sink, length, finish)
        return await self._piece_by_piece(sink, most_bytes, finish)

    async def _pieces(self) -> AsyncIterator[bytes]:
        """The body as the event loop reads it. Raises `BodyBrokenOff` unless it is complete."""
        count = 0
        try:
            async for piece in self._request.content.iter_any():
                count += len(piece)
                yield piece
        except web.RequestPayloadError as error:
            raise BodyBrokenOff(str(error)) from error
        if self.length_bytes not in (None, count):
            raise BodyBrokenOff(f"{count} bytes of {self.length_bytes} have come")

    async def _small(self, sink: BodySink, finish: Callable[[], T]) -> T:
        body = bytearray()
        async for piece in self._pieces():
            body += piece
        return await self._workers.do(lambda: _last(sink, bytes(body), finish))

    async def _piece_by_piece(self, sink: BodySink, most_bytes: int, finish: Callable[[], T]) -> T:
        batch = bytearray()
        all_bytes = 0
        async for piece in self._pieces():
            all_bytes += len(piece)
            if all_bytes > most_bytes:
                raise BodyTooLarge
            batch += piece
            if len(batch) >= BUFFER_BYTES:
                await self._workers.do(sink.write, bytes(batch))
                batch.clear()
        return await self._workers.do(lambda: _last(sink, bytes(batch), finish))

    async def _taken_over(
        self, transport: asyncio.Transport, sink: BodySink, length: int, finish: Callable[[], T]
    ) -> T:
        content = self._request.content
        early = bytearray()
        while piece := content.read_nowait():
            early += piece
        if len(early) == length:
            return await self._workers.do(lambda: _last(sink, bytes(early), finish))
        # Nothing is awaited between the last reading above and here: no byte is in between.
        content.feed_eof()
        transport.pause_reading()
        self._request[TAKEN] = True
        source = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))

        def pull() -> T:
            with source:
                sink.write(bytes(early))
                self._pull(source, sink, length - len(early))
            return finish()

        return await self._workers.body(pull)

    def _pull(self, source: socket.socket, sink: BodySink, left_bytes: int) -> None:
        """Read exactly `left_bytes`. In a thread; the socket does not block."""
        readable = select.poll()
        readable.register(source, select.POLLIN)
        buffers = [memoryview(bytearray(min(BUFFER_BYTES, left_bytes))) for _ in range(2)]
        while left_bytes:
            buffers.reverse()
            buffer = buffers[0][: min(BUFFER_BYTES, left_bytes)]
            filled = 0
            while filled < len(buffer):
                try:
                    count = source.recv_into(buffer[filled:])
                except BlockingIOError:
                    self._wait_for(readable)
                    continue
                if not count:
                    raise BodyBrokenOff(f"{left_bytes - filled} bytes have not come")
                filled += count
            sink.write(buffer)
            left_bytes -= filled

    def _wait_for(self, readable: select.poll) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not readable.poll(_LOOK_MS):
            self._workers.check()
            if time.monotonic() > deadline:
                raise BodyBrokenOff(f"nothing has come for {PATIENCE_S:.0f} s")


def _last(sink: BodySink, piece: bytes, finish: Callable[[], T]) -> T:
    sink.write(piece)
    return finish()
