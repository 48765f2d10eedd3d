"""A list of artifacts: what is decoded quickly and what is not are read alike."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.errors import BadAnswer
from artifactfs.remote import wire_artifacts
from artifactfs.remote.wire_artifacts import LISTS

from .test_wire_artifacts import FULL, HASH, anything, without

ODD: list[Any] = [
    FULL | {"job_id": "job_1"},
    FULL | {"size": 0},
    FULL | {"size": 1.0},
    FULL | {"size": "12"},
    FULL | {"size": None},
    FULL | {"sha256": HASH.upper()},
    FULL | {"sha256": f"sha256:{HASH}"},
    FULL | {"sha256": "é" * 64},
    FULL | {"sha256": None, "external_url": "https://example.org/x"},
    FULL | {"created_at": "2026-11-23T14:00:00.5+02:00"},
    FULL | {"created_at": "2026-11-23T12:00:00"},
    FULL | {"created_at": 1_795_435_200},
    FULL | {"filename": ""},
    FULL | {"filename": "a\ud800"},
    FULL | {"status": None},
    FULL | {"tags": ["a"]},
    FULL | {"size": -1},
    FULL | {"id": ""},
    FULL | {"id": 7},
    without("job_id"),
    without("expires_at"),
    {"artifact": FULL},
    {},
    5,
    None,
]


def body(*entries: Any, **more: Any) -> bytes:
    return json.dumps({"artifacts": list(entries), "next_cursor": None} | more).encode()


def read(data: bytes) -> list[Any]:
    found = list(wire_artifacts.artifacts_fast(wire_artifacts.page_fast(data, "list").entries))
    return [(one, one.metadata) for one in found]


def read_by_the_book(data: bytes) -> list[Any]:
    found = list(
        wire_artifacts.artifacts(
            wire_artifacts.page(wire_artifacts.parse(data, "list"), "list", LISTS).entries
        )
    )
    return [(one, one.metadata) for one in found]


@pytest.mark.parametrize("document", ODD, ids=repr)
def test_an_odd_entry_among_usual_ones_is_read_by_the_book(document: Any) -> None:
    data = body(FULL, document, FULL | {"id": "art_2"})
    assert read(data) == read_by_the_book(data)
    assert [one.id for one, _ in (read(data)[0], read(data)[-1])] == ["art_1", "art_2"]


@given(st.dictionaries(st.sampled_from(sorted(FULL)), anything), st.booleans())
def test_any_values_in_known_keys_are_read_alike(changed: dict[str, Any], bare: bool) -> None:
    entry = FULL | changed
    data = json.dumps([entry]).encode() if bare else body(entry)
    assert read(data) == read_by_the_book(data)


@given(anything)
def test_any_document_is_a_page_or_a_bad_answer(document: Any) -> None:
    data = json.dumps(document).encode()
    try:
        expected = read_by_the_book(data)
    except BadAnswer:
        with pytest.raises(BadAnswer):
            read(data)
    else:
        assert read(data) == expected


def test_a_usual_entry_takes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparisons above would compare one way with itself."""
    data = body(FULL)
    expected = read_by_the_book(data)
    monkeypatch.setattr(wire_artifacts, "artifacts", None)
    assert read(data) == expected


def test_the_next_page_is_found_in_every_wording() -> None:
    assert wire_artifacts.page_fast(body(FULL, next_cursor="c"), "list").cursor == "c"
    assert wire_artifacts.page_fast(body(FULL, next_cursor=""), "list").cursor is None
    assert wire_artifacts.page_fast(body(FULL, next_cursor=12), "list").cursor == "12"
    assert wire_artifacts.page_fast(body(FULL, next="c", next_cursor=None), "list").cursor == "c"


def test_an_unusable_entry_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(read(body(FULL, without("id")))) == 1
    assert "it has no id" in caplog.text
    assert len(caplog.records) == 1


def test_what_is_not_json_is_a_bad_answer() -> None:
    for data in (b"", b"{", b"<html>", b"[" * 100_000, b'{"artifacts": [{]}'):
        with pytest.raises(BadAnswer, match="not JSON"):
            wire_artifacts.page_fast(data, "list")


def test_what_many_entries_share_is_held_once() -> None:
    first, second = (one for one, _ in read(body(FULL, FULL | {"id": "art_2"})))
    assert first.content_type is second.content_type
    assert first.status is second.status
