"""A body in a content coding that was not asked for is decoded, or an error: never wrong bytes."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator

import pytest

from artifactfs.byte_range import ByteRange
from artifactfs.errors import (
    ArtifactfsError,
    BadAnswer,
    Unsupported,
)
from artifactfs.remote import Service
from tests.fault_proxy import Reply, Scripted, sends

from .test_http_connection import DATA, Taken, answer, artifact, plain, service_at
from .test_wire_artifacts import FULL

raw = zlib.compressobj(wbits=-15)
RAW = raw.compress(DATA) + raw.flush()
ENCODED = {
    "gzip": gzip.compress(DATA),
    "x-gzip": gzip.compress(DATA),
    " GZip ": gzip.compress(DATA[:70_000]) + gzip.compress(DATA[70_000:]),
    "deflate": zlib.compress(DATA),
    "Deflate": RAW,
    "gzip, gzip": gzip.compress(gzip.compress(DATA)),
    "deflate, identity, gzip": gzip.compress(zlib.compress(DATA)),
    "identity": DATA,
    "": DATA,
}
TEXT = gzip.compress(b"x" * len(DATA))


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(plain) as running:
        yield running


@pytest.fixture
def service(server: Scripted) -> Iterator[Service]:
    made = service_at(server.url)
    yield made
    made.close()


def encoded(coding: str, body: bytes, *, chunked: bool = False) -> Reply:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n"
    if not chunked:
        return sends(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    return sends(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("coding", ENCODED)
def test_an_encoded_body_is_decoded(
    server: Scripted, service: Service, coding: str, known: bool, chunked: bool
) -> None:
    server.replies = [encoded(coding, ENCODED[coding], chunked=chunked)]
    sink = Taken()
    found = artifact() if known else artifact(size_bytes=None)
    done = service.downloads.stream(found, ByteRange(0, len(DATA)), sink)
    assert (bytes(sink.data), done.size_bytes) == (DATA, len(DATA))
    assert not done.ranged


def test_a_file_that_is_stored_encoded_is_read_as_a_whole(
    server: Scripted, service: Service
) -> None:
    """As stores do that serve ranges of the encoded bytes."""

    def ranged(connection: socket.socket, head: str) -> bool:
        if "Range:" not in head:
            return encoded("gzip", ENCODED["gzip"])(connection, head)
        connection.sendall(b"".join(answer(head, extra="Content-Encoding: gzip\r\n")))
        return True

    server.replies = [ranged]
    sink = Taken()
    service.downloads.stream(artifact(), ByteRange(100, 200), sink)
    assert bytes(sink.data) == DATA
    found = artifact(size_bytes=None, external_url="http://h/x")
    assert service.downloads.probe(found).size_bytes is None


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br", "x", "gzip, " * 9])
def test_another_coding_is_an_error(server: Scripted, service: Service, coding: str) -> None:
    server.replies = [encoded(coding, DATA)]
    with pytest.raises(BadAnswer, match="Content-Encoding"):
        service.downloads.stream(artifact(), ByteRange(0, len(DATA)), Taken())
    with pytest.raises(ArtifactfsError, match="Content-Encoding"):
        service.jobs.output("j")


@pytest.mark.parametrize(
    "body",
    [
        DATA,
        TEXT[:-1] + b"!",
        gzip.compress(DATA[:-1]),
        gzip.compress(DATA + b"x"),
        gzip.compress(DATA) + b"rest",
    ],
    ids=["not encoded", "damaged", "shorter", "longer", "more"],
)
def test_a_body_that_decodes_to_something_else_is_an_error(
    server: Scripted, service: Service, body: bytes
) -> None:
    server.replies = [encoded("gzip", body)]
    with pytest.raises(BadAnswer):
        service.downloads.stream(artifact(), ByteRange(0, len(DATA)), Taken())


def test_a_body_that_breaks_off_is_read_again(server: Scripted, service: Service) -> None:
    body = ENCODED["gzip"]
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    half = sends(head.encode() + body[: len(body) // 2], goes_on=False)
    server.replies = [half, encoded("gzip", body)]
    sink = Taken()
    service.downloads.stream(artifact(size_bytes=None), ByteRange(0, len(DATA)), sink)
    assert bytes(sink.data) == DATA


def test_the_length_of_an_encoded_body_is_not_the_size(server: Scripted, service: Service) -> None:
    server.replies = [
        sends(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 77\r\n\r\n"),
        plain,
    ]
    assert service.downloads.probe(artifact(size_bytes=None)).size_bytes == len(DATA)


def test_answers_of_the_service_are_decoded(server: Scripted, service: Service) -> None:
    body = gzip.compress(json.dumps(FULL).encode())
    server.replies = [encoded("gzip", body)]
    assert json.loads(service.jobs.job("j")) == FULL
    with pytest.raises(Unsupported):
        server.replies = [
            sends(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n"
            )
        ]
        service.jobs.stream("j").follow(lambda _: True)
