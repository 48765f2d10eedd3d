"""Downloads spoken directly: right bytes whatever a server answers, or the library is asked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from artifactfs.byte_range import ByteRange
from artifactfs.config import HttpConfig
from artifactfs.errors import (
    ArtifactfsError,
    BadAnswer,
    Refused,
    Unreachable,
)
from artifactfs.model import Artifact
from artifactfs.remote import Service
from artifactfs.remote.http_connection import (
    NotPlain,
    ResponseHead,
    parse_head,
)
from artifactfs.token import Secret, TokenSource
from tests.fault_proxy import Reply, Scripted, sends
from tests.helpers import wait_until

DATA = os.urandom(200_000)
HTTP = HttpConfig(connect_timeout_s=5, timeout_s=5, retry_for_s=5)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# Heads


def head(*lines: str) -> ResponseHead:
    return parse_head("\r\n".join(lines).encode("latin-1"))


def test_a_plain_head_is_read() -> None:
    read = head("HTTP/1.1 206 Partial Content", "Content-Length:  10\t", 'ETag: "a: b"', "X: ü")
    assert (read.status_code, read.reason, read.length_bytes) == (206, "Partial Content", 10)
    assert read.headers == {"content-length": "10", "etag": '"a: b"', "x": "ü"}
    assert read.keeps_alive


def test_a_reason_may_be_absent() -> None:
    assert head("HTTP/1.1 200", "Content-Length: 0").reason == ""
    assert head("HTTP/1.1 200 ", "Content-Length: 0").reason == ""


def test_headers_that_come_twice_are_one_list_and_close_counts_in_it() -> None:
    read = head("HTTP/1.1 200 OK", "Content-Length: 0", "connection: close", "Connection: x")
    assert read.headers["connection"] == "close, x"
    assert not read.keeps_alive


@pytest.mark.parametrize("status", [100, 103, 204, 304])
def test_what_has_no_body_has_none_whatever_it_says(status: int) -> None:
    assert head(f"HTTP/1.1 {status} X", "Content-Length: 7").length_bytes == 0
    assert head(f"HTTP/1.1 {status} X", "Content-Length: much").length_bytes == 0


@pytest.mark.parametrize(
    "lines",
    [
        ["HTTP/1.0 200 OK", "Content-Length: 1"],
        ["HTTP/2 200", "Content-Length: 1"],
        ["HTTP/1.1 +20 OK", "Content-Length: 1"],
        ["HTTP/1.1 2_0 OK", "Content-Length: 1"],
        ["HTTP/1.1  200 OK", "Content-Length: 1"],
        ["HTTP/1.1 999 OK", "Content-Length: 1"],
        ["HTTP/1.1 200 OK"],
        ["HTTP/1.1 200 OK", "Content-Length: "],
        ["HTTP/1.1 200 OK", "Content-Length: -1"],
        ["HTTP/1.1 200 OK", "Content-Length: +1"],
        ["HTTP/1.1 200 OK", "Content-Length: 1_0"],
        ["HTTP/1.1 200 OK", "Content-Length: ²"],
        ["HTTP/1.1 200 OK", "Content-Length: 1, 1"],
        ["HTTP/1.1 200 OK", "Content-Length: " + "9" * 5000],
        ["HTTP/1.1 200 OK", "Content-Length: 1", "Content-Length: 1"],
        ["HTTP/1.1 200 OK", "Content-Length: 1", "Content-Range: a", "content-range: b"],
        ["HTTP/1.1 200 OK", "Content-Length: 1", "Transfer-Encoding: chunked"],
        ["HTTP/1.1 200 OK", "Content-Length: 1", "Folded: a", " b"],
        ["HTTP/1.1 200 OK", "Content-Length: 1", " Content-Length: 2"],
        ["HTTP/1.1 200 OK", "Content-Length : 1"],
        ["HTTP/1.1 200 OK", "Content-Length: 1", "X: a\nContent-Length: 2"],
        ["HTTP/1.1 200 OK", "Content-Length: 1", "X: a\rb"],
        ["HTTP/1.1 200 OK", "Content-Length: 1", ": nameless"],
        ["HTTP/1.1 200 OK", "Content-Length: 1", "no colon"],
        [""],
    ],
)  # fmt: skip
def test_a_head_that_can_be_read_in_two_ways_is_left_to_the_library(lines: list[str]) -> None:
    with pytest.raises(NotPlain):
        head(*lines)


@given(st.binary(max_size=300))
@example(b"HTTP/1.1 100 X\r\nContent-Length: x")
@example(b"HTTP/1.1 \xb2\xb2\xb2 X\r\nContent-Length: 1")
def test_any_bytes_are_a_head_or_not_plain(data: bytes) -> None:
    with contextlib.suppress(NotPlain):
        assert 100 <= parse_head(data).status_code <= 599


@given(
    st.integers(100, 599),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=20),
    st.integers(0, 10**18 - 1),
    st.dictionaries(
        st.from_regex(r"x-[a-z0-9-]{1,9}", fullmatch=True),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20),
    ),
)
def test_any_sound_head_is_read_as_it_was_written(
    status: int, reason: str, length: int, headers: dict[str, str]
) -> None:
    lines = [f"{name.upper()}:{value}" for name, value in headers.items()]
    read = head(f"HTTP/1.1 {status} {reason}", f"Content-Length: {length}", *lines)
    assert (read.status_code, read.reason) == (status, reason)
    assert read.length_bytes == (0 if status < 200 or status in (204, 304) else length)
    stripped = {name: value.strip(" \t") for name, value in headers.items()}
    assert read.headers == stripped | {"content-length": str(length)}


# Conversations


def answer(request: str, extra: str = "") -> tuple[bytes, bytes]:
    """The head and the body that a request for a range asks for."""
    found = re.search(r"Range: bytes=(\d+)-(\d+)", request)
    assert found is not None, request
    start, stop = int(found[1]), min(int(found[2]) + 1, len(DATA))
    lines = (
        f"HTTP/1.1 206 X\r\nContent-Range: bytes {start}-{stop - 1}/{len(DATA)}\r\n"
        f"Content-Length: {stop - start}\r\n{extra}\r\n"
    )
    return lines.encode(), DATA[start:stop]


def plain(connection: socket.socket, request: str) -> bool:
    connection.sendall(b"".join(answer(request)))
    return True


def service_at(url: str) -> Service:
    return Service(url, TokenSource("t", value=Secret("flk_token")), HTTP)


def artifact(**more: object) -> Artifact:
    known = {"sha256": hashlib.sha256(DATA).hexdigest(), "size_bytes": len(DATA)} | more
    return Artifact("art_1", "file.bin", NOW, NOW, **known)  # type: ignore[arg-type]


class Taken:
    """A sink that keeps what comes, where it belongs."""

    def __init__(self) -> None:
        self.data = bytearray(len(DATA))
        self.count = 0
        self._offset = 0
        self._room = memoryview(bytearray(70_000))

    def version(self, etag: str) -> None:
        return

    def room(self, offset: int) -> memoryview:
        self._offset = offset
        return self._room

    def take(self, count: int, *, more: bool) -> bool:
        self.data[self._offset : self._offset + count] = self._room[:count]
        self.count += count
        return True

    def pause(self) -> None:
        return


def read(service: Service, start: int = 0, stop: int = len(DATA), **more: object) -> None:
    """Read a range and compare it."""
    sink = Taken()
    service.downloads.stream(artifact(**more), ByteRange(start, stop), sink)
    assert sink.data[start:stop] == DATA[start:stop]


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(plain) as running:
        yield running


@pytest.fixture
def service(server: Scripted) -> Iterator[Service]:
    made = service_at(server.url)
    yield made
    made.close()


def test_one_connection_serves_many_requests(server: Scripted, service: Service) -> None:
    for start in range(0, len(DATA), 10_000):
        read(service, start, start + 10_000)
    assert (server.accepted, len(server.heads)) == (1, 20)


def test_a_connection_that_the_server_has_closed_is_not_used(
    server: Scripted, service: Service
) -> None:
    def plain_then_over(connection: socket.socket, request: str) -> bool:
        plain(connection, request)
        return False

    server.replies = [plain_then_over]
    for _ in range(3):
        read(service, 0, 100)
    assert len(server.heads) == 3


def test_a_request_that_a_closing_server_did_not_answer_is_sent_again_once(
    server: Scripted, service: Service
) -> None:
    server.replies = [plain, sends(goes_on=False), plain]
    read(service, 0, 100)
    read(service, 0, 100)
    assert (server.accepted, len(server.heads)) == (2, 3)


def test_a_body_that_breaks_off_is_resumed_where_it_did(server: Scripted, service: Service) -> None:
    def half(connection: socket.socket, request: str) -> bool:
        lines, body = answer(request)
        connection.sendall(lines + body[:50_000])
        return False

    server.replies = [half, plain]
    read(service)
    assert f"bytes=50000-{len(DATA) - 1}" in server.heads[1]


def test_more_than_was_announced_is_of_no_answer(server: Scripted, service: Service) -> None:
    def more(connection: socket.socket, request: str) -> bool:
        lines, body = answer(request)
        # In one piece: what comes later, after the next request was sent, nobody can tell apart.
        smuggled = b"HTTP/1.1 206 Smuggled\r\nContent-Length: 3\r\n\r\nbad"
        connection.sendall(lines + body + smuggled)
        return True

    server.replies = [more]
    for start in (0, 100_000, 0):
        read(service, start, start + 100_000)
    assert server.accepted >= 3


def unranged(framing: str) -> Reply:
    def reply(connection: socket.socket, _request: str) -> bool:
        if framing == "chunked":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(DATA), 30_000):
                piece = DATA[start : start + 30_000]
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")
            return True
        version = b"1.0" if framing == "old" else b"1.1"
        connection.sendall(b"HTTP/%b 200 OK\r\nConnection: close\r\n\r\n" % version + DATA)
        return False

    return reply


@pytest.mark.parametrize("framing", ["chunked", "old", "until closed"])
def test_what_has_no_length_is_read_by_the_library(
    server: Scripted, service: Service, framing: str
) -> None:
    server.replies = [unranged(framing)]
    read(service)
    assert len(server.heads) == 2
    read(service)
    assert len(server.heads) == 3  # left to the library at once


@pytest.mark.parametrize(
    "lines", ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\n"]
)
def test_what_comes_before_the_answer_is_skipped(
    server: Scripted, service: Service, lines: str
) -> None:
    def early(connection: socket.socket, request: str) -> bool:
        connection.sendall(2 * lines.encode() + b"".join(answer(request)))
        return True

    server.replies = [early]
    read(service)
    read(service)
    assert (server.accepted, len(server.heads)) == (1, 2)


def test_a_head_may_come_byte_by_byte_and_the_body_with_it(
    server: Scripted, service: Service
) -> None:
    def slowly(connection: socket.socket, request: str) -> bool:
        lines, body = answer(request, extra=f"X: {'y' * 300}\r\n")
        for at in range(len(lines) - 1):
            connection.sendall(lines[at : at + 1])
        connection.sendall(lines[-1:] + body)
        return True

    server.replies = [slowly]
    read(service)
    assert (server.accepted, len(server.heads)) == (1, 1)


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000, b"HTTP/1.1 200 OK\r\nX: " + bytes(1 << 20)]
)
def test_an_endless_head_is_given_up(server: Scripted, data: bytes) -> None:
    server.replies = [sends(data)]
    made = Service(
        server.url, TokenSource("t", value=Secret("t")), HttpConfig(timeout_s=0.5, retry_for_s=0.1)
    )
    with pytest.raises(ArtifactfsError):
        read(made)
    made.close()


def test_a_server_that_closes_each_connection_is_taken_at_its_word(
    server: Scripted, service: Service
) -> None:
    def closing(connection: socket.socket, request: str) -> bool:
        connection.sendall(b"".join(answer(request, extra="Connection: close\r\n")))
        return True

    server.replies = [closing]
    read(service, 0, 100)
    read(service, 0, 100)
    assert server.accepted == 2


def test_an_ipv6_address_is_connected_to() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        running = Scripted(plain, host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with running as server:
        service = service_at(server.url)
        read(service)
        service.close()
        assert f"Host: [::1]:{server.port}" in server.heads[0]


def test_closing_ends_who_waits_for_the_head_of_an_answer(server: Scripted) -> None:
    asked, ended = threading.Event(), threading.Event()

    def silent(_connection: socket.socket, _request: str) -> bool:
        asked.set()
        return ended.wait(60)

    server.replies = [silent]
    patient = HttpConfig(connect_timeout_s=5, timeout_s=60, retry_for_s=60)
    service = Service(server.url, TokenSource("t", value=Secret("t")), patient)
    caught: list[BaseException] = []

    def download() -> None:
        try:
            read(service)
        except ArtifactfsError as error:
            caught.append(error)

    thread = threading.Thread(target=download)
    thread.start()
    assert asked.wait(10)
    service.close()
    thread.join(10)
    ended.set()
    assert not thread.is_alive()
    assert caught


# Tokens, redirects, external references


def redirects_to(url: str) -> Reply:
    return sends(f"HTTP/1.1 302 X\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode())


def test_no_token_is_sent_for_an_external_reference_that_leads_back(
    server: Scripted, service: Service
) -> None:
    with Scripted(redirects_to(f"{server.url}/api/v1/artifacts/another")) as outside:
        server.replies = [redirects_to(f"{outside.url}/x"), plain]
        read(service, external_url=f"{outside.url}/x")
    first, back = server.heads
    assert "Authorization" in first
    assert "Authorization" not in back


@pytest.mark.parametrize(
    "location", ["http://[::1/x", "http://h:99999/", "http://h:x/", "ftp://h/x", ""]
)
def test_a_redirect_to_no_place_is_an_error_of_ours(
    server: Scripted, service: Service, location: str
) -> None:
    server.replies = [redirects_to(location)]
    with pytest.raises((BadAnswer, Refused)):
        read(service)


def test_a_reference_that_redirects_for_ever_is_given_up(
    server: Scripted, service: Service
) -> None:
    server.replies = [redirects_to("/again")]
    with pytest.raises(BadAnswer, match="redirects"):
        read(service, external_url="http://outside.example/x")
    assert len(server.heads) == 6


PUBLIC = "93.184.216.34"


@pytest.fixture
def public_service(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that seems to have a public address; so does any first look-up of a name.

    Its connections really go to this machine, because the service is not checked.
    """
    seen: set[str] = set()
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *more: object, **named: object) -> object:
        if host.endswith(".example"):
            public = host not in seen and host != "service.example"
            if host == "service.example" and named:
                public = True  # the guard's look at it
            seen.add(host)
            return real(PUBLIC if public else "127.0.0.1", port)
        return real(host, port)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    made = service_at(f"http://service.example:{server.port}")
    yield made
    made.close()


@pytest.mark.parametrize("first", [plain, unranged("chunked")])
def test_a_name_that_leads_elsewhere_when_it_is_connected_to_is_refused(
    server: Scripted, public_service: Service, first: Reply
) -> None:
    with Scripted(first) as victim:
        server.replies = [redirects_to(f"http://rebinding.example:{victim.port}/x")]
        with pytest.raises(Refused, match=r"127\.0\.0\.1, a private address"):
            read(public_service, external_url="http://rebinding.example/x")
        assert victim.heads == []


def test_the_library_checks_whom_it_has_reached_too(
    server: Scripted, public_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from artifactfs.remote.connection_pool import ConnectionPool

    monkeypatch.setattr(ConnectionPool, "speaks_to", lambda *_, **__: False)
    with Scripted(plain) as victim:
        server.replies = [redirects_to(f"http://rebinding.example:{victim.port}/x")]
        with pytest.raises(Refused, match=r"127\.0\.0\.1, a private address"):
            read(public_service, external_url="http://rebinding.example/x")
        assert victim.heads == []


def test_a_reference_that_redirects_to_a_private_address_is_refused(
    server: Scripted, public_service: Service
) -> None:
    with Scripted(plain) as victim:
        server.replies = [redirects_to(victim.url)]
        with pytest.raises(Refused, match="private"):
            read(public_service, external_url="http://outside.example/x")
        assert (victim.accepted, victim.heads) == (0, [])


# TLS and proxies


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's certificate for this machine, and the authority that has signed it."""
    at = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        try:
            subprocess.run(["openssl", *words], cwd=at, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("openssl is not installed")

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Own CA")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    (at / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-CAcreateserial", "-extfile", "names", "-out", "server.pem",
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(at / "server.pem", at / "server.key")
    return context, at / "ca.pem"


def test_an_authority_of_ones_own_is_trusted_where_it_is_said(
    certified: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authority = certified
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    with Scripted(plain, tls=context) as server:
        service = service_at(server.url)
        for start in range(0, len(DATA), 50_000):
            read(service, start, start + 50_000)
        service.close()
        assert (server.accepted, len(server.heads)) == (1, 4)


def test_an_authority_that_nobody_knows_is_refused_in_one_line(
    certified: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    with Scripted(plain, tls=certified[0]) as server:
        service = service_at(server.url)
        with pytest.raises(Unreachable, match=r"(?i)certificate") as caught:
            read(service)
        service.close()
        assert server.heads == []
    assert "\n" not in str(caught.value)
    assert server.url in str(caught.value)


def test_more_than_was_announced_is_of_no_answer_over_tls_either(
    certified: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certified[1]))

    def more(connection: socket.socket, request: str) -> bool:
        lines, body = answer(request)
        connection.sendall(lines)
        connection.sendall(body + b"HTTP/1.1 206 Smuggled\r\nContent-Length: 3\r\n\r\nbad")
        return True

    with Scripted(more, tls=certified[0]) as server:
        service = service_at(server.url)
        for start in (0, 1000, 2000):
            read(service, start, start + 1000)
        service.close()
        assert server.accepted == 3


def test_a_proxy_of_the_environment_is_used(
    server: Scripted, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scripted(plain) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        read(service)
        assert server.heads == []
        assert proxy.heads[0].startswith(f"GET {server.url}/api/v1/artifacts/art_1 ")


def test_who_needs_no_proxy_has_none(
    server: Scripted, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scripted(plain) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        read(service)
        assert (proxy.heads, len(server.heads)) == ([], 1)
    wait_until(lambda: server.accepted == 1)
