"""The object store: presigned URLs, redirected downloads, an origin of its own."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
import time
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import requests

from artifactfs.server.testing import LocalController
from tests.helpers import wait_until
from tests.server.conftest import Client, code_of, put, sha256

OCTETS = {"Content-Type": "application/octet-stream"}


def fetch(url: str, **headers: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, headers=headers, timeout=60, allow_redirects=False)


def with_query(url: str, **changed: str) -> str:
    parts = urlsplit(url)
    return parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | changed)).geturl()


@pytest.fixture
def url(client: Client) -> str:
    return str(client.begin("direct", b"signed")["upload_url"])


@pytest.mark.parametrize("changed", [{"signature": "0" * 64}, {"expires": "9999999999"}])
def test_a_url_that_was_tampered_with_is_refused(url: str, changed: dict[str, str]) -> None:
    answer = put(with_query(url, **changed), b"signed", **OCTETS)
    assert (answer.status_code, code_of(answer)) == (403, "signature_mismatch")


@pytest.mark.parametrize(
    "query", ["", "expires=1", "signature=1", "expires=x&signature=", "expires=٣&signature=é"]
)
def test_a_url_without_a_signature_is_refused(url: str, query: str) -> None:
    answer = put(urlsplit(url)._replace(query=query).geturl(), b"signed", **OCTETS)
    assert (answer.status_code, code_of(answer)) == (403, "signature_mismatch")


def test_a_url_is_good_for_its_own_key_and_method_only(client: Client) -> None:
    data = bytes(2 << 20)
    ticket = client.begin("multipart", data)
    first, second = (urlsplit(part["url"]) for part in ticket["parts"])
    swapped = first._replace(path=second.path).geturl()
    answer = put(swapped, data[: 1 << 20])
    assert (answer.status_code, code_of(answer)) == (403, "signature_mismatch")
    assert fetch(first.geturl()).status_code == 405


def test_a_token_at_the_object_store_is_refused(url: str, client: Client) -> None:
    answer = put(url, b"signed", Authorization=f"Bearer {client.token}", **OCTETS)
    assert (answer.status_code, code_of(answer)) == (400, "two_credentials")


def test_a_url_expires_and_can_be_renewed(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    client = as_owner(own(part_size=1 << 20, url_lifetime=1.0))
    data = bytes(1 << 20)
    ticket = client.begin("multipart", data)
    old = ticket["parts"][0]["url"]

    def expired() -> bool:
        answer = put(old, data)
        return answer.status_code == 403 and code_of(answer) == "expired"

    wait_until(expired)
    path = f"artifacts/multipart/{ticket['upload_id']}/parts"
    ticket["parts"] = client.post(path, {"part_numbers": [1]}).json()["parts"]
    assert client.complete(ticket, data, client.put_parts(ticket, data)).status_code == 201


def test_a_redirected_download_comes_from_the_object_store_without_the_token(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own(redirect_downloads=True, url_lifetime=1.0)
    client = as_owner(running)
    data = bytes(range(256)) * 4000
    artifact = client.upload(data, "dir/données.bin")
    path = f"artifacts/{artifact['id']}"
    moved = client.get(path)
    assert moved.status_code == 302
    target = moved.headers["Location"]
    assert target.startswith(f"{running.url}/objects/")
    answer = fetch(target)
    assert answer.content == data
    assert answer.headers["ETag"] == f'"{sha256(data)}"'
    assert "filename*=UTF-8''donn%C3%A9es.bin" in answer.headers["Content-Disposition"]
    part = fetch(target, Range="bytes=5-6")
    assert (part.status_code, part.content) == (206, data[5:7])
    leaked = fetch(target, Authorization=f"Bearer {running.token}")
    assert (leaked.status_code, code_of(leaked)) == (400, "two_credentials")
    wait_until(lambda: fetch(target).status_code == 403)
    assert fetch(client.get(path).headers["Location"]).content == data
    head = client.ask("HEAD", path)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(data)))


def test_a_redirected_download_of_an_expired_artifact_is_gone(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own(redirect_downloads=True)
    client = as_owner(running)
    artifact = client.upload(b"x")
    target = client.get(f"artifacts/{artifact['id']}").headers["Location"]
    running.dev(f"artifacts/{artifact['id']}", {"expires_in_s": -1})
    assert client.get(f"artifacts/{artifact['id']}").status_code == 410
    assert fetch(target).status_code == 410


def test_the_object_store_can_be_another_origin(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own(redirect_downloads=True, objects_port="0", part_size=1 << 20)
    client = as_owner(running)
    data = bytes(range(256)) * 8192
    ticket = client.begin("multipart", data)
    origins = {urlsplit(part["url"]).netloc for part in ticket["parts"]}
    assert len(origins) == 1
    assert origins != {urlsplit(running.url).netloc}
    assert client.complete(ticket, data, client.put_parts(ticket, data)).status_code == 201
    target = client.get(f"artifacts/{ticket['artifact_id']}").headers["Location"]
    assert fetch(target).content == data
    moved = urlsplit(target)
    here = moved._replace(netloc=urlsplit(running.url).netloc).geturl()
    assert (fetch(here).status_code, code_of(fetch(here))) == (404, "not_found")
    there = client.get(f"http://{moved.netloc}/api/v1/artifacts")
    assert (there.status_code, code_of(there)) == (404, "not_found")


def test_downloads_can_be_served_by_another_server_from_the_blobs(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    """Any server of static files will do; here it is the standard library's."""
    running = own()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(running.data / "blobs"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            running.stop()
            base = f"http://127.0.0.1:{server.server_address[1]}/"
            other = LocalController(running.data, download_base=base)
            with other, contextlib.closing(Client(other.url, other.token)) as client:
                artifact = client.upload(b"static")
                (made,) = other.make_artifacts(1, text="made")
                for artifact_id, content in ((artifact["id"], b"static"), (made, b"made")):
                    moved = client.get(f"artifacts/{artifact_id}")
                    assert moved.status_code == 302
                    digest = sha256(content)
                    assert moved.headers["Location"] == f"{base}{digest[:2]}/{digest}"
                    assert fetch(moved.headers["Location"]).content == content
        finally:
            server.shutdown()
            thread.join()


def test_urls_begin_with_the_public_url_where_there_is_one(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    client = as_owner(own(public_url="https://artifacts.example.org/"))
    url = client.begin("direct", b"x")["upload_url"]
    assert url.startswith("https://artifacts.example.org/objects/")


@pytest.mark.parametrize("host", [b"a b", b"x:y:z", b"[::1", b"\xe9", b"a/b", b"u@h"])
def test_a_host_that_is_none_makes_no_url(client: Client, host: bytes) -> None:
    body = {"sha256": "0" * 64, "size": 1, "filename": "a"}
    answer = client.post("artifacts/direct", body, headers={"Host": host})
    assert (answer.status_code, code_of(answer)) == (400, "bad_request")


def test_the_expiry_of_a_direct_ticket_is_that_of_its_url(client: Client) -> None:
    ticket = client.begin("direct", b"when")
    expires = float(dict(parse_qsl(urlsplit(ticket["upload_url"]).query))["expires"])
    told = time.mktime(time.strptime(ticket["expires_at"], "%Y-%m-%dT%H:%M:%S.%fZ")) - time.timezone
    assert abs(told - expires) <= 1
