"""The recorder sees what was sent, wherever it was sent from, and nothing that was not."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from tests.fault_proxy import FaultProxy, Request, answer
from tests.recorder import Recorder, can_record, spellings

pytestmark = pytest.mark.skipif(not can_record(), reason="only root may record packets")

SECRET = b"flk_0123456789abcdefghijklmnop"


def nothing(_request: Request):
    return answer(200, {}, b"no more")


def send(port: int, *pieces: bytes, host: str = "127.0.0.1") -> None:
    """Send each piece in a segment of its own, and read the answer."""
    with socket.create_connection((host, port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\nX: ")
        for piece in pieces:
            connection.sendall(piece)
        connection.sendall(b"\r\n\r\n")
        while connection.recv(100):
            pass


def test_a_secret_that_is_split_over_segments_is_found_where_it_went() -> None:
    with Recorder() as recorder, FaultProxy(nothing) as one, FaultProxy(nothing) as other:
        send(one.port, *(bytes([byte]) for byte in SECRET))
        send(other.port, SECRET[:-1], b"#")
    assert recorder.ports_that_got(SECRET) == {one.port}
    assert {one.port, other.port} <= recorder.ports
    (request,) = [one_ for one_ in recorder.streams if one_.destination[1] == one.port]
    assert len(request.segments) > len(SECRET)
    assert request.data == b"GET / HTTP/1.1\r\nConnection: close\r\nX: " + SECRET + b"\r\n\r\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_other_processes_and_threads_send_is_seen(host: str) -> None:
    script = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])));"
        "s.sendall(sys.stdin.buffer.read())"
    )
    with (
        Recorder() as recorder,
        FaultProxy(nothing, host=host) as one,
        FaultProxy(nothing, host=host) as other,
    ):
        words = [sys.executable, "-c", script, host, str(one.port)]
        subprocess.run(words, input=SECRET, check=True)
        thread = threading.Thread(
            target=send, args=(other.port, SECRET[::-1]), kwargs={"host": host}
        )
        thread.start()
        thread.join()
    assert recorder.ports_that_got(SECRET) == {one.port}
    assert recorder.ports_that_got(SECRET[::-1]) == {other.port}


def test_datagrams_are_seen() -> None:
    with (
        Recorder() as recorder,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        client.sendto(b"a name with " + SECRET, ("127.0.0.1", port))
    assert recorder.ports_that_got(SECRET) == {port}


def test_much_is_recorded_whole() -> None:
    data = os.urandom(1 << 20) * 30
    with (
        Recorder() as recorder,
        FaultProxy(lambda _: answer(200, {}, data)) as one,
        urllib.request.urlopen(one.url, timeout=60) as got,
    ):
        assert got.read() == data
    assert max((stream.data for stream in recorder.streams), key=len).endswith(data)


@pytest.mark.parametrize(
    "text",
    [
        SECRET.hex().encode(),
        b"Basic " + base64.b64encode(SECRET),
        b"Basic " + base64.b64encode(b"u:" + SECRET),
        b"Basic " + base64.b64encode(b"user:" + SECRET + b"!"),
        base64.urlsafe_b64encode(b"user:" + SECRET + b"??"),
        b"?token=" + SECRET,
    ],
)
def test_a_secret_is_found_in_other_spellings(text: bytes) -> None:
    assert any(form in text for form in spellings(SECRET))


def test_a_secret_with_odd_characters_is_found_in_a_url() -> None:
    assert b"a%2Fb%20c%3Dd" in spellings(b"a/b c=d")


def test_nothing_is_reached_outside_and_everything_afterwards() -> None:
    with FaultProxy(nothing) as outside:
        with Recorder(), pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", outside.port), 5)
        send(outside.port, b"1")
    assert len(outside.requests) == 1


def test_an_error_in_the_block_is_what_the_test_sees() -> None:
    with pytest.raises(KeyError), Recorder():
        raise KeyError


def test_a_recorder_that_missed_packets_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.recorder.BUFFER_BYTES", 1)
    blocked = threading.Event()
    real = Recorder._take

    def slow(self: Recorder, packet: bytes) -> bool:
        blocked.wait(20)
        return real(self, packet)

    monkeypatch.setattr(Recorder, "_take", slow)
    with pytest.raises(AssertionError, match="missed"), Recorder(), FaultProxy(nothing) as one:
        for _ in range(20):
            send(one.port, bytes(1000))
        blocked.set()
