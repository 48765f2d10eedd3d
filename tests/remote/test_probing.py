"""How long an artifact is that the service does not tell the size of, before it is read.

The service is asked by HEAD; where it knows none, or does not say, and for whatever lies elsewhere,
the answer to a range of one byte tells. That is what an external server can always be asked: the
signature of a presigned URL is for GET alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from artifactfs.config import HttpConfig
from artifactfs.errors import Gone
from artifactfs.model import Artifact
from artifactfs.remote import Service
from artifactfs.token import Secret, TokenSource
from tests.fault_proxy import Reply, Scripted, sends

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = "flk_token"
HTTP = HttpConfig(connect_timeout_s=5, timeout_s=5, retry_for_s=5)

ONE_BYTE = sends(
    b'HTTP/1.1 206 X\r\nContent-Range: bytes 0-0/12345\r\nContent-Length: 1\r\nETag: "v1"\r\n\r\nx'
)


def says(head: str, body: bytes = b"") -> Reply:
    return sends(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body, goes_on=False)


def redirects_to(url: str) -> Reply:
    return sends(f"HTTP/1.1 302 X\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(ONE_BYTE) as running:
        yield running


@pytest.fixture
def outside() -> Iterator[Scripted]:
    with Scripted(ONE_BYTE) as running:
        yield running


@pytest.fixture
def service(server: Scripted) -> Iterator[Service]:
    made = Service(server.url, TokenSource("t", value=Secret(TOKEN)), HTTP)
    yield made
    made.close()


def artifact(external_url: str | None = None) -> Artifact:
    return Artifact(
        "art_1", "file.bin", NOW, NOW, sha256=None, size_bytes=None, external_url=external_url
    )


def methods(server: Scripted) -> list[str]:
    return [head.split(maxsplit=1)[0] for head in server.heads]


def test_the_service_tells_by_head(server: Scripted, service: Service) -> None:
    server.replies = [says('HTTP/1.1 200 OK\nContent-Length: 777\nETag: "v2"')]
    probe = service.downloads.probe(artifact())
    assert (probe.size_bytes, probe.etag) == (777, '"v2"')
    assert methods(server) == ["HEAD"]


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 404 X\nContent-Length: 9",
        "HTTP/1.1 405 X\nContent-Length: 0",
        "HTTP/1.1 501 X\nContent-Length: 9",
        "HTTP/1.1 200 OK\nConnection: close",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked",
        "HTTP/1.1 302 X\nLocation: http://127.0.0.1:9/\nContent-Length: 0",
    ],
)
def test_where_head_tells_nothing_a_range_of_one_byte_does(
    server: Scripted, service: Service, head: str
) -> None:
    server.replies = [says(head), ONE_BYTE]
    probe = service.downloads.probe(artifact())
    assert (probe.size_bytes, probe.etag) == (12345, '"v1"')
    assert methods(server) == ["HEAD", "GET"]
    assert "Range: bytes=0-0" in server.heads[1].splitlines()
    assert all(f"Bearer {TOKEN}" in request for request in server.heads)


def test_what_has_gone_is_not_asked_for_twice(server: Scripted, service: Service) -> None:
    server.replies = [says("HTTP/1.1 410 Gone\nContent-Length: 0")]
    with pytest.raises(Gone):
        service.downloads.probe(artifact())
    assert methods(server) == ["HEAD"]


@pytest.mark.parametrize(
    ("answer", "size_bytes"),
    [
        (ONE_BYTE, 12345),
        (says("HTTP/1.1 200 OK\nContent-Length: 500000", bytes(500_000)), 500_000),
        (says("HTTP/1.1 416 X\nContent-Range: bytes */0\nContent-Length: 0"), 0),
        (says("HTTP/1.1 200 OK\nContent-Length: 0"), 0),
        (says("HTTP/1.1 206 X\nContent-Range: bytes 0-0/*\nContent-Length: 1", b"x"), None),
        (says("HTTP/1.1 200 OK\nConnection: close", bytes(5_000_000)), None),
    ],
    ids=["range", "whole", "empty range", "empty", "no total", "no length"],
)
def test_elsewhere_is_asked_for_one_byte_without_the_token(
    server: Scripted, outside: Scripted, service: Service, answer: Reply, size_bytes: int | None
) -> None:
    server.replies = [redirects_to(f"{outside.url}/x?signature=s")]
    outside.replies = [answer]
    assert service.downloads.probe(artifact(f"{outside.url}/x")).size_bytes == size_bytes
    assert methods(server) == ["GET"]
    assert set(methods(outside)) == {"GET"}
    assert f"Bearer {TOKEN}" in server.heads[0]
    for request in outside.heads:
        assert "Range: bytes=0-0" in request.splitlines()
        assert "authorization" not in request.lower()
        assert TOKEN not in request


def test_a_further_redirect_gets_no_token_either(
    server: Scripted, outside: Scripted, service: Service
) -> None:
    with Scripted(redirects_to(f"{outside.url}/moved")) as first:
        server.replies = [redirects_to(f"{first.url}/x")]
        assert service.downloads.probe(artifact(f"{first.url}/x")).size_bytes == 12345
        for request in first.heads + outside.heads:
            assert TOKEN not in request
    assert len(outside.heads) == 1
