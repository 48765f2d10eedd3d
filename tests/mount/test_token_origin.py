"""The token is sent to the service and to no other origin, by whatever command, in any spelling.

The service keeps its bytes at an object store with a port of its own and redirects downloads there;
uploads go there by signed URLs. An artifact can be a reference to a third server, or a download be
redirected over it. Every byte of every process is recorded.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from artifactfs.server.testing import LocalController
from tests.fault_proxy import Answer, FaultProxy, Request, answer
from tests.recorder import Recorder, can_record

from .conftest import BINDINGS, ServiceClient, UserMount, _force_away

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not can_record(), reason="only root may record packets"),
]

SMALL, LARGE = b"a,b\n1,2\n" * 10, os.urandom(1 << 20) * 12
PART_BYTES = 5 << 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def third(_request: Request) -> Answer:
    return answer(200, {"Content-Type": "text/csv"}, SMALL)


@dataclass
class World:
    """A user, the service, and other origins.

    `origins` are the ports that the token may go to, `used` others that must have been asked.
    """

    user: UserMount
    service: ServiceClient
    store_port: int
    elsewhere: FaultProxy
    origins: set[int]
    used: set[int] = field(default_factory=set)


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recorded(tmp_path: Path, binding: str) -> Iterator[World]:
    """The world; when a test has ended, the token has been sent to the service only."""
    home = tmp_path / "user"
    home.mkdir()
    with Recorder() as recorder:
        store_port = free_port()
        options = {"redirect_downloads": True, "objects_port": store_port, "part_size": PART_BYTES}
        with (
            LocalController(tmp_path / "service", **options) as controller,
            FaultProxy(third) as elsewhere,
        ):
            user = UserMount(home, controller.url, controller.token, binding)
            service = ServiceClient(controller.url, controller.add_token())
            origins = {port_of(controller.url)}
            world = World(user, service, store_port, elsewhere, origins)
            try:
                yield world
            finally:
                _force_away(user)
    assert recorder.ports_that_got(world.user.token) == world.origins
    assert world.used <= recorder.ports


def test_commands_without_a_mount(recorded: World) -> None:
    user, service = recorded.user, recorded.service
    recorded.used.add(recorded.store_port)
    service.upload("there.csv", SMALL)
    assert "there.csv" in user.command("ls").stdout
    user.command("get", "there.csv", "-o", user.home / "got.csv")
    assert (user.home / "got.csv").read_bytes() == SMALL
    for name, data in (("small", SMALL), ("large", LARGE)):
        (user.home / name).write_bytes(data)
        user.command("put", user.home / name)
        assert service.content(service.named(name)[0]["id"]) == data


def test_a_mount_that_is_read_and_dropped_into(recorded: World) -> None:
    user, service = recorded.user, recorded.service
    recorded.used |= {recorded.store_port, recorded.elsewhere.port}
    service.upload("there.bin", LARGE)
    outside = {"url": f"{recorded.elsewhere.url}/outside.csv", "filename": "outside.csv"}
    service.post("artifacts/external", outside)
    user.settings = {"list.ttl": "0", "drop.linger": "0"}
    user.mount()
    assert (user.path / "artifacts/there.bin").read_bytes() == LARGE
    assert (user.path / "artifacts/outside.csv").read_bytes() == SMALL
    (user.path / "drop/small.csv").write_bytes(SMALL)
    (user.path / "drop/large.bin").write_bytes(LARGE)
    user.settle()
    assert service.content(service.named("large.bin")[0]["id"]) == LARGE
    user.unmount()


@pytest.mark.parametrize("way", ["away", "and back"])
def test_a_redirect_to_another_origin(recorded: World, way: str) -> None:
    """The token is not sent after the first hop elsewhere, not even on the way back."""
    user, service, elsewhere = recorded.user, recorded.service, recorded.elsewhere
    path = f"/artifacts/{service.upload('detour.csv', SMALL)['id']}"
    recorded.used.add(elsewhere.port)
    with FaultProxy(service.url) as front:
        recorded.origins = {front.port, port_of(service.url)}
        there = {"Location": f"{elsewhere.url}/hop"}
        front.break_with(method="GET", path=path, status=302, headers=there, times=1)
        front.break_with(method="GET", path="/back", status=200, body=SMALL, times=-1)
        if way == "and back":
            back = {"Location": f"{front.url}/back"}
            elsewhere.break_with(path="/hop", status=307, headers=back, times=-1)
        user.url = front.url
        user.command("get", "detour.csv", "-o", user.home / "got.csv")
        assert elsewhere.count("GET", "/hop")
        backwards = [one for one in front.requests if one.path == "/back"]
    assert (user.home / "got.csv").read_bytes() == SMALL
    assert all("authorization" not in one.headers for one in backwards)
    assert bool(backwards) == (way == "and back")
