"""List, get, upload through the controller, external references, expiry."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from artifactfs.server.request_body import TAKE_OVER_BYTES
from artifactfs.server.testing import LocalController
from tests.helpers import wait_until
from tests.server.conftest import (
    Client,
    code_of,
    raw_connection,
    read_answer,
    sha256,
)


def blobs(controller: LocalController) -> set[str]:
    return {path.name for path in (controller.data / "blobs").glob("*/*")}


def incoming(controller: LocalController) -> list[str]:
    return [path.name for path in (controller.data / "incoming").iterdir()]


@pytest.mark.parametrize("size", [0, 1, 300_000, 3_000_001])
def test_what_was_uploaded_is_downloaded(client: Client, size: int) -> None:
    """Each size takes another way in: small, piece by piece, taken over."""
    data = bytes(size % 251 for size in range(size))
    artifact = client.upload(data, "results/a.bin")
    assert artifact == {
        "id": artifact["id"],
        "sha256": sha256(data),
        "size": size,
        "filename": "results/a.bin",
        "content_type": "application/octet-stream",
        "created_at": artifact["created_at"],
        "expires_at": artifact["expires_at"],
        "status": "ready",
        "external_url": None,
        "job_id": None,
    }
    assert re.fullmatch(r"art_[0-9a-f]+", artifact["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", artifact["created_at"])
    answer = client.get(f"artifacts/{artifact['id']}")
    assert answer.status_code == 200
    assert answer.content == data
    assert answer.headers["Content-Length"] == str(size)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="a.bin"'
    assert answer.headers["ETag"] == f'"{sha256(data)}"'
    assert answer.headers["Accept-Ranges"] == "bytes"


def test_a_body_of_unknown_length_is_taken_too(client: Client) -> None:
    pieces = [b"a" * 70_000, b"", b"b" * 1_500_000, b"c"]

    def body() -> Iterator[bytes]:
        yield from (piece for piece in pieces if piece)

    answer = client.ask("POST", "artifacts", data=body(), headers={"X-Artifact-Filename": "c"})
    assert answer.json()["sha256"] == sha256(b"".join(pieces))


def test_a_compressed_body_is_kept_as_it_was_sent(client: Client) -> None:
    data = b"\x1f\x8b not really compressed"
    assert client.upload(data, **{"Content-Encoding": "gzip"})["sha256"] == sha256(data)


def test_a_claimed_hash_that_is_not_the_contents_is_refused(
    client: Client, controller: LocalController
) -> None:
    claimed = {"X-Artifact-Sha256": sha256(b"something else")}
    answer = client.ask("POST", "artifacts", data=b"unlike anything", headers=claimed)
    assert answer.status_code == 422
    assert code_of(answer) == "sha256_mismatch"
    assert client.listed() == []
    assert sha256(b"unlike anything") not in blobs(controller)
    assert incoming(controller) == []


def test_one_content_under_several_names_is_kept_once(
    client: Client, controller: LocalController
) -> None:
    first, second = client.upload(b"shared", "one"), client.upload(b"shared", "two")
    assert first["id"] != second["id"]
    assert client.get(f"artifacts/{first['id']}").content == b"shared"
    assert client.get(f"artifacts/{second['id']}").content == b"shared"
    assert len(list((controller.data / "blobs").glob(f"*/{sha256(b'shared')}"))) == 1


def test_more_than_2_gb_is_refused_before_it_is_sent(client: Client) -> None:
    with raw_connection(client.url) as connection:
        connection.sendall(
            f"POST /api/v1/artifacts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token}"
            "\r\nContent-Length: 2000000001\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        status, headers, body = read_answer(connection)
        assert status == 413
        assert json.loads(body)["error"]["code"] == "too_large"
        assert headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_a_client_that_waits_for_leave_is_let_go_on(client: Client) -> None:
    with raw_connection(client.url) as connection:
        connection.sendall(
            f"POST /api/v1/artifacts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token}"
            "\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert read_answer(connection)[0] == 100
        connection.sendall(b"hello")
        status, _, body = read_answer(connection)
        assert status == 201
        assert json.loads(body)["sha256"] == sha256(b"hello")


@pytest.mark.parametrize("length", [1000, 500_000, 5_000_000])
@pytest.mark.parametrize("sent", [0, 400])
def test_a_body_that_breaks_off_leaves_nothing(
    client: Client, controller: LocalController, length: int, sent: int
) -> None:
    with raw_connection(client.url) as connection:
        connection.sendall(
            f"POST /api/v1/artifacts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token}"
            f"\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        connection.sendall(b"x" * (sent * length // 1000))
        if sent and length > TAKE_OVER_BYTES:
            wait_until(lambda: incoming(controller))
    after = client.upload(b"after it")
    wait_until(lambda: not incoming(controller))
    assert client.listed() == [after]


def test_a_connection_that_was_taken_over_ends_with_the_answer_others_stay(client: Client) -> None:
    large = client.ask("POST", "artifacts", data=bytes(2_000_000))
    assert large.headers["Connection"] == "close"
    small = client.ask("POST", "artifacts", data=bytes(2000))
    assert "Connection" not in small.headers


def test_many_upload_at_once(client: Client) -> None:
    contents = [f"content {index}".encode() * (index * 997) for index in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: client.upload(one, sha256(one)), contents))
    assert {one["filename"]: one["sha256"] for one in client.listed()} == {
        sha256(one): sha256(one) for one in contents
    }


def test_the_list_is_newest_first_and_pages_join(client: Client) -> None:
    names = [client.upload(b"%d" % index, f"f{index}")["filename"] for index in range(7)]
    for limit in (1, 3, 7, 100):
        assert [one["filename"] for one in client.listed(limit)] == names[::-1]


def test_what_is_uploaded_while_paging_neither_shifts_nor_repeats(client: Client) -> None:
    for index in range(6):
        client.upload(b"%d" % index, f"f{index}")
    first = client.get("artifacts", params={"limit": 3}).json()
    client.upload(b"new", "new")
    second = client.get("artifacts", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    shown = [one["filename"] for one in first["artifacts"] + second["artifacts"]]
    assert shown == ["f5", "f4", "f3", "f2", "f1", "f0"]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=-1", "cursor=x", "cursor=", "limit=" + "9" * 5000]
)
def test_a_page_that_cannot_be_is_refused(client: Client, query: str) -> None:
    answer = client.get(f"artifacts?{query}")
    assert answer.status_code == 400
    assert code_of(answer) == "invalid_field"


@pytest.mark.slow
def test_a_hundred_thousand_artifacts_are_listed_quickly(
    controller: LocalController, account: str, client: Client
) -> None:
    ids = controller.make_artifacts(100_000, "run/file-{n}.bin", account=account)
    answers: list[Any] = []
    cursor, took_s = None, 0.0
    while True:
        params = {"limit": "10000"} | ({"cursor": cursor} if cursor else {})
        answer = client.get("artifacts", params=params)
        took_s += answer.elapsed.total_seconds()
        page = answer.json()
        answers += [one["id"] for one in page["artifacts"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert answers == ids[::-1]
    assert took_s < 10


def test_a_made_content_is_there_when_it_is_asked_for(
    controller: LocalController, account: str, client: Client
) -> None:
    (made,) = controller.make_artifacts(1, text="hello {n}", account=account)
    assert client.get(f"artifacts/{made}").content == b"hello 0"
    assert client.ask("HEAD", f"artifacts/{made}").headers["Content-Length"] == "7"


def test_an_unknown_artifact_is_404(client: Client) -> None:
    answer = client.get("artifacts/art_unknown")
    assert answer.status_code == 404
    assert code_of(answer) == "not_found"


def test_an_artifact_that_has_expired_is_gone_and_its_content_let_go(
    controller: LocalController, client: Client
) -> None:
    data = b"soon to expire"
    artifact = client.upload(data)
    controller.dev(f"artifacts/{artifact['id']}", {"expires_in_s": -1})
    answer = client.get(f"artifacts/{artifact['id']}")
    assert answer.status_code == 410
    assert code_of(answer) == "expired"
    assert client.listed() == []
    assert controller.dev("clean", {})["removed"] >= 1
    assert sha256(data) not in blobs(controller)
    assert client.begin("direct", data)["status"] == "upload"


def test_a_content_stays_while_one_of_its_artifacts_lives(
    controller: LocalController, client: Client
) -> None:
    first, second = client.upload(b"kept by two", "one"), client.upload(b"kept by two", "two")
    controller.dev(f"artifacts/{first['id']}", {"expires_in_s": -1})
    controller.dev("clean", {})
    assert client.get(f"artifacts/{first['id']}").status_code == 410
    assert client.get(f"artifacts/{second['id']}").content == b"kept by two"


def test_long_after_it_has_expired_nobody_knows_it(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own(retention=0.2)
    client = as_owner(running)
    artifact = client.upload(b"short-lived")

    def forgotten() -> bool:
        running.dev("clean", {})
        return client.get(f"artifacts/{artifact['id']}").status_code == 404

    wait_until(forgotten)
    assert blobs(running) == set()


def test_a_download_that_has_begun_is_not_cut_by_the_expiry(
    controller: LocalController, client: Client
) -> None:
    data = bytes(range(256)) * 80_000
    artifact = client.upload(data)
    with client.get(f"artifacts/{artifact['id']}", stream=True) as answer:
        begun = answer.raw.read(10)
        controller.dev(f"artifacts/{artifact['id']}", {"expires_in_s": -1})
        controller.dev("clean", {})
        assert begun + answer.raw.read() == data


def test_an_upload_is_not_lost_to_a_clean_up_beside_it(
    controller: LocalController, client: Client
) -> None:
    """The same content expires and comes again, over and over."""
    stop = threading.Event()

    def clean() -> None:
        while not stop.is_set():
            controller.dev("clean", {})

    cleaner = threading.Thread(target=clean)
    cleaner.start()
    try:
        for _ in range(60):
            artifact = client.upload(b"coming and going")
            assert client.get(f"artifacts/{artifact['id']}").content == b"coming and going"
            controller.dev(f"artifacts/{artifact['id']}", {"expires_in_s": -1})
    finally:
        stop.set()
        cleaner.join()


def test_a_reference_is_listed_and_answered_by_its_url(client: Client) -> None:
    url = "https://example.org/données/a.bin?sig=a%2Bb&x=1#f"
    body = {"url": url, "filename": "a.bin", "sha256": sha256(b"x"), "size": 1}
    answer = client.post("artifacts/external", body)
    assert answer.status_code == 201
    artifact = answer.json()
    assert (artifact["external_url"], artifact["sha256"], artifact["size"]) == (
        url,
        sha256(b"x"),
        1,
    )
    assert client.listed() == [artifact]
    for method in ("GET", "HEAD"):
        moved = client.ask(method, f"artifacts/{artifact['id']}")
        assert moved.status_code == 302
        assert moved.headers["Location"] == url.replace("é", "%C3%A9")


def test_a_reference_needs_neither_hash_nor_size(client: Client) -> None:
    body = {"url": "http://example.org/", "filename": "n"}
    artifact = client.post("artifacts/external", body).json()
    assert (artifact["sha256"], artifact["size"]) == (None, None)


def test_a_reference_is_no_content_that_is_there(client: Client) -> None:
    body = {"url": "http://example.org/", "filename": "n", "sha256": sha256(b"far"), "size": 3}
    client.post("artifacts/external", body)
    assert client.begin("direct", b"far", "n")["status"] == "upload"


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x/", "file:///etc/passwd", "http://", "http://x/\r\nSet-Cookie: a", "http:///"],
)
def test_a_reference_to_what_is_no_web_address_is_refused(client: Client, url: str) -> None:
    answer = client.post("artifacts/external", {"url": url, "filename": "n"})
    assert answer.status_code == 422
    assert code_of(answer) == "invalid_field"


@pytest.mark.parametrize("wrong", [{"sha256": "x"}, {"size": -1}, {"size": "1"}, {"filename": 1}])
def test_a_reference_with_a_field_that_cannot_be_is_refused(
    client: Client, wrong: dict[str, Any]
) -> None:
    body = {"url": "http://example.org/", "filename": "n"} | wrong
    answer = client.post("artifacts/external", body)
    assert answer.status_code == 422
    assert code_of(answer) == "invalid_field"


def test_what_is_kept_is_for_its_user_only(controller: LocalController, client: Client) -> None:
    client.upload(b"private")
    assert controller.data.stat().st_mode & 0o777 == 0o700
    for path in controller.data.rglob("*"):
        if path.name != "controller.log":
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_content_that_is_missing_from_the_disk_is_gone_not_an_error(
    controller: LocalController, client: Client
) -> None:
    artifact = client.upload(b"to be deleted behind its back")
    Path(controller.data / "blobs" / artifact["sha256"][:2] / artifact["sha256"]).unlink()
    answer = client.get(f"artifacts/{artifact['id']}")
    assert answer.status_code == 410
    assert code_of(answer) == "gone"


def test_an_index_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """There a time of creation had whole seconds, and the index did not know the last one."""
    with LocalController(tmp_path / "data") as running:
        running.make_artifact("a", b"old", created=1_795_435_200)
        owner = Client(running.url, running.token)
        owner.upload(b"old too", "a")
        owner.close()
    index = tmp_path / "data" / "index.sqlite"
    with contextlib.closing(sqlite3.connect(index)) as database:
        database.execute("DELETE FROM facts WHERE name = 'last_created'")
        database.execute(
            "UPDATE artifacts SET document = CAST(replace(document, '.000000Z', 'Z') AS BLOB)"
        )
        database.commit()
    with LocalController(tmp_path / "data") as running:
        owner = Client(running.url, running.token)
        made = [owner.upload(b"new", "a")["id"] for _ in range(3)]
        listed = owner.listed()
        owner.close()
    assert [one["id"] for one in listed][:3] == made[::-1]
    assert listed[-1]["created_at"] == "2026-11-23T12:00:00Z"
    moments = [datetime.fromisoformat(one["created_at"]) for one in listed]
    assert moments == sorted(set(moments), reverse=True)
