"""The service's JSON in all its shapes: documented ones are read, others tolerated or named."""

from __future__ import annotations

import dataclasses
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.errors import ArtifactfsError, BadAnswer
from artifactfs.model import Artifact
from artifactfs.remote import wire_artifacts

HASH = "ab" * 32
FULL: dict[str, Any] = {
    "id": "art_1",
    "sha256": HASH,
    "size": 123,
    "filename": "dataset.parquet",
    "content_type": "application/octet-stream",
    "created_at": "2026-11-23T12:00:00Z",
    "expires_at": "2026-11-30T12:00:00Z",
    "status": "ready",
    "external_url": None,
    "job_id": None,
}
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=5)
    ),
    max_leaves=12,
)


def without(*keys: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in FULL.items() if key not in keys} | more


def test_the_documented_object_is_read() -> None:
    found = wire_artifacts.artifact(FULL)
    assert (found.id, found.sha256, found.size_bytes) == ("art_1", HASH, 123)
    assert (found.filename, found.created_at) == ("dataset.parquet", NOON)
    assert found.expires_at == NOON + timedelta(days=7)
    assert found.metadata == {}


@pytest.mark.parametrize(
    "document",
    [
        without("id", artifact_id="art_1"),
        without("filename", name="dataset.parquet"),
        without("filename", file_name="dataset.parquet"),
        without("size", size_bytes=123),
        without("size", bytes=123),
        without("sha256", hash=HASH),
        without("sha256", digest=f"sha256:{HASH}"),
        without("sha256", sha256=HASH.upper()),
        without("created_at", inserted_at="2026-11-23T12:00:00Z"),
        without("expires_at"),
        {"artifact": FULL},
        {"data": FULL},
    ],
)
def test_other_names_and_wrappings_mean_the_same(document: dict[str, Any]) -> None:
    assert wire_artifacts.artifact(document) == wire_artifacts.artifact(FULL)


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-23T12:00:00Z",
        "2026-11-23T12:00:00.000Z",
        "2026-11-23T12:00:00.000000+00:00",
        "2026-11-23T14:00:00+02:00",
        "2026-11-23T12:00:00",
        "2026-11-23 12:00:00",
        1_795_435_200,
        1_795_435_200_000,
        1_795_435_200.0,
    ],
)
def test_times_in_many_forms_are_one_moment(value: object) -> None:
    assert wire_artifacts.time_of(value) == NOON


def test_unknown_keys_are_kept_for_the_user() -> None:
    assert wire_artifacts.artifact(FULL | {"tags": ["a"], "variant": 3}).metadata == {
        "tags": ["a"],
        "variant": 3,
    }


def test_absent_hash_size_and_name_are_none_none_and_the_id() -> None:
    found = wire_artifacts.artifact({"id": "art_1", "created_at": "2026-11-23T12:00:00Z"})
    assert (found.sha256, found.size_bytes, found.filename) == (None, None, "art_1")


@pytest.mark.parametrize(
    "document",
    [{}, without("id"), FULL | {"size": -1}, FULL | {"sha256": "xyz"}, FULL | {"size": "big"}, 5],
)
def test_an_unusable_artifact_is_left_out_with_one_warning(
    document: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = list(wire_artifacts.artifacts((document, FULL)))
    assert [one.id for one in found] == ["art_1"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("key", ["artifacts", "items", "data"])
@pytest.mark.parametrize("cursor", ["next_cursor", "next", "next_page_token"])
def test_pages_in_other_words(key: str, cursor: str) -> None:
    page = wire_artifacts.page({key: [FULL], cursor: "c"}, "list", wire_artifacts.LISTS)
    assert (page.entries, page.cursor) == ((FULL,), "c")
    assert wire_artifacts.page([FULL], "list", wire_artifacts.LISTS).cursor is None


def test_what_is_missing_is_named() -> None:
    with pytest.raises(BadAnswer, match="upload_url"):
        wire_artifacts.direct_ticket({"artifact_id": "art_1"}, NOON)
    with pytest.raises(BadAnswer, match="upload_id"):
        wire_artifacts.multipart_ticket({"part_size": 5}, 10, NOON)
    with pytest.raises(BadAnswer, match="part_size"):
        wire_artifacts.multipart_ticket({"upload_id": "u"}, 10, NOON)
    with pytest.raises(BadAnswer, match="artifacts"):
        wire_artifacts.page({"things": []}, "list", wire_artifacts.LISTS)


@given(anything)
def test_no_json_raises_anything_but_our_errors(document: Any) -> None:
    readers = [
        lambda: list(wire_artifacts.artifacts((document,))),
        lambda: wire_artifacts.page(document, "x", wire_artifacts.LISTS),
        lambda: wire_artifacts.direct_ticket(document, NOON),
        lambda: wire_artifacts.multipart_ticket(document, 100, NOON),
        lambda: wire_artifacts.multipart_state(document),
        lambda: wire_artifacts.part_urls(document, "x"),
        lambda: wire_artifacts.existing(document, "x"),
        lambda: wire_artifacts.answered_artifact(document, "x"),
    ]
    for read in readers:
        try:
            read()
        except ArtifactfsError as error:
            assert "\n" not in str(error)


@given(st.dictionaries(st.sampled_from(sorted(FULL)), anything))
def test_any_values_in_known_keys_give_an_artifact_or_a_reason(changed: dict[str, Any]) -> None:
    try:
        found = wire_artifacts.artifact(FULL | changed)
    except ValueError:
        return
    assert found.id
    assert found.filename
    assert found.size_bytes is None or found.size_bytes >= 0
    assert found.sha256 is None or len(found.sha256) == 64
    assert found.created_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no credits", "code": "c"}}', "no credits"),
        (b'{"error": "text"}', "text"),
        (b'{"message": "m"}', "m"),
        (b"plain\ntext", "plain text"),
        (b"<html><head><title>502 Bad Gateway</title>", "502 Bad Gateway"),
        (b"", ""),
    ],
)
def test_the_services_words_are_found_in_any_body(body: bytes, words: str) -> None:
    assert wire_artifacts.wire_warning(body).message == words


@given(st.binary(max_size=2000) | anything.map(lambda value: json.dumps(value).encode()))
def test_the_words_of_any_body_are_one_bounded_printable_line(body: bytes) -> None:
    found = wire_artifacts.wire_warning(body)
    for text in (found.message, found.code, found.action):
        assert len(text) <= wire_artifacts.MOST_WORDS
        assert text.isprintable()


def test_json_that_is_too_deep_or_not_json_is_a_bad_answer() -> None:
    for body in (b"[" * 200_000, b"\xff", b"", b"{"):
        with pytest.raises(BadAnswer):
            wire_artifacts.parse(body, "GET /artifacts")


@given(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from(["art_1", "", 7, None]),
            "sha256": st.sampled_from(["a" * 64, "A" * 64, "sha256:" + "b" * 64, "", None, "x"]),
            "size": st.sampled_from([0, 5, -1, 2.0, True, "7", None, 2**80]),
            "filename": st.sampled_from(["f", "", None, "ü/x", 3]),
            "content_type": st.sampled_from(["text/plain", "", None]),
            "created_at": st.sampled_from(["2026-11-23T12:00:00Z", "2026-11-23", 1.7e9, None, ""]),
            "expires_at": st.sampled_from(["2026-11-30T12:00:00Z", "2026-11-30T12:00:00+02:00", 0]),
            "status": st.sampled_from(["ready", "", None, 1]),
            "external_url": st.sampled_from([None, "http://h/x", ""]),
            "job_id": st.sampled_from([None, "job", 5]),
        }
    )
)
def test_the_quick_way_says_what_the_thorough_one_does(document: dict[str, object]) -> None:
    def outcome(one: dict[str, object]) -> object:
        try:
            return wire_artifacts.artifact(one)
        except ValueError as error:
            return str(error)

    quick, thorough = outcome(document), outcome({**document, "more": 1})
    if isinstance(thorough, Artifact):
        thorough = dataclasses.replace(thorough, metadata={})
    assert quick == thorough
