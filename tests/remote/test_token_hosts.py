"""The token reaches the service and nothing else, by whatever way a URL comes in.

Real sockets listen: the service, and a foreign server that keeps every byte which it is sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from artifactfs.byte_range import ByteRange
from artifactfs.config import HttpConfig
from artifactfs.errors import (
    ArtifactfsError,
    BadAnswer,
    Refused,
    Unreachable,
)
from artifactfs.model import Artifact
from artifactfs.remote import (
    DirectTicket,
    FileBody,
    PartUrl,
    Service,
)
from artifactfs.remote.connection_pool import ConnectionPool
from artifactfs.token import Secret, TokenSource
from tests.fault_proxy import Reply, Scripted, sends
from tests.listening import Listening

from .test_http_connection import PROXIES, Taken, artifact, certified, plain
from .test_wire_artifacts import FULL

__all__ = ["certified"]  # a fixture

TOKEN = "flk_the_token_itself"
HTTP = HttpConfig(connect_timeout_s=5, timeout_s=5, retry_for_s=0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REDIRECTS = (301, 302, 303, 307, 308)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def answers(body: object, *lines: str, status: str = "200 OK") -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    more = "".join(f"{line}\r\n" for line in lines)
    return sends(f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(data)}\r\n\r\n".encode() + data)


class Foreign(Listening):
    """A server that keeps every byte that it gets, and answers each request with `reply`."""

    def __init__(self) -> None:
        super().__init__()
        self.got = b""
        self.reply: Reply = answers(b"", 'ETag: "e"')

    def converse(self, connection: socket.socket) -> None:
        request = b""
        while piece := connection.recv(1 << 16):
            self.got += piece
            request += piece
            if b"\r\n\r\n" in request:
                head = request.partition(b"\r\n\r\n")[0].decode("latin-1")
                if not self.reply(connection, head):
                    return
                request = b""


def redirects_to(url: str, status: int = 302) -> Reply:
    return answers(b"", f"Location: {url}", status=f"{status} X")


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(plain) as running:
        yield running


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    with Foreign() as running:
        yield running


@pytest.fixture(params=["directly", "by the library"])
def service(
    server: Scripted, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    if request.param == "by the library":
        monkeypatch.setattr(ConnectionPool, "speaks_to", lambda *_, **__: False)
    made = Service(server.url, TokenSource("t", value=Secret(TOKEN)), HTTP)
    yield made
    made.close()


@dataclass
class Stage:
    """What a way is given to go through."""

    service: Service
    server: Scripted
    body: FileBody
    hostile: str

    def download(self, *replies: Reply, **known: object) -> None:
        self.server.replies = [*replies]
        found = artifact(**known)
        self.service.downloads.stream(found, ByteRange(0, 10), Taken(), deadline_s=0.0)

    def list(self, first: Reply) -> None:
        self.server.replies = [first, answers({"artifacts": []})]
        list(self.service.artifacts.list(deadline_s=0.0))


@pytest.fixture
def stage(server: Scripted, service: Service, tmp_path: Path) -> Stage:
    (tmp_path / "file").write_bytes(os.urandom(1000))
    return Stage(service, server, FileBody(tmp_path / "file", ByteRange(0, 1000)), "")


def by_redirect(stage: Stage) -> None:
    for status in REDIRECTS:
        with contextlib.suppress(ArtifactfsError):
            stage.download(redirects_to(stage.hostile, status), plain)


def by_second_redirect(stage: Stage) -> None:
    stage.download(redirects_to("/objects/x"), redirects_to(stage.hostile), plain)


def by_reference(stage: Stage) -> None:
    stage.download(redirects_to(stage.hostile), plain, external_url=stage.hostile)


def by_probe(stage: Stage) -> None:
    stage.server.replies = [redirects_to(stage.hostile), redirects_to(stage.hostile), plain]
    stage.service.downloads.probe(
        Artifact("art_1", "f", NOW, NOW, sha256=None, size_bytes=None, external_url=None)
    )


def by_link(stage: Stage) -> None:
    stage.list(answers({"artifacts": []}, f'Link: <{stage.hostile}>; rel="next"'))


def by_next(stage: Stage) -> None:
    stage.list(answers({"artifacts": [], "next": stage.hostile}))


def by_direct_ticket(stage: Stage) -> None:
    stage.server.replies = [
        answers({"status": "upload", "upload_url": stage.hostile, "headers": {"X-Own": "1"}}),
        answers(b""),
    ]
    ticket = stage.service.uploads.start_direct("ab" * 32, 1000, "f")
    assert isinstance(ticket, DirectTicket)
    stage.service.uploads.put_direct(ticket, stage.body)


def by_complete_url(stage: Stage) -> None:
    stage.server.replies = [answers(FULL)]
    ticket = DirectTicket("art_1", "PUT", stage.server.url, {}, stage.hostile, None)
    stage.service.uploads.complete_direct(ticket, "ab" * 32, 1000)


def by_part(stage: Stage) -> None:
    stage.server.replies = [answers(b"", 'ETag: "e"')]
    stage.service.uploads.put_part(PartUrl(1, stage.hostile, {}), stage.body)


def by_redirected_put(stage: Stage) -> None:
    for status in REDIRECTS:
        stage.server.replies = [redirects_to(stage.hostile, status), answers(b"", 'ETag: "e"')]
        with contextlib.suppress(ArtifactfsError):
            stage.service.uploads.put_part(
                PartUrl(1, f"{stage.server.url}/objects/x", {}), stage.body
            )


def by_redirected_call(stage: Stage) -> None:
    for status in REDIRECTS:
        stage.server.replies = [redirects_to(stage.hostile, status), answers(FULL)]
        with contextlib.suppress(ArtifactfsError):
            stage.service.jobs.job("j", deadline_s=0.0)
        with contextlib.suppress(ArtifactfsError):
            stage.service.uploads.by_controller(stage.body, "f")
        with contextlib.suppress(ArtifactfsError):
            stage.service.jobs.project_stream("p").probe()


WAYS: list[Callable[[Stage], None]] = [
    by_redirect, by_second_redirect, by_reference, by_probe, by_link, by_next, by_direct_ticket,
    by_complete_url, by_part, by_redirected_put, by_redirected_call,
]  # fmt: skip

HOSTILE = [
    "http://{foreign}/api/v1/x",
    "//{foreign}/api/v1/x",
    "http://{foreign}\\@{service}/api/v1/x",
    "http://{service}\\@{foreign}/api/v1/x",
    "http:\\\\{foreign}\\@{service}/api/v1/x",
    "//{foreign}\\@{service}/api/v1/x",
    "/\\{foreign}/api/v1/x",
    "http://{service}@{foreign}/api/v1/x",
    "http://{foreign}@{service}/api/v1/x",
    "http://{foreign}#@{service}/api/v1/x",
    "http://{foreign}?@{service}/api/v1/x",
    "http://{foreign}/@{service}/api/v1/x",
    "http://{foreign};@{service}/api/v1/x",
    "http://{foreign}%23@{service}/api/v1/x",
    "http://{foreign}\t@{service}/api/v1/x",
    "http://{foreign} @{service}/api/v1/x",
    "http://{foreign}\xa0@{service}/api/v1/x",
    "http://[::ffff:127.0.0.1]:{port}/api/v1/x",
    "http://0x7f.0.0.1:{port}/api/v1/x",
    "http://2130706433:{port}/api/v1/x",
    "http://localhost:{port}/api/v1/x",
    "HTTP://LOCALHOST.:{port}/api/v1/x",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_token_never_reaches_a_foreign_host(
    stage: Stage, server: Scripted, foreign: Foreign, way: Callable[[Stage], None], hostile: str
) -> None:
    stage.hostile = hostile.format(
        foreign=f"127.0.0.1:{foreign.port}", service=f"127.0.0.1:{server.port}", port=foreign.port
    )
    with contextlib.suppress(ArtifactfsError):
        way(stage)
    assert TOKEN.encode() not in foreign.got
    assert b"uthorization" not in foreign.got


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_is_one(stage: Stage, server: Scripted, way: Callable[[Stage], None]) -> None:
    """The ways do bring a URL in: each asks the service for what is named."""
    stage.hostile = f"{server.url}/api/v1/named"
    with contextlib.suppress(ArtifactfsError):
        way(stage)
    asked = [head.split(" ")[1] for head in server.heads]
    assert ("/api/v1/named" in asked) is (way is not by_redirected_call)


# A chain of redirects


def read(service: Service, **known: object) -> None:
    service.downloads.stream(artifact(**known), ByteRange(0, 10), Taken(), deadline_s=0.0)


def carried(heads: list[str]) -> list[bool]:
    return [TOKEN in head for head in heads]


@pytest.mark.parametrize("target", ["/api/v1/artifacts/other", "/api/v1/artifacts/art_1"])
def test_a_store_that_redirects_back_gets_nothing_fetched_with_the_token(
    service: Service, server: Scripted, foreign: Foreign, target: str
) -> None:
    foreign.reply = redirects_to(f"{server.url}{target}")
    server.replies = [redirects_to(f"{foreign.url}/x"), plain]
    read(service)
    assert carried(server.heads) == [True, False]
    read(service)  # the target that is remembered
    assert carried(server.heads) == [True, False, False]
    assert TOKEN.encode() not in foreign.got


@pytest.mark.parametrize("target", ["/api/v1/artifacts/other", "/api/v1/artifacts/art_1"])
def test_a_reference_that_leads_back_gets_nothing_fetched_with_the_token(
    service: Service, server: Scripted, target: str
) -> None:
    server.replies = [redirects_to(f"{server.url}{target}"), plain]
    read(service, external_url=f"{server.url}{target}")
    assert carried(server.heads) == [True, False]


def test_a_redirect_within_the_api_takes_the_token_along(
    service: Service, server: Scripted
) -> None:
    server.replies = [redirects_to("/api/v1/contents/x"), redirects_to("y"), plain]
    read(service)
    assert [head.split(" ")[1] for head in server.heads[1:]] == [
        "/api/v1/contents/x", "/api/v1/contents/y",
    ]  # fmt: skip
    assert carried(server.heads) == [True, True, True]


@pytest.mark.parametrize(
    "path",
    ["/objects/x?signature=s", "/api/../objects/x", "/api/%2e%2e/objects/x", "//api/v1/x",
     "/api/..%2fobjects/x", "/API/v1/x", "/apis/x"],
)  # fmt: skip
def test_a_store_on_the_origin_of_the_service_gets_no_token_nor_what_it_redirects_to(
    service: Service, server: Scripted, path: str
) -> None:
    server.replies = [redirects_to(f"{server.url}{path}"), redirects_to("/api/v1/x"), plain]
    read(service)
    assert carried(server.heads) == [True, False, False]


def test_a_redirect_is_resolved_against_the_answer_that_carried_it(
    service: Service, server: Scripted, foreign: Foreign
) -> None:
    foreign.reply = redirects_to("/api/v1/x")
    server.replies = [redirects_to(f"{foreign.url}/x")]
    with pytest.raises(BadAnswer, match="redirects"):
        read(service)
    assert len(server.heads) == 1
    assert b"GET /api/v1/x" in foreign.got
    assert TOKEN.encode() not in foreign.got


def test_a_redirect_from_https_to_http_is_refused(
    certified: tuple[object, Path], foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certified[1]))
    with Scripted(redirects_to(f"{foreign.url}/x"), tls=certified[0]) as server:  # type: ignore[arg-type]
        made = Service(server.url, TokenSource("t", value=Secret(TOKEN)), HTTP)
        with pytest.raises(BadAnswer, match="https to http"):
            read(made)
        made.close()
    assert foreign.got == b""


# Redirects that are no success


@pytest.mark.parametrize("status", [301, 308])
def test_a_service_that_has_moved_names_the_url_to_set(
    service: Service, server: Scripted, status: int
) -> None:
    moved = "https://new.example/base/api/v1/artifacts?limit=1"
    server.replies = [redirects_to(moved, status)]
    with pytest.raises(Refused, match=r"moved to https://new\.example/base ") as caught:
        service.check()
    assert "set url to https://new.example/base" in caught.value.remedy
    assert len(server.heads) == 1


@pytest.mark.parametrize("status", [302, 303, 307])
def test_a_call_that_is_redirected_for_a_while_is_no_success(
    service: Service, server: Scripted, stage: Stage, status: int
) -> None:
    server.replies = [redirects_to("http://login.example/", status)]
    with pytest.raises(Unreachable, match=r"login\.example"):
        service.jobs.output("j", deadline_s=0.0)
    with pytest.raises(Unreachable, match=r"login\.example"):
        service.uploads.by_controller(stage.body, "f")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 399])
def test_no_other_answer_of_3xx_is_a_success(
    service: Service, server: Scripted, stage: Stage, status: int
) -> None:
    server.replies = [answers(b"x", status=f"{status} X")]
    with pytest.raises(ArtifactfsError):
        service.uploads.put_part(PartUrl(1, f"{server.url}/x", {}), stage.body)
    with pytest.raises(ArtifactfsError):
        service.jobs.output("j", deadline_s=0.0)
    with pytest.raises(ArtifactfsError):
        read(service)
    with pytest.raises(ArtifactfsError):
        service.uploads.by_controller(stage.body, "f")


@pytest.mark.parametrize("status", [307, 308])
def test_a_put_that_is_redirected_is_sent_there_once(
    service: Service, server: Scripted, stage: Stage, status: int
) -> None:
    with Scripted(answers(b"", 'ETag: "e"')) as store:
        server.replies = [redirects_to(f"{store.url}/there", status)]
        part = PartUrl(1, f"{server.url}/objects/x", {"X-Own": "1"})
        assert service.uploads.put_part(part, stage.body) == '"e"'
        assert store.bodies == [stage.body.path.read_bytes()]
        assert "X-Own: 1" in store.heads[0]
        store.replies = [redirects_to("/again", status)]
        with pytest.raises(Refused, match="/again"):
            service.uploads.put_part(part, stage.body)
        assert len(store.heads) == 2
        assert not any(carried(store.heads + server.heads))


# What else could carry it


def test_no_cookie_goes_anywhere(service: Service, server: Scripted, foreign: Foreign) -> None:
    """Cookies know hosts, not ports."""
    foreign.reply = plain
    cookie = "Set-Cookie: session=of-the-service; Path=/"
    redirect = f"Location: {foreign.url}/x"
    server.replies = [
        answers({"artifacts": []}, cookie),
        answers(b"", cookie, redirect, status="302 X"),
    ]
    service.check()
    read(service)
    assert b"of-the-service" not in foreign.got
    assert not any("ookie" in head for head in server.heads)


def test_a_proxy_is_the_only_one_to_see_its_password(
    service: Service, server: Scripted, foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the user sends through a proxy in clear it may read; where it leads gets no token."""
    foreign.reply = plain
    with Scripted(redirects_to(f"http://localhost:{foreign.port}/x"), plain) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:hidden@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "localhost")
        read(service)
        assert carried(proxy.heads) == [True]
        assert "Proxy-Authorization: Basic" in proxy.heads[0]
    assert b"GET /x" in foreign.got
    assert b"uthorization" not in foreign.got
    assert server.heads == []


@pytest.mark.parametrize("name", ["next", "Link"])
def test_a_next_page_of_the_service_is_asked_for_with_the_token(
    service: Service, server: Scripted, name: str
) -> None:
    following = f"{server.url}/api/v1/artifacts?page=2"
    first = (
        answers({"artifacts": [], "next": following})
        if name == "next"
        else answers({"artifacts": []}, f'Link: <{following}>; rel="next"')
    )
    server.replies = [first, answers({"artifacts": []})]
    assert list(service.artifacts.list()) == []
    assert server.heads[1].startswith("GET /api/v1/artifacts?page=2 ")
    assert carried(server.heads) == [True, True]


def test_a_next_page_elsewhere_is_refused(
    service: Service, server: Scripted, foreign: Foreign
) -> None:
    server.replies = [answers({"artifacts": [], "next": f"{foreign.url}/api/v1/artifacts"})]
    with pytest.raises(BadAnswer, match="next page"):
        list(service.artifacts.list())
    assert foreign.got == b""
