"""The client against the real service through a proxy that breaks things."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from artifactfs.byte_range import ByteRange
from artifactfs.config import HttpConfig
from artifactfs.errors import (
    ArtifactfsError,
    BadAnswer,
    Cancelled,
    Gone,
    Refused,
    TimedOut,
    TokenRejected,
    Unreachable,
)
from artifactfs.model import Artifact
from artifactfs.remote import (
    DirectTicket,
    FileBody,
    Service,
)
from artifactfs.remote.external_guard import AddressGuard
from artifactfs.remote.url import parse
from artifactfs.server.testing import LocalController
from artifactfs.token import Secret, TokenSource
from tests.fault_proxy import FaultProxy

DATA = os.urandom(3_000_000)
HTTP = HttpConfig(connect_timeout_s=1, timeout_s=2, retry_for_s=5)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalController]:
    with LocalController(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def proxy(controller: LocalController) -> Iterator[FaultProxy]:
    with FaultProxy(controller.url) as running:
        yield running


@pytest.fixture
def service(proxy: FaultProxy, controller: LocalController) -> Iterator[Service]:
    made = Service(proxy.url, TokenSource("t", value=Secret(controller.token)), HTTP)
    yield made
    made.close()


@pytest.fixture
def artifact(service: Service, tmp_path: Path) -> Artifact:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return service.uploads.by_controller(FileBody(path, ByteRange(0, len(DATA))), "data.bin")


class Gathered:
    """A sink that keeps the bytes up to `stop`, and notes which have come."""

    def __init__(self, stop: int) -> None:
        self.data = bytearray(stop)
        self.here = bytearray(stop)
        self._piece = memoryview(bytearray(50_000))
        self._offset = 0

    def version(self, etag: str) -> None:
        return

    def room(self, offset: int) -> memoryview:
        self._offset = offset
        return self._piece

    def take(self, count: int, *, more: bool) -> bool:
        start, stop = self._offset, min(self._offset + count, len(self.data))
        self.data[start:stop] = self._piece[: stop - start]
        self.here[start:stop] = b"\1" * (stop - start)
        return stop < len(self.data)

    def pause(self) -> None:
        return


def read(service: Service, artifact: Artifact, start: int = 0, stop: int = len(DATA)) -> bytes:
    sink = Gathered(stop)
    service.downloads.stream(artifact, ByteRange(start, stop), sink)
    assert 0 not in sink.here[start:stop]
    return bytes(sink.data[start:stop])


@pytest.mark.parametrize(
    "fault",
    [
        {"reset_after": 1_000_000},
        {"end_after": 1_000_000},
        {"reset_after": 0},
        {"status": 503},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"stall_after": 500_000},
    ],
)
def test_a_download_that_breaks_is_resumed_where_it_broke(
    service: Service, proxy: FaultProxy, artifact: Artifact, fault: dict[str, object]
) -> None:
    before = proxy.sent_bytes
    proxy.break_with(method="GET", path=artifact.id, times=2, **fault)
    assert read(service, artifact) == DATA
    if "reset_after" not in fault:  # a reset takes with it what was not read yet
        assert proxy.sent_bytes - before <= len(DATA) + 200_000


def test_a_range_is_exactly_the_range(service: Service, artifact: Artifact) -> None:
    assert read(service, artifact, 1_000_001, 1_500_002) == DATA[1_000_001:1_500_002]


def test_a_server_that_ignores_ranges_delivers_from_the_start(
    service: Service, proxy: FaultProxy, artifact: Artifact
) -> None:
    proxy.break_with(method="GET", path=artifact.id, drop_range=True, times=9)
    assert read(service, artifact, 1_000_000, 1_000_100) == DATA[1_000_000:1_000_100]


def test_retry_after_is_waited_for(service: Service, proxy: FaultProxy, artifact: Artifact) -> None:
    proxy.break_with(
        method="GET", path=artifact.id, status=503, headers={"Retry-After": "1"}, times=1
    )
    started = time.monotonic()
    assert read(service, artifact) == DATA
    assert time.monotonic() - started >= 1


def test_patience_ends(service: Service, proxy: FaultProxy, artifact: Artifact) -> None:
    proxy.break_with(method="GET", path=artifact.id, status=503, times=1000)
    with pytest.raises(Unreachable, match="503"):
        service.downloads.stream(artifact, ByteRange(0, 10), Gathered(10), deadline_s=1)


def test_a_gone_artifact_is_gone_at_once(
    service: Service, proxy: FaultProxy, artifact: Artifact
) -> None:
    proxy.break_with(method="GET", path=artifact.id, status=410, times=9)
    with pytest.raises(Gone):
        read(service, artifact)
    assert proxy.count("GET", artifact.id) == 1


def test_a_cancelled_download_ends_soon(
    service: Service, proxy: FaultProxy, artifact: Artifact
) -> None:
    cancelled = threading.Event()
    proxy.break_with(method="GET", path=artifact.id, stall_after=100_000, times=99)
    threading.Timer(0.2, cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        service.downloads.stream(
            artifact, ByteRange(0, len(DATA)), Gathered(len(DATA)), cancelled=cancelled
        )
    assert time.monotonic() - started < 4


def test_closing_ends_what_hangs(service: Service, proxy: FaultProxy, artifact: Artifact) -> None:
    proxy.break_with(method="GET", path=artifact.id, stall_after=100_000, times=99)
    threading.Timer(0.3, service.close).start()
    started = time.monotonic()
    with pytest.raises(ArtifactfsError):
        read(service, artifact)
    assert time.monotonic() - started < 2


def test_a_name_beyond_latin_1_arrives_as_it_is(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    for name in ("plain.txt", "café.txt", "snow ☃ man.txt", "100% sure.txt", "a/b c.csv", "%41"):
        body = FileBody(path, ByteRange(0, 1))
        assert service.uploads.by_controller(body, name).filename == name


def test_listing_goes_through_all_pages(controller: LocalController, service: Service) -> None:
    names = {f"page-{number}" for number in range(2500)}
    made = [{"filename": name, "text": "same"} for name in names]
    controller.dev("artifacts", {"artifacts": made})
    listed = {one.filename for one in service.artifacts.list()}
    assert names <= listed


@pytest.mark.parametrize("body", [b"<html>", b"5", b'{"x": 1}', b"[" * 100_000])
def test_a_listing_that_makes_no_sense_is_a_bad_answer(
    service: Service, proxy: FaultProxy, body: bytes
) -> None:
    proxy.break_with(method="GET", path="/artifacts", status=200, body=body)
    with pytest.raises(BadAnswer):
        list(service.artifacts.list())


def test_a_new_token_is_read_when_the_old_one_is_refused(
    controller: LocalController, proxy: FaultProxy, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text("flk_old")
    service = Service(proxy.url, TokenSource("file", path=path), HTTP)
    with pytest.raises(TokenRejected):
        service.check()
    path.write_text(controller.token)
    service.check()
    service.close()


def test_a_wrong_token_is_refused_and_never_shown(proxy: FaultProxy) -> None:
    service = Service(proxy.url, TokenSource("t", value=Secret("flk_wrong")), HTTP)
    with pytest.raises(TokenRejected) as caught:
        service.check()
    assert "flk_wrong" not in str(caught.value)
    service.close()


def test_a_service_that_is_not_there_is_said_soon() -> None:
    service = Service("http://127.0.0.1:9", TokenSource("t", value=Secret("x")), HTTP)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        service.check()
    assert time.monotonic() - started < 10
    service.close()


def test_a_service_that_never_answers_times_out(
    proxy: FaultProxy, controller: LocalController
) -> None:
    proxy.break_with(delay_s=30, times=99)
    service = Service(proxy.url, TokenSource("t", value=Secret(controller.token)), HTTP)
    with pytest.raises(TimedOut):
        service.check()
    service.close()


class Elsewhere(BaseHTTPRequestHandler):
    """An object store that remembers what it was sent and answers as it is told."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[dict[str, str]]] = []
    expired = 0

    def log_message(self, *args: object) -> None:
        return

    def do_GET(self) -> None:
        type(self).seen.append({key.lower(): value for key, value in self.headers.items()})
        if type(self).expired:
            type(self).expired -= 1
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, _, last = self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")
        start, stop = int(first), int(last or len(DATA) - 1) + 1
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(DATA[start:stop])

    def do_PUT(self) -> None:
        type(self).seen.append({key.lower(): value for key, value in self.headers.items()})
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def elsewhere() -> Iterator[str]:
    Elsewhere.seen = []
    Elsewhere.expired = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_token_goes_nowhere_but_to_the_service(
    service: Service, proxy: FaultProxy, artifact: Artifact, elsewhere: str, tmp_path: Path
) -> None:
    redirect = {"Location": f"{elsewhere}/blob?signature=s"}
    proxy.break_with(method="GET", path=artifact.id, status=302, headers=redirect, times=9)
    assert read(service, artifact) == DATA
    (tmp_path / "f").write_bytes(b"abc")
    ticket = DirectTicket("a", "PUT", f"{elsewhere}/put", {"X-Own": "1"}, None, None)
    service.uploads.put_direct(ticket, FileBody(tmp_path / "f", ByteRange(0, 3)))
    assert len(Elsewhere.seen) >= 2
    assert all("authorization" not in headers for headers in Elsewhere.seen)
    assert Elsewhere.seen[-1]["x-own"] == "1"


def test_a_redirect_is_remembered_and_asked_for_again_when_it_expires(
    service: Service, proxy: FaultProxy, artifact: Artifact, elsewhere: str
) -> None:
    redirect = {"Location": f"{elsewhere}/blob?signature=s"}
    proxy.break_with(method="GET", path=artifact.id, status=302, headers=redirect, times=9)
    assert read(service, artifact, 0, 10) == DATA[:10]
    assert read(service, artifact, 10, 20) == DATA[10:20]
    assert proxy.count("GET", artifact.id) == 1
    Elsewhere.expired = 1
    assert read(service, artifact, 20, 30) == DATA[20:30]
    assert proxy.count("GET", artifact.id) == 2


def test_a_wrong_range_is_not_passed_on(
    service: Service, proxy: FaultProxy, artifact: Artifact
) -> None:
    wrong = {"Content-Range": f"bytes 0-9/{len(DATA)}"}
    proxy.break_with(
        method="GET", path=artifact.id, status=206, headers=wrong, body=DATA[:10], times=9
    )
    with pytest.raises(BadAnswer, match="asked for"):
        read(service, artifact, 100, 110)


def test_a_content_that_changes_under_way_is_not_mixed(
    service: Service, proxy: FaultProxy, artifact: Artifact
) -> None:
    proxy.break_with(method="GET", path=artifact.id, reset_after=1_000_000)
    other = {"ETag": '"other"', "Content-Range": f"bytes 1000000-1000009/{len(DATA)}"}
    proxy.break_with(
        method="GET", path=artifact.id, status=206, headers=other, body=bytes(10), times=9
    )
    with pytest.raises(BadAnswer):
        read(service, artifact)


@pytest.mark.parametrize("url", ["http://192.168.7.7/x", "http://localhost/x"])
def test_an_external_reference_to_a_private_place_is_refused(url: str) -> None:
    public, private = parse("http://8.8.8.8"), parse("http://127.0.0.1")
    with pytest.raises(Refused):
        AddressGuard(public, allow_private=False).check(parse(url))
    AddressGuard(public, allow_private=True).check(parse(url))
    AddressGuard(private, allow_private=False).check(parse(url))


def test_an_external_reference_is_read_where_it_points(service: Service, elsewhere: str) -> None:
    added = service.artifacts.add_external(
        f"{elsewhere}/big", "big", sha256=hashlib.sha256(DATA).hexdigest(), size_bytes=len(DATA)
    )
    assert read(service, added) == DATA
    assert all("authorization" not in headers for headers in Elsewhere.seen)
