"""What a controller that is killed loses: nothing that it has answered."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import requests

from artifactfs.server.testing import LocalController
from tests.helpers import wait_until
from tests.server.conftest import Client, put, sha256

MIB = 1 << 20
_random = random.Random(7)


def test_an_artifact_that_was_answered_is_there_after_a_kill(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own()
    client = as_owner(running)
    contents = {f"f{size}": _random.randbytes(size) for size in (0, 10, 300_000, 2 * MIB)}
    uploaded = [client.upload(data, name) for name, data in contents.items()]
    running.kill()
    running.start()
    assert client.listed() == uploaded[::-1]
    for artifact in uploaded:
        answer = client.get(f"artifacts/{artifact['id']}")
        assert answer.content == contents[artifact["filename"]]


def test_a_multipart_upload_goes_on_where_it_was_after_a_kill(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    """Killed with three parts answered and one in the middle of its bytes."""
    running = own(part_size=MIB)
    client = as_owner(running)
    data = _random.randbytes(5 * MIB + 17)
    ticket = client.begin("multipart", data)
    told = {number: client.put_part(ticket, data, number) for number in (1, 2, 5)}
    url = urlsplit(ticket["parts"][2]["url"])
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(
            f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n"
            f"Content-Length: {MIB}\r\n\r\n".encode()
            + data[2 * MIB : 2 * MIB + 700_000]
        )
        running.kill()
    running.start()
    state = client.get(f"artifacts/multipart/{ticket['upload_id']}").json()
    assert state["status"] == "upload"
    assert [(one["part_number"], one["etag"]) for one in state["uploaded"]] == [
        (number, part["etag"]) for number, part in told.items()
    ]
    for number in (3, 4, 6):
        told[number] = client.put_part(ticket, data, number)
    answer = client.complete(ticket, data, [told[number] for number in range(1, 7)])
    assert answer.status_code == 201, answer.text
    assert client.get(f"artifacts/{ticket['artifact_id']}").content == data


def test_kills_at_any_moment_of_a_multipart_upload_lose_no_answered_part(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own(part_size=MIB)
    client = as_owner(running)
    data = _random.randbytes(12 * MIB)
    ticket = client.begin("multipart", data)
    answered: dict[int, str] = {}

    def send(number: int) -> None:
        start = (number - 1) * MIB
        try:
            answer = put(ticket["parts"][number - 1]["url"], data[start : start + MIB])
        except requests.ConnectionError:
            return
        if answer.status_code == 200:
            answered[number] = answer.headers["ETag"]

    for _ in range(30):
        missing = [number for number in range(1, 13) if number not in answered]
        if not missing:
            break
        with ThreadPoolExecutor(4) as pool:
            sending = [pool.submit(send, number) for number in missing]
            wait_until(sending[0].done)
            running.kill()
        running.start()
        state = client.get(f"artifacts/multipart/{ticket['upload_id']}").json()
        there = {one["part_number"]: one["etag"] for one in state["uploaded"]}
        assert answered.items() <= there.items()
        answered = there
    parts = [{"part_number": number, "etag": answered[number]} for number in range(1, 13)]
    assert client.complete(ticket, data, parts).status_code == 201
    assert client.get(f"artifacts/{ticket['artifact_id']}").content == data


def test_a_kill_during_completion_leaves_it_done_or_to_be_done_again(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own(part_size=MIB)
    client = as_owner(running)
    for round_ in range(4):
        data = _random.randbytes(16 * MIB)
        ticket = client.begin("multipart", data, f"f{round_}")
        parts = client.put_parts(ticket, data)
        with ThreadPoolExecutor(1) as pool:
            completing = pool.submit(client.complete, ticket, data, parts)
            running.kill()
            completing.exception()
        running.start()
        answer = client.complete(ticket, data, parts)
        assert answer.status_code in (200, 201), answer.text
        assert client.get(f"artifacts/{ticket['artifact_id']}").content == data
        assert len(client.listed()) == round_ + 1


def test_what_a_kill_left_half_received_is_swept_up(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own()
    client = as_owner(running)
    url = urlsplit(running.url)
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(
            f"POST /api/v1/artifacts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.token}"
            f"\r\nContent-Length: {5 * MIB}\r\n\r\n".encode()
        )
        wait_until(lambda: list((running.data / "incoming").iterdir()))
        running.kill()
    orphan = running.data / "blobs" / "00" / ("0" * 64)
    orphan.parent.mkdir(parents=True, exist_ok=True)
    orphan.write_bytes(b"nobody's")
    stray = running.data / "uploads" / "mpu_unknown"
    stray.mkdir()
    (stray / "data").write_bytes(b"nobody's")
    running.start()
    assert list((running.data / "incoming").iterdir()) == []
    wait_until(lambda: not orphan.exists() and not stray.exists())
    assert client.upload(b"goes on")["sha256"] == sha256(b"goes on")


def test_a_restart_keeps_what_was_listed_and_its_order(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own()
    client = as_owner(running)
    for index in range(5):
        client.upload(b"%d" % index, f"f{index}")
    before = client.listed()
    page = client.get("artifacts", params={"limit": 2}).json()
    running.stop()
    running.start()
    assert client.listed() == before
    rest = client.get("artifacts", params={"cursor": page["next_cursor"]}).json()
    assert page["artifacts"] + rest["artifacts"] == before
