"""Streams over connections that break, end, stall or were never there."""

from __future__ import annotations

import threading

import pytest

from artifactfs.config import HttpConfig
from artifactfs.errors import (
    Cancelled,
    NotAllowed,
    TooLarge,
    Unreachable,
    Unsupported,
)
from artifactfs.model import StreamEvent
from artifactfs.remote import (
    EventStream,
    Service,
    TooLargeEvent,
)
from artifactfs.token import Secret, TokenSource
from tests.fault_proxy import Reply, Scripted, sends
from tests.helpers import wait_until

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(text: str) -> bytes:
    return f"{len(text.encode()):x}\r\n{text}\r\n".encode()


def stream(*texts: str, ends: bool = True) -> Reply:
    """An event stream of these pieces, ended as it should be or cut off."""
    return sends(HEAD, *map(chunk, texts), *([b"0\r\n\r\n"] if ends else []), goes_on=ends)


def plain(status: str, kind: str = "application/json") -> Reply:
    return sends(
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    )


def service(server: Scripted) -> Service:
    return Service(server.url, TokenSource("test", value=Secret("flk_x")), HttpConfig())


def test_a_stream_is_resumed_where_it_broke() -> None:
    seen: list[StreamEvent] = []

    def take(event: StreamEvent) -> bool:
        seen.append(event)
        return event.data != "4"

    with Scripted(
        stream("retry: 1\n\nid: 1\nevent: job\ndata: 1\n\nid: 2\ndata: lost", ends=False),
        sends(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 0\r\n\r\n"),
        stream("id: 2\ndata: 2\n\n", ": heartbeat\n\n"),
        stream("id: 3\ndata: 3\n\nid: 4\ndata: 4\n\n"),
    ) as server:
        one = service(server)
        followed = one.jobs.stream("job 1/x")
        followed.follow(take)
        one.close()
    assert [event.data for event in seen] == ["1", "2", "3", "4"]
    assert seen[0] == StreamEvent("job", "1", "1")
    assert followed.connections == 4
    asked = [
        next((line for line in head.split("\r\n") if line.startswith("Last-Event-ID")), None)
        for head in server.heads
    ]
    assert asked == [None, "Last-Event-ID: 1", "Last-Event-ID: 1", "Last-Event-ID: 2"]
    assert all("GET /api/v1/jobs/job%201%2Fx/stream " in head for head in server.heads)
    assert all("Bearer flk_x" in head for head in server.heads)


@pytest.mark.parametrize("retry", ["retry: 0\n\n", "retry: 00\n\n", ""])
def test_a_stream_that_ends_after_each_event_is_not_asked_for_all_the_time(
    retry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    class Noting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    with Scripted(stream(f"{retry}id: 1\ndata: again\n\n")) as server:
        one = service(server)
        followed = one.jobs.stream("j")
        monkeypatch.setattr(followed, "_closed", Noting())
        followed.follow(lambda _: len(server.heads) < 12)
        one.close()
    assert len(waits) == 11
    assert min(waits) >= 0.05
    assert sum(waits) > 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (plain("404 Not Found"), Unsupported),
        (plain("405 No"), Unsupported),
        (plain("501 No"), Unsupported),
        (plain("200 OK"), Unsupported),
        (plain("200 OK", "text/html"), Unsupported),
        (sends(b"HTTP/1.1 204 No Content\r\n\r\n"), Unsupported),
        (plain("403 No"), NotAllowed),
        (stream(": nothing\n\n"), Unreachable),
    ],
)
def test_what_is_no_stream_is_told(reply: Reply, error: type[Exception]) -> None:
    with Scripted(reply) as server:
        one = service(server)
        (followed,) = one.jobs.watch(["a", "b"], patience_s=0.0)
        with pytest.raises(error):
            followed.follow(lambda _: True)
        one.close()


def test_an_event_that_is_too_large_is_told() -> None:
    with Scripted(stream("data: " + "x" * 200 + "\n\n")) as server:
        one = service(server)
        followed = EventStream(one._session, "jobs/j/stream", most_event_bytes=100)
        with pytest.raises(TooLargeEvent):
            followed.follow(lambda _: True)
        one.close()


def test_an_output_that_is_too_large_says_what_to_do_instead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("artifactfs.remote.session.MOST_ANSWER_BYTES", 1)
    with Scripted(plain("200 OK", "text/plain")) as server:
        one = service(server)
        with pytest.raises(TooLarge, match="logs -f"):
            one.jobs.output("j")
        one.close()


@pytest.mark.parametrize("by", ["the stream", "the service"])
def test_closing_ends_a_stream_that_says_nothing(by: str) -> None:
    came = threading.Event()
    ended: list[BaseException] = []

    def hang(connection: object, _head: str) -> bool:
        sends(HEAD, chunk("data: 1\n\n"))(connection, _head)  # type: ignore[arg-type]
        gone.wait(30)
        return False

    gone = threading.Event()
    with Scripted(hang) as server:
        one = service(server)
        followed = one.jobs.stream("j")

        def follow() -> None:
            try:
                followed.follow(lambda _: came.set() is None)
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=follow)
        thread.start()
        assert came.wait(10)
        (followed if by == "the stream" else one).close()
        thread.join(10)
        assert not thread.is_alive()
        assert isinstance(ended[0], Cancelled)
        gone.set()
        one.close()
    wait_until(lambda: not thread.is_alive())
