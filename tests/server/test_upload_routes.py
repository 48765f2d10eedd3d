"""Direct and multipart uploads, as a client goes through them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from artifactfs.server.testing import LocalController
from tests.helpers import wait_until
from tests.server.conftest import (
    Client,
    code_of,
    put,
    raw_connection,
    sha256,
)

MIB = 1 << 20
OCTETS = {"Content-Type": "application/octet-stream"}
_random = random.Random(5)


def some(size: int) -> bytes:
    """Bytes that no other test has."""
    return _random.randbytes(size)


def files_of(controller: LocalController, upload_id: str) -> list[str]:
    directory = controller.data / "uploads" / upload_id
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def send_direct(client: Client, data: bytes, name: str = "a.bin") -> dict[str, Any]:
    ticket = client.begin("direct", data, name)
    assert put(ticket["upload_url"], data, **ticket["headers"]).status_code == 200
    answer = client.post(ticket["complete_url"].removeprefix("/api/v1/"), _what(data))
    assert answer.status_code == 201, answer.text
    return answer.json()


def _what(data: bytes) -> dict[str, Any]:
    return {"sha256": sha256(data), "size": len(data)}


@pytest.mark.parametrize("size", [0, 1, 400_000, 3 * MIB + 1])
def test_a_direct_upload_becomes_an_artifact(client: Client, size: int) -> None:
    data = some(size)
    ticket = client.begin("direct", data, "d.bin")
    assert ticket["status"] == "upload"
    assert ticket["method"] == "PUT"
    assert ticket["upload_url"].startswith("http://")
    assert ticket["headers"] == OCTETS
    assert ticket["complete_url"] == f"/api/v1/artifacts/direct/{ticket['artifact_id']}/complete"
    sent = put(ticket["upload_url"], data, **ticket["headers"])
    assert sent.status_code == 200
    assert sent.headers["ETag"].startswith('"')
    answer = client.post(ticket["complete_url"].removeprefix("/api/v1/"), _what(data))
    assert answer.status_code == 201
    artifact = answer.json()
    assert artifact["id"] == ticket["artifact_id"]
    assert (artifact["filename"], artifact["sha256"]) == ("d.bin", sha256(data))
    assert client.get(f"artifacts/{artifact['id']}").content == data
    again = client.post(ticket["complete_url"].removeprefix("/api/v1/"), _what(data))
    assert again.json() == artifact
    assert client.listed() == [artifact]


def test_a_direct_upload_of_another_content_is_refused(client: Client) -> None:
    data = some(1000)
    ticket = client.begin("direct", data)
    put(ticket["upload_url"], data[::-1], **OCTETS)
    path = ticket["complete_url"].removeprefix("/api/v1/")
    answer = client.post(path, _what(data))
    assert answer.status_code == 422
    assert code_of(answer) == "sha256_mismatch"
    assert client.listed() == []
    assert client.post(path, _what(data)).status_code == 404


def test_a_direct_upload_that_has_not_come_is_not_complete(client: Client) -> None:
    data = some(1000)
    ticket = client.begin("direct", data)
    answer = client.post(ticket["complete_url"].removeprefix("/api/v1/"), _what(data))
    assert answer.status_code == 422
    assert code_of(answer) == "incomplete"
    put(ticket["upload_url"], data, **OCTETS)
    answer = client.post(ticket["complete_url"].removeprefix("/api/v1/"), _what(data))
    assert answer.status_code == 201


def test_a_completion_that_says_something_else_is_refused(client: Client) -> None:
    data = some(1000)
    ticket = client.begin("direct", data)
    put(ticket["upload_url"], data, **OCTETS)
    path = ticket["complete_url"].removeprefix("/api/v1/")
    other = client.post(path, _what(b"x") | {"size": 1000})
    assert (other.status_code, code_of(other)) == (422, "sha256_mismatch")
    size = client.post(path, _what(data) | {"size": 1})
    assert (size.status_code, code_of(size)) == (422, "size_mismatch")
    assert client.post(path, _what(data)).status_code == 201


@pytest.mark.parametrize("wrong", [999, 1001, 0])
def test_a_put_of_another_size_is_refused(client: Client, wrong: int) -> None:
    ticket = client.begin("direct", some(1000))
    answer = put(ticket["upload_url"], bytes(wrong), **OCTETS)
    assert answer.status_code == 400
    assert code_of(answer) == "wrong_size"


def test_a_put_without_the_headers_that_came_with_the_url_is_refused(client: Client) -> None:
    data = some(1000)
    ticket = client.begin("direct", data)
    answer = put(ticket["upload_url"], data)
    assert answer.status_code == 403
    assert code_of(answer) == "signature_mismatch"


@pytest.mark.parametrize("way", ["direct", "multipart"])
@pytest.mark.parametrize("name", ["one", "two", ""])
def test_a_content_that_is_there_becomes_a_new_artifact_without_being_sent(
    client: Client, way: str, name: str
) -> None:
    data = some(1000)
    first = client.upload(data, "one")
    before = datetime.now(UTC)
    answer = client.begin(way, data, name)
    assert answer["status"] == "exists"
    made = answer["artifact"]
    assert made["id"] != first["id"]
    assert made["filename"] == (name or made["id"])
    assert made["job_id"] is None
    created, expires = times(made)
    assert before <= created <= datetime.now(UTC)
    assert expires - created == times(first)[1] - times(first)[0]
    assert client.get(f"artifacts/{made['id']}").content == data
    assert [one["id"] for one in client.listed()] == [made["id"], first["id"]]


@pytest.mark.parametrize("way", ["plain", "direct", "multipart"])
def test_a_revert_is_the_newest_of_its_name(client: Client, way: str) -> None:
    old, new = some(1000), some(1001)
    client.upload(old, "a")
    client.upload(new, "a")
    client.upload(old, "a") if way == "plain" else client.begin(way, old, "a")
    listed = client.listed()
    assert max(listed, key=lambda one: times(one)[0])["sha256"] == sha256(old)
    assert [one["size"] for one in listed] == [1000, 1001, 1000]


def test_many_uploads_of_one_content_are_as_many_artifacts_each_later(client: Client) -> None:
    data = some(1000)
    client.upload(data, "a")
    ways = ["plain", "direct", "multipart"] * 20

    def bring(way: str) -> str:
        one = Client(client.url, client.token)
        try:
            if way == "plain":
                return str(one.upload(data, "a")["id"])
            return str(one.begin(way, data, "a")["artifact"]["id"])
        finally:
            one.close()

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(bring, ways))
    assert len(ids) == len(ways)
    moments = [times(one)[0] for one in client.listed()]
    assert len(set(moments)) == len(ways) + 1
    assert moments == sorted(moments, reverse=True)


def test_an_upload_that_is_not_complete_is_no_content(client: Client) -> None:
    data = some(1000)
    ticket = client.begin("direct", data)
    put(ticket["upload_url"], data)
    assert client.begin("direct", data)["status"] == "upload"


def test_an_expired_content_has_to_be_sent(controller: LocalController, client: Client) -> None:
    data = some(1000)
    made = client.upload(data, "a")
    controller.dev(f"artifacts/{made['id']}", {"expires_in_s": -1})
    assert client.begin("direct", data, "a")["status"] == "upload"


def test_what_exists_stays_while_contents_are_let_go(
    controller: LocalController, client: Client
) -> None:
    """Whatever is answered with `exists` can be read, also if the old artifact expires then."""
    data = some(1000)

    def bring() -> str:
        one = Client(client.url, client.token)
        try:
            answer = one.begin("direct", data, "a")
            found = one.upload(data, "a") if answer["status"] == "upload" else answer["artifact"]
            return str(found["id"])
        finally:
            one.close()

    last = client.upload(data, "a")["id"]
    for _ in range(10):
        with ThreadPoolExecutor(3) as pool:
            brought = pool.submit(bring)
            controller.dev(f"artifacts/{last}", {"expires_in_s": -1})
            controller.dev("clean", {})
            last = brought.result()
        assert client.get(f"artifacts/{last}").content == data


def test_a_content_that_was_never_read_stays_for_its_second_artifact(
    controller: LocalController,
) -> None:
    data = some(1003)
    first, second = (controller.make_artifact("seed", data) for _ in range(2))
    controller.dev(f"artifacts/{first}", {"expires_in_s": -1})
    controller.dev("clean", {})
    owner = Client(controller.url, controller.token)
    try:
        assert owner.get(f"artifacts/{second}").content == data
    finally:
        owner.close()


def times(artifact: dict[str, Any]) -> tuple[datetime, datetime]:
    created, expires = artifact["created_at"], artifact["expires_at"]
    return datetime.fromisoformat(created), datetime.fromisoformat(expires)


def test_another_accounts_content_has_to_be_sent(
    controller: LocalController, client: Client
) -> None:
    """Else knowing a hash would be enough to read a content."""
    data = some(1000)
    client.upload(data)
    stranger = Client(controller.url, controller.add_token("stranger"))
    try:
        assert stranger.begin("direct", data)["status"] == "upload"
    finally:
        stranger.close()


def test_a_known_content_with_another_size_is_a_mistake(client: Client) -> None:
    data = some(1000)
    client.upload(data)
    body = {"sha256": sha256(data), "size": 999, "filename": "a"}
    answer = client.post("artifacts/direct", body)
    assert answer.status_code == 422
    assert code_of(answer) == "size_mismatch"


@pytest.mark.parametrize("way", ["direct", "multipart"])
@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"sha256": "x"}, 422),
        ({"sha256": None}, 422),
        ({"size": -1}, 422),
        ({"size": True}, 422),
        ({"size": 1.5}, 422),
        ({"filename": None}, 422),
        ({"size": 1 << 61}, 413),
    ],
)
def test_an_upload_that_cannot_be_is_refused(
    client: Client, way: str, wrong: dict[str, Any], status: int
) -> None:
    body = {"sha256": "0" * 64, "size": 1, "filename": "a"} | wrong
    answer = client.post(f"artifacts/{way}", body)
    assert answer.status_code == status
    assert code_of(answer) == ("too_large" if status == 413 else "invalid_field")


@pytest.mark.parametrize("size", [0, 5, MIB, 3 * MIB + 5])
def test_a_multipart_upload_becomes_an_artifact(client: Client, size: int) -> None:
    data = some(size)
    ticket = client.begin("multipart", data, "m.bin")
    count = max(1, -(-size // MIB))
    assert ticket["status"] == "upload"
    assert ticket["upload_id"].startswith("mpu_")
    assert (ticket["part_size"], ticket["part_count"]) == (MIB, count)
    assert [part["part_number"] for part in ticket["parts"]] == list(range(1, count + 1))
    answer = client.complete(ticket, data, client.put_parts(ticket, data))
    assert answer.status_code == 201, answer.text
    assert answer.json()["id"] == ticket["artifact_id"]
    assert client.get(f"artifacts/{ticket['artifact_id']}").content == data


def test_parts_come_in_any_order_at_once_and_again(
    controller: LocalController, client: Client
) -> None:
    data = some(7 * MIB + 11)
    ticket = client.begin("multipart", data)
    numbers = [*range(1, 9), 3, 5, 5, 1]
    _random.shuffle(numbers)
    with ThreadPoolExecutor(6) as pool:
        etags = {
            part["part_number"]: part
            for part in pool.map(lambda number: client.put_part(ticket, data, number), numbers)
        }
    answer = client.complete(ticket, data, [etags[number] for number in range(1, 9)])
    assert answer.status_code == 201, answer.text
    assert client.get(f"artifacts/{ticket['artifact_id']}").content == data
    assert files_of(controller, ticket["upload_id"]) == []


def test_a_part_that_comes_again_takes_the_place_of_the_first(
    controller: LocalController, client: Client
) -> None:
    data = some(3 * MIB)
    wrong = data[:MIB] + some(MIB) + data[2 * MIB :]
    ticket = client.begin("multipart", data)
    told_wrong = client.put_parts(ticket, wrong)
    told = [told_wrong[0], client.put_part(ticket, data, 2), told_wrong[2]]
    assert told[1] != told_wrong[1]
    old = client.complete(ticket, data, told_wrong)
    assert (old.status_code, code_of(old)) == (422, "invalid_parts")
    assert client.complete(ticket, data, told).status_code == 201
    assert client.get(f"artifacts/{ticket['artifact_id']}").content == data


def test_a_part_that_comes_again_and_breaks_off_leaves_the_first(
    controller: LocalController, client: Client
) -> None:
    data = some(2 * MIB)
    ticket = client.begin("multipart", data)
    told = client.put_parts(ticket, data)
    url = urlsplit(ticket["parts"][0]["url"])
    with raw_connection(client.url) as connection:
        connection.sendall(
            f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: {MIB}\r\n\r\n".encode()
            + bytes(MIB // 2)
        )
        wait_until(lambda: len(files_of(controller, ticket["upload_id"])) == 2)
    wait_until(lambda: files_of(controller, ticket["upload_id"]) == ["data"])
    assert client.complete(ticket, data, told).status_code == 201
    assert client.get(f"artifacts/{ticket['artifact_id']}").content == data


def test_whoever_was_first_with_a_part_and_is_slow_cannot_spoil_what_is_complete(
    client: Client,
) -> None:
    """The slow one is still sending other bytes when the upload has been completed."""
    data = some(2 * MIB)
    ticket = client.begin("multipart", data)
    url = urlsplit(ticket["parts"][0]["url"])
    with raw_connection(client.url) as slow:
        slow.sendall(
            f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: {MIB}\r\n\r\n".encode()
            + bytes(MIB // 4)
        )
        assert client.complete(ticket, data, client.put_parts(ticket, data)).status_code == 201
        slow.sendall(bytes(MIB - MIB // 4))
        assert slow.recv(100).startswith(b"HTTP/1.1 404 ")
    assert client.get(f"artifacts/{ticket['artifact_id']}").content == data


def test_the_first_urls_come_with_the_ticket_more_when_asked(client: Client) -> None:
    data = some(20 * MIB)
    ticket = client.begin("multipart", data)
    assert ticket["part_count"] == 20
    assert len(ticket["parts"]) < 20
    path = f"artifacts/multipart/{ticket['upload_id']}/parts"
    more = client.post(path, {"part_numbers": list(range(1, 21))}).json()["parts"]
    assert [part["part_number"] for part in more] == list(range(1, 21))
    for wrong in ([0], [21], ["1"], [True], "1", None):
        answer = client.post(path, {"part_numbers": wrong})
        assert (answer.status_code, code_of(answer)) == (422, "invalid_field")
    ticket["parts"] = more
    assert client.complete(ticket, data, client.put_parts(ticket, data)).status_code == 201


def test_the_state_says_what_has_come(client: Client) -> None:
    data = some(2 * MIB + 7)
    ticket = client.begin("multipart", data)
    path = f"artifacts/multipart/{ticket['upload_id']}"
    assert client.get(path).json() == {
        "status": "upload",
        "part_size": MIB,
        "part_count": 3,
        "uploaded": [],
    }
    third = client.put_part(ticket, data, 3)
    first = client.put_part(ticket, data, 1)
    assert client.get(path).json()["uploaded"] == [first | {"size": MIB}, third | {"size": 7}]
    second = client.put_part(ticket, data, 2)
    client.complete(ticket, data, [first, second, third])
    assert client.get(path).json()["status"] == "completed"


def test_a_completion_without_all_parts_or_with_wrong_ones_is_refused(client: Client) -> None:
    data = some(2 * MIB)
    ticket = client.begin("multipart", data)
    first = client.put_part(ticket, data, 1)
    missing = client.complete(ticket, data, [first])
    assert (missing.status_code, code_of(missing)) == (422, "incomplete")
    second = client.put_part(ticket, data, 2)
    for parts in ([first], [second, first], [first, second | {"etag": '"x"'}], [first, first]):
        answer = client.complete(ticket, data, parts)
        assert (answer.status_code, code_of(answer)) == (422, "invalid_parts")
    for parts in ([1], [{"part_number": 1}], [{"part_number": "1", "etag": "x"}]):
        answer = client.complete(ticket, data, parts)  # type: ignore[arg-type]
        assert (answer.status_code, code_of(answer)) == (422, "invalid_field")
    assert client.complete(ticket, data, [first, second]).status_code == 201


def test_a_multipart_upload_of_another_content_is_refused_and_forgotten(
    controller: LocalController, client: Client
) -> None:
    data = some(2 * MIB)
    ticket = client.begin("multipart", data)
    parts = client.put_parts(ticket, data[::-1])
    answer = client.complete(ticket, data, parts)
    assert (answer.status_code, code_of(answer)) == (422, "sha256_mismatch")
    assert client.get(f"artifacts/multipart/{ticket['upload_id']}").status_code == 404
    assert files_of(controller, ticket["upload_id"]) == []


def test_an_upload_can_be_completed_twice_but_not_twice_at_once(client: Client) -> None:
    data = some(8 * MIB)
    ticket = client.begin("multipart", data)
    parts = client.put_parts(ticket, data)
    barrier = threading.Barrier(6)
    lock = threading.Lock()
    clients = [Client(client.url, client.token) for _ in range(6)]
    answers: list[requests.Response] = []

    def complete(one: Client) -> None:
        barrier.wait()
        answer = one.complete(ticket, data, parts)
        with lock:
            answers.append(answer)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(complete, clients))
    for one in clients:
        one.close()
    assert {answer.status_code for answer in answers} <= {200, 201, 409}
    assert sum(answer.status_code == 201 for answer in answers) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert code_of(answer) == "conflict"
    again = client.complete(ticket, data, parts)
    assert again.status_code == 200
    assert client.listed() == [again.json()]


def test_a_part_of_a_completed_upload_is_refused(client: Client) -> None:
    data = some(MIB)
    ticket = client.begin("multipart", data)
    client.complete(ticket, data, client.put_parts(ticket, data))
    answer = put(ticket["parts"][0]["url"], data)
    assert answer.status_code == 404
    assert code_of(answer) == "not_found"


def test_an_upload_that_was_given_up_is_gone(controller: LocalController, client: Client) -> None:
    data = some(2 * MIB)
    ticket = client.begin("multipart", data)
    client.put_part(ticket, data, 1)
    path = f"artifacts/multipart/{ticket['upload_id']}"
    assert client.ask("DELETE", path).status_code == 204
    for answer in (
        client.get(path),
        client.ask("DELETE", path),
        client.post(f"{path}/parts", {"part_numbers": [1]}),
        client.post(f"{path}/complete", {"parts": []}),
        put(ticket["parts"][1]["url"], data[MIB:]),
    ):
        assert answer.status_code == 404
        assert code_of(answer) == "not_found"
    assert files_of(controller, ticket["upload_id"]) == []


def test_another_accounts_upload_is_403(controller: LocalController, client: Client) -> None:
    data = some(MIB)
    ticket = client.begin("multipart", data)
    path = f"artifacts/multipart/{ticket['upload_id']}"
    stranger = Client(controller.url, controller.add_token("another"))
    try:
        for answer in (
            stranger.get(path),
            stranger.ask("DELETE", path),
            stranger.post(f"{path}/parts", {"part_numbers": [1]}),
            stranger.post(f"{path}/complete", {"parts": []}),
        ):
            assert (answer.status_code, code_of(answer)) == (403, "forbidden")
    finally:
        stranger.close()
    assert client.get(path).status_code == 200


def test_an_upload_whose_time_is_over_is_404(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    client = as_owner(own(part_size=MIB, upload_lifetime=0.3))
    data = some(MIB)
    ticket = client.begin("multipart", data)
    path = f"artifacts/multipart/{ticket['upload_id']}"
    wait_until(lambda: client.get(path).status_code == 404)
    answer = client.complete(ticket, data, [])
    assert (answer.status_code, code_of(answer)) == (404, "not_found")


def test_the_usual_part_is_64_mib_and_grows_where_10_000_would_not_do(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    client = as_owner(own())
    body = {"sha256": "0" * 64, "filename": "huge"}
    usual = client.post("artifacts/multipart", body | {"size": 100 << 30}).json()
    assert (usual["part_size"], usual["part_count"]) == (64 * MIB, 1600)
    huge = client.post("artifacts/multipart", body | {"size": 4 << 40}).json()
    assert huge["part_count"] <= 10_000
    assert huge["part_size"] * huge["part_count"] >= 4 << 40
    smaller = put(usual["parts"][0]["url"], b"less than five mebibytes")
    assert (smaller.status_code, code_of(smaller)) == (400, "wrong_size")


def test_a_direct_and_a_plain_upload_of_one_content_share_it(
    controller: LocalController, client: Client
) -> None:
    data = some(MIB)
    first = send_direct(client, data, "one")
    second = client.upload(data, "two")
    assert first["sha256"] == second["sha256"]
    assert len(list((controller.data / "blobs").glob(f"*/{sha256(data)}"))) == 1
