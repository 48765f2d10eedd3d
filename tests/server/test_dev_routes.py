"""What ``_dev`` lets tests make of the list of artifacts."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactfs.server.testing import LocalController
from tests.server.conftest import Client, code_of, sha256


@pytest.mark.parametrize(
    "name", ["", "..", "a\0b", "a\nb", "../../etc/passwd", "\ud800", "a" * 4000]
)
def test_any_name_is_listed_as_it_is(
    controller: LocalController, client: Client, account: str, name: str
) -> None:
    made = controller.make_artifact(name, b"content", account=account)
    (shown,) = client.listed()
    assert (shown["id"], shown["filename"], shown["size"]) == (made, name, 7)
    assert client.get(f"artifacts/{made}").content == b"content"


def test_a_name_that_is_no_utf_8_shows_lone_surrogates(
    controller: LocalController, client: Client, account: str
) -> None:
    controller.make_artifact(b"caf\xe9\xff", account=account)
    (shown,) = client.listed()
    assert shown["filename"].encode("utf-8", "surrogateescape") == b"caf\xe9\xff"


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.lists(st.binary(max_size=60), min_size=1, max_size=8))
def test_all_names_together_are_a_list_that_can_be_read(
    controller: LocalController, client: Client, account: str, names: list[bytes]
) -> None:
    ids = [controller.make_artifact(name, account=account) for name in names]
    shown = [one["id"] for one in client.listed()]
    assert shown[: len(ids)] == ids[::-1]


def test_the_list_can_be_made_to_show_anything(
    controller: LocalController, client: Client, account: str
) -> None:
    raw = b'{"id": "broken", "filename": "\xff\xfe"}'
    controller.make_artifact("one", account=account, listed={"artifact_id": "x", "bytes": -1})
    assert client.listed() == [{"artifact_id": "x", "bytes": -1}]
    wanted = base64.b64encode(raw).decode()
    controller.make_artifact("two", account=account, listed_base64=wanted)
    assert raw in client.get("artifacts").content


def test_times_and_jobs_can_be_given(
    controller: LocalController, client: Client, account: str
) -> None:
    made = controller.make_artifact("t", account=account, created=4e9, expires_in_s=60, job_id="j")
    (shown,) = client.listed()
    assert shown["id"] == made
    assert shown["created_at"] == "2096-10-02T07:06:40.000000Z"
    assert shown["expires_at"] == "2096-10-02T07:07:40.000000Z"
    assert shown["job_id"] == "j"


def test_a_made_content_counts_as_there(
    controller: LocalController, client: Client, account: str
) -> None:
    controller.make_artifact("seed", b"a seed's content", account=account)
    begun = client.begin("multipart", b"a seed's content", "other name")
    assert begun["status"] == "exists"
    assert begun["artifact"]["sha256"] == sha256(b"a seed's content")


def test_a_made_content_is_let_go_with_its_artifact(
    controller: LocalController, client: Client, account: str
) -> None:
    made = controller.make_artifact("seed", b"short-lived seed", account=account)
    controller.dev(f"artifacts/{made}", {"expires_in_s": 0})
    controller.dev("clean", {})
    assert client.begin("direct", b"short-lived seed")["status"] == "upload"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("artifacts", {}),
        ("artifacts", {"artifacts": [1]}),
        ("artifacts", {"artifacts": [{"filename_base64": "?"}]}),
        ("artifacts", {"artifacts": [{"content": 1}]}),
        ("artifacts", {"artifacts": [{"created": "soon"}]}),
        ("artifacts", {"artifacts": [{"created": 1e300}]}),
        ("artifacts", {"count": -1}),
        ("artifacts", {"count": 10**9}),
    ],
)
def test_what_cannot_be_made_is_refused(
    controller: LocalController,
    as_owner: Callable[..., Client],
    path: str,
    body: dict[str, object],
) -> None:
    answer = as_owner(controller).post(f"_dev/{path}", body)
    assert (answer.status_code, code_of(answer)) == (422, "invalid_field")
