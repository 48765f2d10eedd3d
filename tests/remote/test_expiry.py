"""A redirect target that fails is asked for again: once, by all who read, whatever it answers."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from artifactfs.config import HttpConfig
from artifactfs.errors import (
    ArtifactfsError,
    Gone,
    NotAllowed,
)
from artifactfs.remote import Service
from artifactfs.token import Secret, TokenSource
from tests.fault_proxy import Scripted

from .test_http_connection import answer, read

READERS = 12
HTTP = HttpConfig(connect_timeout_s=5, timeout_s=10, retry_for_s=10)
STATUSES = (400, 401, 403, 404, 405, 409, 410, 416, 422, 500, 501, 503)


class Store:
    """A service and its store: each question is answered with a new signature.

    `uses` is for how many requests one is good (None: for ever), `failure` what is answered then;
    refusals of what `expire` has ended wait for each other at `gather`, so that readers meet the
    expiry together.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.questions = 0
        self.left: dict[str, int] = {}
        self.expired: set[str] = set()
        self.uses: int | None = None
        self.failure: int | str = 403
        self.own_failure: int | None = None
        self.gather = threading.Barrier(1)
        self.service = Scripted(self.ask)
        self.store = Scripted(self.get)

    def ask(self, connection: socket.socket, _head: str) -> bool:
        with self.lock:
            self.questions += 1
            signature = str(self.questions)
            self.left[signature] = 1 << 30 if self.uses is None else self.uses
        status = self.own_failure or 302
        target = f"{self.store.url}/x?signature={signature}"
        connection.sendall(
            f"HTTP/1.1 {status} X\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        return True

    def get(self, connection: socket.socket, head: str) -> bool:
        found = re.search(r"signature=(\d+)", head)
        assert found is not None
        with self.lock:
            self.left[found[1]] -= 1
            is_good = self.left[found[1]] >= 0
        if is_good:
            connection.sendall(b"".join(answer(head)))
            return True
        if found[1] in self.expired:
            self.gather.wait(30)
        if self.failure == "reset":
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        if self.failure == "half":
            lines, body = answer(head)
            connection.sendall(lines + body[: len(body) // 2])
            return False
        if self.failure == "page":
            connection.sendall(b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: 6\r\n\r\n<html>")
            return True
        connection.sendall(f"HTTP/1.1 {self.failure} X\r\nContent-Length: 0\r\n\r\n".encode())
        return True

    def expire(self) -> None:
        """All signatures that were given out."""
        with self.lock:
            self.left = dict.fromkeys(self.left, 0)
            self.expired = set(self.left)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    with made.service, made.store:
        yield made
        made.gather.abort()


@pytest.fixture
def service(store: Store) -> Iterator[Service]:
    made = Service(store.service.url, TokenSource("t", value=Secret("flk_t")), HTTP)
    yield made
    made.close()


def read_together(service: Service, times: int = 1) -> list[BaseException]:
    """What was raised while many read."""

    def some(number: int) -> BaseException | None:
        try:
            for at in range(times):
                start = 1000 * number + 10 * at
                read(service, start, start + 100)
        except (ArtifactfsError, AssertionError) as error:
            return error
        return None

    with ThreadPoolExecutor(READERS) as pool:
        return [error for error in pool.map(some, range(READERS)) if error is not None]


@pytest.mark.parametrize("failure", [*STATUSES, "reset", "half", "page"])
def test_readers_that_meet_the_same_expiry_share_one_question(
    store: Store, service: Service, failure: int | str
) -> None:
    store.failure = failure
    read(service, 0, 100)
    assert store.questions == 1
    for expiry in range(1, 4):
        store.expire()
        # A request that a kept connection resets is sent again by itself.
        store.gather = threading.Barrier(1 if failure == "reset" else READERS)
        assert read_together(service) == []
        assert store.questions == 1 + expiry


@pytest.mark.parametrize("failure", [400, 401, 403, "reset"])
@pytest.mark.parametrize("uses", [1, 3, 20])
def test_a_signature_that_expires_again_and_again_fails_nobody(
    store: Store, service: Service, failure: int | str, uses: int
) -> None:
    store.failure, store.uses = failure, uses
    assert read_together(service, 10) == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_target_that_was_just_named_and_fails_is_an_error(
    store: Store, service: Service, status: int
) -> None:
    store.failure = status
    read(service, 0, 100)
    store.expire()
    store.uses = 0
    store.gather = threading.Barrier(READERS)
    errors = read_together(service)
    assert len(errors) == READERS
    assert store.questions == 2
    assert not any("token" in str(error) for error in errors)
    store.uses = None
    read(service, 0, 100)  # and is not remembered
    assert store.questions == 3


@pytest.mark.parametrize(("status", "kind"), [(404, Gone), (410, Gone), (403, NotAllowed)])
def test_what_the_service_itself_says_is_an_error_of_all_who_wait_for_it(
    store: Store, service: Service, status: int, kind: type[Exception]
) -> None:
    read(service, 0, 100)
    store.expire()
    store.own_failure = status
    store.gather = threading.Barrier(READERS)
    errors = read_together(service)
    assert [type(error) for error in errors] == [kind] * READERS
    assert store.questions == 2
