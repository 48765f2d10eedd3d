"""Tokens, roles and accounts; and how every error looks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

import pytest
import requests

from artifactfs.server.testing import LocalController
from tests.server.conftest import Client, code_of, raw_connection, read_answer

READING = ["artifacts", "jobs", "projects"]


@pytest.fixture
def viewer(controller: LocalController, account: str) -> Iterator[Client]:
    token = controller.add_token(account, "viewer")
    with contextlib.closing(Client(controller.url, token)) as client:
        yield client


@pytest.fixture
def stranger(controller: LocalController, account: str) -> Iterator[Client]:
    token = controller.add_token(f"not-{account}")
    with contextlib.closing(Client(controller.url, token)) as client:
        yield client


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic dTpw", "Bearer \xe9\xff"]
)
def test_without_a_valid_token_every_call_is_401(
    controller: LocalController, header: str | None
) -> None:
    with contextlib.closing(Client(controller.url, None)) as nobody:
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        for path in (*READING, "artifacts/x", "jobs/x", "results/x", "_dev/jobs"):
            method = "POST" if path.startswith("_") else "GET"
            answer = nobody.ask(method, path, headers=headers)
            assert (answer.status_code, code_of(answer)) == (401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_health_index_and_docs_need_no_token(controller: LocalController) -> None:
    with contextlib.closing(Client(controller.url, None)) as nobody:
        assert nobody.get(f"{controller.url}/health").status_code == 200
        assert nobody.get(f"{controller.url}/api/v1").json()["version"] == "v2"
        docs = nobody.get("docs")
        assert docs.status_code == 200
        assert "GET /api/v1/artifacts" in docs.json()["calls"]


def test_a_viewer_reads_and_writes_nothing(client: Client, viewer: Client) -> None:
    artifact = client.upload(b"seen")
    ticket = client.begin("multipart", b"not yet there")
    assert viewer.listed() == [artifact]
    assert viewer.get(f"artifacts/{artifact['id']}").content == b"seen"
    upload = f"artifacts/multipart/{ticket['upload_id']}"
    assert viewer.get(upload).status_code == 200
    for answer in (
        viewer.ask("POST", "artifacts", data=b"x"),
        viewer.post("artifacts/direct", {"sha256": "0" * 64, "size": 1, "filename": "a"}),
        viewer.post("artifacts/multipart", {"sha256": "0" * 64, "size": 1, "filename": "a"}),
        viewer.post("artifacts/external", {"url": "http://example.org/", "filename": "a"}),
        viewer.post(f"{upload}/parts", {"part_numbers": [1]}),
        viewer.post(f"{upload}/complete", {"parts": []}),
        viewer.ask("DELETE", upload),
    ):
        assert (answer.status_code, code_of(answer)) == (403, "forbidden")


def test_another_accounts_artifact_is_403_and_not_listed(client: Client, stranger: Client) -> None:
    artifact = client.upload(b"mine")
    for method in ("GET", "HEAD"):
        assert stranger.ask(method, f"artifacts/{artifact['id']}").status_code == 403
    assert code_of(stranger.get(f"artifacts/{artifact['id']}")) == "forbidden"
    assert stranger.listed() == []


def test_dev_is_for_the_services_own_token_and_devs_only(
    controller: LocalController, client: Client
) -> None:
    for path in ("artifacts", "tokens", "jobs", "clean", "jobs/x/tasks"):
        answer = client.post(f"_dev/{path}")
        assert (answer.status_code, code_of(answer)) == (403, "forbidden")
    token = controller.add_token("elsewhere", "dev")
    with contextlib.closing(Client(controller.url, token)) as dev:
        assert dev.post("_dev/clean").status_code == 200
        assert dev.post("_dev/artifacts", {"count": 2}).status_code == 201
        assert len(dev.listed()) == 2


def test_a_token_that_was_removed_is_refused(controller: LocalController) -> None:
    token = controller.add_token()
    with contextlib.closing(Client(controller.url, token)) as client:
        assert client.get("artifacts").status_code == 200
        controller.remove_token(token)
        assert client.get("artifacts").status_code == 401


def test_tokens_stay_over_a_restart_and_are_not_kept_in_the_clear(
    own: Callable[..., LocalController],
) -> None:
    running = own()
    token = running.add_token("kept", "viewer")
    running.stop()
    for path in running.data.glob("index.sqlite*"):
        assert token.encode() not in path.read_bytes()
    running.start()
    with contextlib.closing(Client(running.url, token)) as client:
        assert client.get("artifacts").status_code == 200
        assert client.ask("POST", "artifacts", data=b"x").status_code == 403


@pytest.mark.parametrize("wrong", [{"role": "root"}, {"role": 1}])
def test_a_role_that_does_not_exist_is_refused(
    controller: LocalController, as_owner: Callable[..., Client], wrong: dict[str, object]
) -> None:
    answer = as_owner(controller).post("_dev/tokens", {"token": "x"} | wrong)
    assert (answer.status_code, code_of(answer)) == (422, "invalid_field")


def test_the_services_own_token_stays_what_it_is(
    controller: LocalController, as_owner: Callable[..., Client]
) -> None:
    owner = as_owner(controller)
    body = {"token": controller.token, "role": "viewer"}
    assert owner.post("_dev/tokens", body).status_code == 422
    assert owner.ask("DELETE", "_dev/tokens", json=body).status_code == 422
    assert owner.post("_dev/clean").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v2", 404),
        ("DELETE", "/api/v1/artifacts/x", 405),
        ("PUT", "/api/v1/artifacts", 405),
        ("GET", "/objects/nothing", 404),
        ("GET", "/api/v1/artifacts/a/b/c", 404),
        ("PROPFIND", "/api/v1/artifacts", 405),
    ],
)
def test_what_is_no_call_is_an_error_in_the_contracts_words(
    client: Client, method: str, path: str, status: int
) -> None:
    answer = client.ask(method, client.url + path)
    assert answer.status_code == status
    code_of(answer)
    if status == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"1", b"\xff", b'"x"', b"[" * 100_000, b'{"a": ' + b"9" * 6000 + b"}"]
)
def test_a_body_that_is_no_json_object_is_400(client: Client, body: bytes) -> None:
    answer = client.ask("POST", "artifacts/direct", data=body)
    assert (answer.status_code, code_of(answer)) == (400, "invalid_json")


def test_a_json_body_that_is_too_large_is_413(client: Client) -> None:
    answer = client.ask("POST", "artifacts/direct", data=b" " * (9 << 20))
    assert (answer.status_code, code_of(answer)) == (413, "too_large")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
    ],
)
def test_what_is_no_http_is_an_error_in_the_contracts_words(
    controller: LocalController, request_bytes: bytes
) -> None:
    with raw_connection(controller.url) as connection:
        connection.sendall(request_bytes)
        status, _, body = read_answer(connection)
        assert connection.recv(1) == b""
    assert status == 400
    assert set(json.loads(body)["error"]) == {"code", "message", "recommended_action"}


def test_an_error_does_not_use_up_the_connection(client: Client) -> None:
    for _ in range(3):
        answer = client.ask("POST", "artifacts/direct", data=b"{" * 1000)
        assert answer.status_code == 400
        assert "Connection" not in answer.headers
    assert requests.get(f"{client.url}/health", timeout=5).status_code == 200
