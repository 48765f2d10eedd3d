"""Small files are sent in one piece over kept connections, and never twice unasked."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.byte_range import ByteRange
from artifactfs.errors import (
    ArtifactfsError,
    BadAnswer,
    Refused,
    TokenRejected,
    TooLarge,
    Unreachable,
)
from artifactfs.remote import Service
from artifactfs.remote.request_body import FileBody
from artifactfs.token import TokenSource
from tests.fault_proxy import Reply, Scripted, sends

from .test_http_connection import HTTP, service_at
from .test_wire_artifacts import FULL

CREATED = json.dumps(FULL).encode()
NAME = "dir/naïve 100%.txt"


def answers(body: bytes = CREATED, status: str = "201 Created", *, goes_on: bool = True) -> Reply:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return sends(head + body, goes_on=goes_on)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(answers()) as running:
        yield running


@pytest.fixture
def service(server: Scripted) -> Iterator[Service]:
    made = service_at(server.url)
    yield made
    made.close()


@pytest.fixture
def body(tmp_path: Path) -> FileBody:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(10_000))
    return FileBody(path, ByteRange(0, 10_000))


def test_one_connection_takes_one_file_after_the_other(
    server: Scripted, service: Service, body: FileBody
) -> None:
    sent: list[int] = []
    for _ in range(20):
        found = service.uploads.by_controller(
            body, NAME, sha256=FULL["sha256"], progress=sent.append
        )
        assert found.id == "art_1"
    assert (server.accepted, len(server.heads)) == (1, 20)
    assert set(server.bodies) == {body.path.read_bytes()}
    assert sent == [10_000] * 20
    first, *lines = server.heads[0].split("\r\n")
    assert first == "POST /api/v1/artifacts HTTP/1.1"
    said = dict(line.split(": ", 1) for line in lines)
    assert said["Authorization"] == "Bearer flk_token"
    assert said["X-Artifact-Filename"] == "dir/na%C3%AFve 100%25.txt"
    assert said["X-Artifact-Sha256"] == FULL["sha256"]
    assert said["Content-Length"] == "10000"


def test_an_empty_file_is_sent_like_any_other(
    server: Scripted, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    service.uploads.by_controller(FileBody(tmp_path / "empty", ByteRange(0, 0)), "empty")
    assert server.bodies == [b""]
    assert "Content-Length: 0" in server.heads[0]


def test_what_a_closing_server_did_not_answer_is_not_sent_again(
    server: Scripted, service: Service, body: FileBody
) -> None:
    server.replies = [answers(), sends(goes_on=False), answers()]
    service.uploads.by_controller(body, NAME)
    with pytest.raises(Unreachable):
        service.uploads.by_controller(body, NAME)
    assert len(server.heads) == 2
    service.uploads.by_controller(body, NAME)


def test_half_an_answer_is_no_artifact_and_no_reason_to_give_up(
    server: Scripted, service: Service, body: FileBody
) -> None:
    def half(connection: socket.socket, _head: str) -> bool:
        connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 300\r\n\r\n" + CREATED[:100])
        return False

    server.replies = [half]
    with pytest.raises(Unreachable, match="broke off"):
        service.uploads.by_controller(body, NAME)
    assert len(server.heads) == 1


def test_a_server_that_answers_in_chunks_is_left_to_the_library_from_then_on(
    server: Scripted, service: Service, body: FileBody
) -> None:
    chunk = f"{len(CREATED):x}\r\n".encode() + CREATED + b"\r\n0\r\n\r\n"
    server.replies = [sends(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)]
    with pytest.raises(Unreachable, match="transfer encoding"):
        service.uploads.by_controller(body, NAME)
    assert len(server.heads) == 1
    for _ in range(2):
        assert service.uploads.by_controller(body, NAME).id == "art_1"
    assert server.bodies[1:] == [body.path.read_bytes()] * 2


def test_a_token_that_was_renewed_is_used_at_once(
    server: Scripted, body: FileBody, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("flk_old")
    token.chmod(0o600)

    def renewing(connection: socket.socket, head: str) -> bool:
        token.write_text("flk_new")
        return answers(b"{}", "401 Unauthorized")(connection, head)

    server.replies = [renewing, answers(), answers(b"{}", "401 Unauthorized")]
    service = Service(server.url, TokenSource("t", path=token), HTTP)
    try:
        service.uploads.by_controller(body, NAME)
        assert "Bearer flk_old" in server.heads[0]
        assert "Bearer flk_new" in server.heads[1]
        with pytest.raises(TokenRejected):
            service.uploads.by_controller(body, NAME)
        assert len(server.heads) == 3
    finally:
        service.close()


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        ("413 Content Too Large", b"{}", TooLarge),
        ("422 Unprocessable", b'{"error": {"code": "sha256_mismatch"}}', Refused),
        ("303 See Other", b"", Refused),
        ("503 Unavailable", b"{}", Unreachable),
        ("201 Created", b"<html>", BadAnswer),
        ("201 Created", b"{}", BadAnswer),
    ],
)
def test_what_the_service_says_is_told_and_the_connection_stays(
    server: Scripted,
    service: Service,
    body: FileBody,
    status: str,
    said: bytes,
    kind: type[ArtifactfsError],
) -> None:
    server.replies = [answers(said, status), answers()]
    with pytest.raises(kind) as raised:
        service.uploads.by_controller(body, NAME)
    if b"code" in said:
        assert getattr(raised.value, "code", None) == "sha256_mismatch"
    service.uploads.by_controller(body, NAME)
    assert (server.accepted, len(server.heads)) == (1, 2)


def test_a_file_that_became_shorter_is_not_sent(
    server: Scripted, service: Service, body: FileBody
) -> None:
    os.truncate(body.path, 100)
    with pytest.raises(OSError, match="shorter"):
        service.uploads.by_controller(body, NAME)
    assert server.heads == []
