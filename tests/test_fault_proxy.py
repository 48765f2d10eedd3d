"""Each fault of the proxy, as a client that knows nothing of it sees it."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.fault_proxy import (
    LOGIN_PAGE,
    Answer,
    Fault,
    FaultProxy,
    Request,
    Scripted,
    StreamFault,
    answer,
    failing_resolver,
    sends,
    server_context,
)

DATA = bytes(range(256)) * 400
QUIET_S = 0.3


def content(request: Request) -> Answer:
    """A server of `DATA` that knows ranges."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        return answer(200, {"ETag": '"data"'}, DATA)
    start, stop = int(asked[1]), int(asked[2] or len(DATA) - 1) + 1
    place = {"Content-Range": f"bytes {start}-{stop - 1}/{len(DATA)}"}
    return answer(206, place, DATA[start:stop])


@pytest.fixture
def server() -> Iterator[FaultProxy]:
    with FaultProxy(content) as running:
        yield running


@pytest.fixture(params=["forwards", "answers"])
def proxy(request: pytest.FixtureRequest, server: FaultProxy) -> Iterator[FaultProxy]:
    """A proxy in front of a server, and a server itself: they have the same faults."""
    if request.param == "answers":
        yield server
        return
    with FaultProxy(server.url) as running:
        yield running


@contextlib.contextmanager
def client(proxy: FaultProxy, timeout_s: float = 10) -> Iterator[http.client.HTTPConnection]:
    host = urlsplit(proxy.url).hostname
    assert host is not None
    connection = http.client.HTTPConnection(host, proxy.port, timeout=timeout_s)
    with contextlib.closing(connection):
        yield connection


def got(
    proxy: FaultProxy,
    target: str = "/a",
    *,
    method: str = "GET",
    timeout_s: float = 10,
    **headers: str,
) -> tuple[http.client.HTTPResponse, bytes]:
    with client(proxy, timeout_s) as connection:
        connection.request(method, target, headers=headers)
        response = connection.getresponse()
        return response, response.read()


def raw(proxy: FaultProxy, request: bytes = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n") -> bytes:
    """What comes until the connection ends or is quiet."""
    came = b""
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
        connection.sendall(request)
        connection.settimeout(QUIET_S)
        with contextlib.suppress(TimeoutError):
            while piece := connection.recv(1 << 16):
                came += piece
    return came


def test_without_a_fault_it_changes_nothing(proxy: FaultProxy) -> None:
    with client(proxy) as connection:
        for method in ("GET", "HEAD", "GET"):
            connection.request(method, "/a?b=c", headers={"Range": "bytes=10-19"})
            response = connection.getresponse()
            assert response.status == 206
            assert response.headers["Content-Length"] == "10"
            assert response.headers["Content-Range"] == f"bytes 10-19/{len(DATA)}"
            assert response.read() == (b"" if method == "HEAD" else DATA[10:20])
    assert (proxy.accepted, proxy.count("GET", "/a"), proxy.count("HEAD")) == (1, 2, 1)
    assert [one.target for one in proxy.requests] == ["/a?b=c"] * 3
    assert proxy.sent_bytes == 20


def test_bodies_pass_in_chunks_and_after_a_100_continue(server: FaultProxy) -> None:
    with Scripted(sends(b"HTTP/1.1 204 No Content\r\n\r\n")) as one, FaultProxy(one.url) as proxy:
        with client(proxy) as connection:
            connection.request("PUT", "/a", DATA[:1000])
            connection.getresponse().read()
            connection.request("PUT", "/a", iter([b"one", b"two"]), encode_chunked=True)
            connection.getresponse().read()
        head = b"PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
            connection.sendall(head)
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(b"ok")
            assert connection.recv(100).startswith(b"HTTP/1.1 204")
    assert one.bodies == [DATA[:1000], b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n", b"ok"]


# What rules match


def test_rules_match_by_method_path_pattern_range_and_use(proxy: FaultProxy) -> None:
    proxy.break_with(method="PUT", status=501, times=-1)
    proxy.break_with(path="/whole", whole=True, status=502, times=-1)
    proxy.break_with(pattern=r"signature=[0-9]+$", status=503, times=-1)
    proxy.break_with(ranged=True, path="/ranged", status=504, times=-1)
    proxy.break_with(where=lambda request: "x-odd" in request.headers, status=505, times=-1)
    assert got(proxy, method="PUT")[0].status == 501
    assert got(proxy, "/whole")[0].status == 502
    assert got(proxy, "/whole/part")[0].status == 200
    assert got(proxy, "/b?signature=12")[0].status == 503
    assert got(proxy, "/ranged")[0].status == 200
    assert got(proxy, "/ranged", Range="bytes=1-2")[0].status == 504
    assert got(proxy, "/b", **{"X-Odd": "1"})[0].status == 505
    proxy.heal()
    assert got(proxy, method="PUT")[0].status == 200


def test_rules_are_skipped_and_used_up(proxy: FaultProxy) -> None:
    proxy.break_with(status=500, skip=1, times=2)
    assert [got(proxy)[0].status for _ in range(5)] == [200, 500, 500, 200, 200]


def test_a_fault_is_made_for_each_request(proxy: FaultProxy) -> None:
    proxy.decide_with(lambda request: Fault(status=int(request.path[1:])))
    assert [got(proxy, path)[0].status for path in ("/404", "/503")] == [404, 503]


# The answer's body


def test_latency_comes_before_the_answer(proxy: FaultProxy) -> None:
    proxy.break_with(delay_s=QUIET_S)
    began = time.monotonic()
    assert got(proxy)[1] == DATA
    assert time.monotonic() - began >= QUIET_S


def test_bandwidth_is_limited_on_each_connection(proxy: FaultProxy) -> None:
    proxy.break_connections(down=StreamFault(bytes_per_s=200_000))
    began = time.monotonic()
    assert got(proxy)[1] == DATA
    assert time.monotonic() - began >= len(DATA) / 200_000 * 0.9


def test_a_trickle_comes_in_small_pieces(proxy: FaultProxy) -> None:
    proxy.break_with(piece_bytes=1, pause_s=0.02)
    with client(proxy) as connection:
        connection.request("GET", "/a", headers={"Range": "bytes=0-9"})
        response = connection.getresponse()
        pieces = [response.read1() for _ in range(3)]
        assert all(len(piece) < 10 for piece in pieces)
        assert b"".join([*pieces, response.read()]) == DATA[:10]


def test_a_reset_comes_after_n_bytes(proxy: FaultProxy) -> None:
    proxy.break_with(reset_after=1000)
    with client(proxy) as connection:
        connection.request("GET", "/a")
        response = connection.getresponse()
        assert response.read(1000) == DATA[:1000]
        with pytest.raises(ConnectionResetError):
            response.read(1)


def test_a_truncated_body_ends_where_it_may_not(proxy: FaultProxy) -> None:
    proxy.break_with(end_after=1000)
    with pytest.raises(http.client.IncompleteRead) as broken:
        got(proxy)
    assert broken.value.partial == DATA[:1000]


def test_a_stalled_body_goes_no_further_and_does_not_end_until_released(proxy: FaultProxy) -> None:
    proxy.break_with(stall_after=1000)
    with client(proxy) as connection:
        connection.request("GET", "/a")
        response = connection.getresponse()
        assert response.read(1000) == DATA[:1000]
        connection.sock.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)
        proxy.release()
        connection.sock.settimeout(10)
        assert connection.sock.recv(1) == b""


@pytest.mark.parametrize("where", ["body", "connection"])
def test_bytes_are_changed_omitted_and_repeated(proxy: FaultProxy, where: str) -> None:
    head = raw(proxy).index(b"\r\n\r\n") + 4 if where == "connection" else 0

    def broken(**how: Any) -> bytes:
        if where == "body":
            proxy.break_with(**how)
        else:
            proxy.break_connections(down=StreamFault(**how))
        return raw(proxy).partition(b"\r\n\r\n")[2]

    flipped = broken(flip_at=head + 5000)
    assert [n for n in range(len(DATA)) if flipped[n] != DATA[n]] == [5000]
    assert broken(omit=(head + 10, head + 70_000)) == DATA[:10] + DATA[70_000:]
    twice = DATA[:70_000] + DATA[60_000:70_000] + DATA[70_000:]
    assert broken(repeat=(head + 60_000, head + 70_000)) == twice
    assert raw(proxy).endswith(DATA)


def test_a_body_is_compressed_without_being_asked(proxy: FaultProxy) -> None:
    proxy.break_with(gzip=True)
    response, body = got(proxy)
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == DATA


def test_framing_is_as_told(proxy: FaultProxy) -> None:
    proxy.break_with(framing="chunked")
    response, body = got(proxy)
    assert (response.headers["Transfer-Encoding"], body) == ("chunked", DATA)
    proxy.break_with(framing="until closed")
    response, body = got(proxy)
    assert (response.headers["Content-Length"], body) == (None, DATA)
    assert response.headers["Transfer-Encoding"] is None


@pytest.mark.parametrize("framing", ["no last chunk", "bad chunk size"])
def test_chunks_are_broken(proxy: FaultProxy, framing: str) -> None:
    proxy.break_with(framing=framing)
    with pytest.raises(http.client.IncompleteRead):
        got(proxy)


def test_an_answer_is_followed_by_more_or_by_the_end(proxy: FaultProxy) -> None:
    proxy.break_with(after=b"left over", close=True)
    assert raw(proxy).endswith(DATA + b"left over")
    proxy.break_with(close=True)
    with client(proxy) as connection:
        connection.request("GET", "/a")
        assert connection.getresponse().read() == DATA
        assert connection.sock.recv(100) == b""


# The answer's head


def test_headers_come_slowly(proxy: FaultProxy) -> None:
    proxy.break_with(head_pause_s=0.1)
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
        connection.sendall(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 200 OK\r\n"
        assert connection.recv(1000).count(b"\r\n") == 1


def test_headers_are_set_and_removed(proxy: FaultProxy) -> None:
    proxy.break_with(headers={"ETag": None, "Retry-After": "3"})
    response, body = got(proxy)
    assert (response.headers["ETag"], response.headers["Retry-After"]) == (None, "3")
    assert body == DATA


def test_another_range_is_named_than_the_one_that_comes(proxy: FaultProxy) -> None:
    proxy.break_with(shift_range=7)
    response, body = got(proxy, Range="bytes=10-19")
    assert response.headers["Content-Range"] == f"bytes 17-26/{len(DATA)}"
    assert body == DATA[10:20]


def test_a_range_is_shorter_than_asked(proxy: FaultProxy) -> None:
    proxy.break_with(shorten_range_to=4)
    response, body = got(proxy, Range="bytes=10-19")
    assert (response.status, body) == (206, DATA[10:14])
    assert response.headers["Content-Range"] == f"bytes 10-13/{len(DATA)}"


def test_a_range_is_ignored(proxy: FaultProxy) -> None:
    proxy.break_with(drop_range=True)
    response, body = got(proxy, Range="bytes=10-19")
    assert (response.status, body) == (200, DATA)


# Instead of the answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 401, 404, 509, 520, 530, 598])
def test_any_status_is_answered(proxy: FaultProxy, status: int) -> None:
    proxy.break_with(status=status, headers={"Location": "http://other.invalid/"}, body=b"why")
    with client(proxy) as connection:
        connection.request("PUT", "/a", DATA)
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, b"why")
        assert response.headers["Location"] == "http://other.invalid/"
        connection.request("GET", "/a")
        assert connection.getresponse().read() == DATA


def test_a_web_page_is_answered_with_200(proxy: FaultProxy) -> None:
    proxy.break_with(**LOGIN_PAGE)
    response, body = got(proxy)
    assert (response.status, response.headers["Content-Type"]) == (200, "text/html")
    assert body.startswith(b"<html>")


def test_what_is_no_http_is_answered(proxy: FaultProxy) -> None:
    proxy.break_with(raw=b"\x15\x03\x01 no HTTP")
    with pytest.raises(http.client.BadStatusLine):
        got(proxy)


def test_a_lost_answer_has_reached_the_service(server: FaultProxy) -> None:
    with FaultProxy(server.url) as proxy:
        proxy.break_with(lose_answer=True)
        with pytest.raises(ConnectionResetError):
            got(proxy, method="POST")
    assert server.count("POST") == 1


def test_a_signed_url_expires_in_the_middle(proxy: FaultProxy) -> None:
    proxy.break_with(pattern="signature=1", expires_after=1000)
    with pytest.raises(http.client.IncompleteRead) as broken:
        got(proxy, "/a?signature=1")
    assert broken.value.partial == DATA[:1000]
    assert got(proxy, "/a?signature=1")[0].status == 403
    assert got(proxy, "/a?signature=2")[1] == DATA


# Connections


def test_a_request_is_reset_while_its_body_is_sent(server: FaultProxy) -> None:
    with FaultProxy(server.url) as proxy:
        proxy.break_with(request=StreamFault(reset_after=100_000))
        with client(proxy) as connection, pytest.raises(ConnectionError):
            connection.request("PUT", "/a", bytes(50_000_000))
            connection.getresponse()
        assert got(proxy)[1] == DATA


def test_a_request_body_is_corrupted_on_its_way(server: FaultProxy) -> None:
    with Scripted(sends(b"HTTP/1.1 204 No Content\r\n\r\n")) as one, FaultProxy(one.url) as proxy:
        proxy.break_with(request=StreamFault(flip_at=1))
        with client(proxy) as connection:
            connection.request("PUT", "/a", b"abc")
            connection.getresponse().read()
    assert one.bodies == [b"acc"]


def test_a_request_is_not_answered_on_a_connection_that_stays_open(proxy: FaultProxy) -> None:
    proxy.break_with(silent=True, reused=True)
    with client(proxy) as connection:
        connection.request("GET", "/a")
        assert connection.getresponse().read() == DATA
        connection.sock.settimeout(QUIET_S)
        connection.request("GET", "/a")
        with pytest.raises(TimeoutError):
            connection.getresponse()
    assert got(proxy)[1] == DATA


def test_open_connections_die_silently_and_new_ones_live(proxy: FaultProxy) -> None:
    with client(proxy) as idle, client(proxy) as fresh:
        idle.request("GET", "/a")
        assert idle.getresponse().read() == DATA
        proxy.freeze()
        asked = proxy.count("GET")
        idle.request("GET", "/a")
        idle.sock.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            idle.getresponse()
        assert proxy.count("GET") == asked
        fresh.request("GET", "/a")
        assert fresh.getresponse().read() == DATA


def test_a_connection_takes_what_is_sent_and_says_nothing(proxy: FaultProxy) -> None:
    proxy.break_connections(down=StreamFault(stall_after=0))
    assert raw(proxy) == b""
    assert raw(proxy).endswith(DATA)


@pytest.mark.parametrize("way", ["up", "down"])
def test_bytes_pass_unseen_where_nothing_but_bytes_is_known(server: FaultProxy, way: str) -> None:
    with FaultProxy(server.url, http=False) as proxy:
        assert got(proxy)[1] == DATA
        proxy.break_connections(**{way: StreamFault(reset_after=20)})
        with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
            connection.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                while connection.recv(100):
                    pass
        proxy.break_connections(up=StreamFault(flip_at=5))
        assert got(proxy, "/a")[1] == DATA
    assert server.count("GET", "/`") == 1


def test_a_service_that_is_gone_is_a_broken_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with FaultProxy(f"http://127.0.0.1:{port}") as proxy, pytest.raises(ConnectionError):
        got(proxy)


# TLS, names and addresses


def over_tls(proxy: FaultProxy, directory: Path) -> bytes:
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    connection = http.client.HTTPSConnection("localhost", proxy.port, context=context, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/a")
        return connection.getresponse().read()


def test_tls_with_the_right_certificate(tmp_path: Path) -> None:
    with FaultProxy(content, tls=server_context(tmp_path, "localhost")) as proxy:
        assert over_tls(proxy, tmp_path) == DATA
        proxy.break_with(reset_after=0)
        with pytest.raises((OSError, http.client.HTTPException)):
            over_tls(proxy, tmp_path)


@pytest.mark.parametrize(
    ("names", "how", "words"),
    [
        (["other.example"], {}, "Hostname mismatch"),
        (["localhost"], {"expired": True}, "certificate has expired"),
        (["localhost"], {"self_signed": True}, "self-signed certificate"),
    ],
)
def test_tls_with_a_wrong_certificate(
    tmp_path: Path, names: list[str], how: dict[str, bool], words: str
) -> None:
    context = server_context(tmp_path, *names, **how)
    with (
        FaultProxy(content, tls=context) as proxy,
        pytest.raises(ssl.SSLCertVerificationError, match=words),
    ):
        over_tls(proxy, tmp_path)
    assert proxy.requests == []


def test_ipv6_only() -> None:
    try:
        running = FaultProxy(content, host="::1")
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error}")
    with running as proxy:
        assert got(proxy)[1] == DATA
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), 10)


def test_a_name_does_not_resolve() -> None:
    with failing_resolver("store.example") as asked:
        with pytest.raises(socket.gaierror):
            http.client.HTTPConnection("store.example", timeout=10).connect()
        assert socket.getaddrinfo("127.0.0.1", 80)
    assert asked == ["store.example"]
