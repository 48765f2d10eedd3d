"""A real controller on loopback, spoken to over real HTTP.

Most tests share one controller for their module and keep apart by accounts: each gets a member of
an account of its own. Those that stop it, or need other options, start their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
import requests

from artifactfs.server.testing import LocalController

_accounts = itertools.count()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Client:
    """One token's view of the service."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self.token = token
        self.session = requests.Session()
        self.session.trust_env = False
        if token is not None:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        url = path if path.startswith("http") else f"{self.url}/api/v1/{path.lstrip('/')}"
        more.setdefault("timeout", 60)
        more.setdefault("allow_redirects", False)
        return self.session.request(method, url, **more)

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.ask("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> requests.Response:
        return self.ask("POST", path, json={} if body is None else body, **more)

    def upload(self, data: bytes, name: str = "a.bin", **headers: str) -> dict[str, Any]:
        answer = self.ask(
            "POST", "artifacts", data=data, headers={"X-Artifact-Filename": name, **headers}
        )
        assert answer.status_code == 201, answer.text
        return answer.json()

    def listed(self, limit: int = 10_000) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"limit": limit}
        while True:
            page = self.get("artifacts", params=params).json()
            found += page["artifacts"]
            if page["next_cursor"] is None:
                return found
            params["cursor"] = page["next_cursor"]

    def begin(self, way: str, data: bytes, name: str = "a.bin", **more: Any) -> dict[str, Any]:
        body = {"sha256": sha256(data), "size": len(data), "filename": name} | more
        answer = self.post(f"artifacts/{way}", body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put_part(self, ticket: dict[str, Any], data: bytes, number: int) -> dict[str, Any]:
        (url,) = [part["url"] for part in ticket["parts"] if part["part_number"] == number]
        start = (number - 1) * ticket["part_size"]
        answer = put(url, data[start : start + ticket["part_size"]])
        assert answer.status_code == 200, answer.text
        return {"part_number": number, "etag": answer.headers["ETag"]}

    def put_parts(self, ticket: dict[str, Any], data: bytes) -> list[dict[str, Any]]:
        return [self.put_part(ticket, data, n + 1) for n in range(ticket["part_count"])]

    def complete(
        self, ticket: dict[str, Any], data: bytes, parts: list[dict[str, Any]]
    ) -> requests.Response:
        body = {"sha256": sha256(data), "size": len(data), "parts": parts}
        return self.post(f"artifacts/multipart/{ticket['upload_id']}/complete", body)

    def close(self) -> None:
        self.session.close()


def put(url: str, data: Any, **headers: str) -> requests.Response:
    """A PUT as an object store gets it: no token, no cookies."""
    with requests.Session() as session:
        session.trust_env = False
        return session.put(url, data=data, headers=headers, timeout=60)


def code_of(answer: requests.Response) -> str:
    """The error's code; what an error has to look like is checked on the way."""
    assert answer.headers["Content-Type"].startswith("application/json")
    document = answer.json()
    assert set(document) == {"error"}
    error = document["error"]
    assert set(error) == {"code", "message", "recommended_action"}
    assert error["code"]
    assert error["message"]
    return str(error["code"])


@contextlib.contextmanager
def raw_connection(url: str) -> Iterator[socket.socket]:
    """A plain connection, for what no client library would send."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        yield connection


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer from a plain connection: status, headers, body."""
    with connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        return status, headers, stream.read(length) if status != 100 else b""


class Stream:
    """An open stream of server-sent events."""

    def __init__(self, client: Client, path: str, **headers: str) -> None:
        self.answer = client.get(path, stream=True, headers=headers, timeout=20)
        self.lines = self.answer.iter_lines(chunk_size=1, decode_unicode=True)
        self.comments = 0
        self.retry: int | None = None
        self.last_id = ""

    def next(self) -> tuple[str, Any] | None:
        """The next event's kind and data; None at the end."""
        kind, data = "message", []
        for line in self.lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line and data:
                return kind, json.loads("\n".join(data))
            if not name and line:
                self.comments += 1
            elif name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                self.last_id = value
            elif name == "retry":
                self.retry = int(value)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalController]:
    with LocalController(
        tmp_path_factory.mktemp("service") / "data", part_size=1 << 20, heartbeat=0.2
    ) as running:
        yield running


@pytest.fixture
def account() -> str:
    """An account that nobody else uses."""
    return f"account-{next(_accounts)}"


@pytest.fixture
def client(controller: LocalController, account: str) -> Iterator[Client]:
    """A member of an account of its own."""
    with contextlib.closing(Client(controller.url, controller.add_token(account))) as member:
        yield member


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., LocalController]]:
    """Starts controllers of one test, with options; each call another directory."""
    with contextlib.ExitStack() as closing:
        numbers = itertools.count()

        def start(**options: object) -> LocalController:
            directory = tmp_path / f"service-{next(numbers)}"
            return closing.enter_context(LocalController(directory, **options))

        yield start


@pytest.fixture
def as_owner() -> Iterator[Callable[[LocalController], Client]]:
    """A client with a controller's own token."""
    with contextlib.ExitStack() as closing:
        yield lambda running: closing.enter_context(
            contextlib.closing(Client(running.url, running.token))
        )
