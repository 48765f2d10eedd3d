"""Every byte that is sent on a socket of a test, whatever process sends it.

A test says what it does in the ``with`` block of a `Recorder`, and asks afterwards which ports a
secret was sent to::

    with Recorder() as recorder:
        ...  # start the service, the store and the client, and have them talk
    assert recorder.ports_that_got(token) == {service_port}

The block has a network of its own (network_namespaces(7)) that consists of loopback. The calling
thread, and all threads and processes that are started from it in the block, can talk to each other
and to nothing else, so the recorder sees all that they send and nothing of other tests. What was
started before the block cannot be reached in it. A packet socket (packet(7)) sees each packet as it
is sent; TCP segments are put together to streams. If the kernel has dropped packets the block
fails, since nothing is certain then. Sockets of the AF_UNIX family are not seen.

Needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import os
import secrets
import socket
import struct
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import quote

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_IFF_UP = 1
_PACKET_OUTGOING = 4
_PACKET_STATISTICS = 6
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SOL_PACKET = 263
_SO_RCVBUFFORCE = 33
_SYN = 2
BUFFER_BYTES = 256 << 20
MAX_PACKET_BYTES = 1 << 20


@dataclass
class Stream:
    """What was sent from one port to another: a direction of a TCP connection, or UDP datagrams."""

    source: tuple[str, int]
    destination: tuple[str, int]
    first: int = 0  # the sequence number of the first byte
    segments: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        """The bytes in their order, each of them once; between datagrams there is nothing."""
        whole = bytearray()
        for offset, piece in sorted(self.segments):
            assert offset <= len(whole), (
                f"{self.source}: bytes {len(whole)} to {offset} are missing"
            )
            whole += piece[len(whole) - offset :]
        return bytes(whole)


class Recorder:
    """The recorder; use it in a ``with`` block. `streams` are whole when the block has ended."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self._open: dict[tuple[object, ...], Stream] = {}
        self._mark = secrets.token_bytes(32)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _check(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET))
            _set_loopback_up()
            self._packets = socket.socket(
                socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)
            )
            self._packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
            self._packets.bind(("lo", _ETH_P_ALL))
        except BaseException:
            self._leave()
            raise
        self._thread = threading.Thread(target=self._record, name="recorder")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                while self._thread.is_alive():  # the mark can be dropped as well
                    end.sendto(self._mark, ("127.0.0.1", 9))
                    self._thread.join(0.05)
            counted = self._packets.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        finally:
            self._packets.close()
            self._leave()
        _, dropped = struct.unpack("II", counted)
        if error is None:
            assert self._failure is None, f"the recorder has failed: {self._failure!r}"
            assert dropped == 0, f"the recorder has missed {dropped} packets"

    def ports_that_got(self, secret: bytes | str, *, encoded: bool = True) -> set[int]:
        """The ports that `secret` was sent to, as it is or (`encoded`) in another spelling.

        Spellings are base64 of it or of a text with it inside, percent-encoding and hexadecimal.
        What is compressed or encrypted is not recognized.
        """
        plain = secret.encode() if isinstance(secret, str) else secret
        forms = spellings(plain) if encoded else {plain}
        found = set()
        for stream in self.streams:
            data = stream.data
            if any(form in data for form in forms):
                found.add(stream.destination[1])
        return found

    @property
    def ports(self) -> set[int]:
        """The ports that anything was sent to."""
        return {stream.destination[1] for stream in self.streams if stream.segments}

    def _leave(self) -> None:
        _check(ctypes.CDLL(None, use_errno=True).setns(self._outside, _CLONE_NEWNET))
        os.close(self._outside)

    def _record(self) -> None:
        buffer = bytearray(MAX_PACKET_BYTES)
        try:
            while True:
                size, where = self._packets.recvfrom_into(buffer)
                if where[2] != _PACKET_OUTGOING:  # each packet passes twice: sent and received
                    continue
                assert size < len(buffer)
                if not self._take(bytes(buffer[:size])):
                    return
        except BaseException as error:
            self._failure = error

    def _take(self, packet: bytes) -> bool:
        """Record a packet; false for the last one."""
        if packet[0] >> 4 == 4:
            start, protocol = (packet[0] & 15) * 4, packet[9]
            family, ends = socket.AF_INET, (packet[12:16], packet[16:20])
            packet = packet[: int.from_bytes(packet[2:4], "big") or len(packet)]
        elif packet[0] >> 4 == 6:
            start, protocol = 40, packet[6]
            family, ends = socket.AF_INET6, (packet[8:24], packet[24:40])
        else:
            return True
        if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
            return True
        names = [socket.inet_ntop(family, end) for end in ends]
        ports = struct.unpack_from(">HH", packet, start)
        source, destination = (names[0], ports[0]), (names[1], ports[1])
        if protocol == socket.IPPROTO_UDP:
            data = packet[start + 8 :]
            if data == self._mark:
                return False
            stream = Stream(source, destination)
            stream.segments.append((0, data))
            self.streams.append(stream)
            return True
        (number,) = struct.unpack_from(">I", packet, start + 4)
        begins = bool(packet[start + 13] & _SYN)
        stream = self._stream(source, destination, number, begins=begins)
        if data := packet[start + (packet[start + 12] >> 4) * 4 :]:
            offset = (number + begins - stream.first) % (1 << 32)
            if offset < 1 << 31:  # what is below is a keep-alive probe
                stream.segments.append((offset, data))
        return True

    def _stream(
        self, source: tuple[str, int], destination: tuple[str, int], number: int, *, begins: bool
    ) -> Stream:
        first = (number + 1) % (1 << 32) if begins else number
        known = self._open.get((source, destination))
        if known is None or (begins and known.first != first):
            known = self._open[source, destination] = Stream(source, destination, first)
            self.streams.append(known)
        return known


def spellings(secret: bytes) -> set[bytes]:
    """How `secret` can be written: plain, percent-encoded, hexadecimal and base64."""
    text = quote(secret, safe="").encode()
    found = {secret, text, secret.hex().encode(), secret.hex().upper().encode()}
    for before in range(3):  # a base64 digit tells of two bytes: those at the edges are left out
        padded = bytes(before) + secret
        first = -(-before * 8 // 6)
        last = len(padded) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            digits = encode(padded)[first:last]
            if len(digits) >= 8:
                found.add(digits)
    return found


def can_record() -> bool:
    """Whether this process may make a network and see its packets."""
    with contextlib.suppress(OSError), Recorder():
        return True
    return False


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _set_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
