"""One odd entry of a list, whatever it is, costs no other one."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from artifactfs.catalog import snapshot
from artifactfs.config import HttpConfig
from artifactfs.errors import BadAnswer
from artifactfs.model import Artifact
from artifactfs.remote import (
    Service,
    wire_artifacts,
    wire_jobs,
)
from artifactfs.token import Secret, TokenSource
from artifactfs.vfs.artifact_file import nanoseconds
from tests.fault_proxy import Scripted, sends

from .test_wire_artifacts import FULL, anything

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

VALUES = [
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"-0",
    b"-1",
    b"1e999",
    b"-1e400000",
    b"1e400000",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"9223372036854775808",
    b"9" * 400,
    b"-" + b"9" * 400,
    b"9" * 5000,
    b"-" + b"9" * 5000,
    b"0." + b"9" * 5000,
    b'"' + b"9" * 5000 + b'"',
    b'"9999-12-31T23:59:59.999999Z"',
    b'"9999-12-31T23:59:59-05:00"',
    b'"9999-12-31"',
    b'"0001-01-01T00:00:00Z"',
    b'"0001-01-01T00:00:00+14:00"',
    b'"0000-01-01T00:00:00Z"',
    b'"1600-01-01T00:00:00Z"',
    b'"2026-11-23T12:00:00+99:99"',
    b'"2026-11-23T12:00:00.1234567Z"',
    b"-62135596800",
    b"253402300799",
    b'"\\ud800"',
    b'"\\u0000"',
    b'"a\0b\n"',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',
    b'"' + b"x" * (1 << 20) + b'"',
    b'"]},{[\\""',
    b"[" * 500 + b"]" * 500,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"id":' * 20_000 + b"1" + b"}" * 20_000,
    b'{"artifact":' * 500 + b"1" + b"}" * 500,
    b"oops",
    b"01",
    b'{"id" "x"}',
    b"{1: 2}",
]
KEYS = [
    *FULL, "artifact_id", "name", "data", "artifact", "job_id", "task_id", "index", "progress",
    "exit_code", "attempt", "finished_at", "result_quality", "live_feedback", "latest_progress",
    "error", "project", "x", "url", "part_number", "etag", "headers",
]  # fmt: skip

values = st.sampled_from(VALUES) | anything.map(lambda one: json.dumps(one).encode())


def object_of(members: list[tuple[str, bytes]]) -> bytes:
    return b"{" + b",".join(json.dumps(key).encode() + b":" + text for key, text in members) + b"}"


def entry_with(key: str, value: bytes) -> bytes:
    return object_of([(k, json.dumps(v).encode()) for k, v in FULL.items()] + [(key, value)])


odd_entries = (
    values
    | st.builds(entry_with, st.sampled_from(KEYS), values)
    | st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=6).map(object_of)
)


def listed(key: str | None, entries: list[bytes]) -> bytes:
    array = b"[" + b", ".join(entries) + b"]"
    return array if key is None else object_of([(key, array), ("next_cursor", b"null")])


def artifacts_in(body: bytes) -> list[Artifact]:
    return list(wire_artifacts.artifacts_fast(wire_artifacts.page_fast(body, "list").entries))


READERS: list[tuple[str, Callable[[bytes], list[Any]], Callable[[Any], Any]]] = [
    ("artifacts", artifacts_in, lambda one: one.id),
    (
        "jobs",
        lambda body: list(wire_jobs.jobs(wire_jobs.jobs_page(body, "list").entries)),
        lambda one: one.id,
    ),
    ("tasks", lambda body: list(wire_jobs.tasks_of(body, "list")), lambda one: one[0].id),
    (
        "projects",
        lambda body: list(wire_jobs.projects(wire_jobs.projects_page(body, "list").entries)),
        lambda one: one,
    ),
    (
        "parts",
        lambda body: list(wire_artifacts.part_urls(wire_artifacts.parse(body, "list"), "list")),
        lambda one: str(one.url).rpartition("/")[2],
    ),
    (
        "uploaded",
        lambda body: list(
            wire_artifacts.multipart_state(
                {"part_size": 1, "part_count": 3, **wire_artifacts.parse(body, "list")}
            ).uploaded
        ),
        lambda one: one.etag,
    ),
]
MORE = {"url": "https://a.example/good_%d", "etag": "good_%d", "name": "good_%d"}


def good(number: int, *, is_project: bool) -> bytes:
    more = {key: text % number for key, text in MORE.items()}
    more |= {"id": f"good_{number}"}
    return json.dumps((more if is_project else FULL | more) | {"part_number": 7 + number}).encode()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@pytest.mark.parametrize("reader", READERS, ids=[name for name, _, _ in READERS])
@given(odd=odd_entries, place=st.integers(0, 3), bare=st.booleans())
@example(odd=b"[" * 100_000 + b"]" * 100_000, place=1, bare=False)
def test_one_odd_entry_costs_no_other(
    reader: tuple[str, Callable[[bytes], list[Any]], Callable[[Any], Any]],
    odd: bytes,
    place: int,
    bare: bool,
) -> None:
    key, read, name_of = reader
    entries = [good(number, is_project=key == "projects") for number in range(3)]
    entries.insert(place, odd)
    found = read(listed(None if bare and key not in ("parts", "uploaded") else key, entries))
    named = [name_of(one) for one in found]
    assert [one for one in named if one in ("good_0", "good_1", "good_2")] == [
        "good_0",
        "good_1",
        "good_2",
    ]
    assert len(found) <= 4


@pytest.mark.parametrize("value", VALUES, ids=lambda one: repr(one[:30]))
@pytest.mark.parametrize("key", [None, *FULL, "x", "artifact", "data"])
def test_an_odd_value_costs_its_own_entry_at_most_and_is_named_once(
    key: str | None, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    odd = value if key is None else entry_with(key, value)
    usual = json.dumps(FULL | {"id": "good_1"}).encode()
    with caplog.at_level(logging.WARNING):
        found = artifacts_in(listed("artifacts", [odd, usual]))
    assert [one.id for one in found][-1] == "good_1"
    assert len(found) + len(caplog.records) == 2
    assert all(len(record.getMessage()) < 400 for record in caplog.records)
    if key in ("filename", "content_type", "created_at", "expires_at", "status", "job_id", "x"):
        assert [one.id for one in found] == ["art_1", "good_1"]
    for one in found:
        assert_usable(one)


def assert_usable(one: Artifact) -> None:
    """Everything that is done with an artifact later can be done."""
    assert 0 <= nanoseconds(one.created_at) < 1 << 63
    assert one.created_at.tzinfo is UTC
    assert one.expires_at.tzinfo is UTC
    assert one.created_at + timedelta(days=7)
    assert (one.expires_at - NOON).total_seconds()
    assert one.created_at.astimezone().isoformat()
    assert one.size_bytes is None or 0 <= one.size_bytes < 1 << 63
    assert quote(one.id, safe="")
    assert json.loads(json.dumps(dict(one.metadata), allow_nan=False)) == one.metadata
    other = copy.deepcopy(one)
    old = snapshot.listed(snapshot.Snapshot(), snapshot.gathered({}, [one]), NOON)
    assert snapshot.gathered(old.by_id, [other])[one.id] is one


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("created_at", "9999-12-31T00:00:00Z", wire_artifacts.FIRST_TIME),
        ("created_at", "0001-01-01T00:00:00Z", wire_artifacts.FIRST_TIME),
        ("created_at", 10**400, wire_artifacts.FIRST_TIME),
        ("created_at", "2200-01-01T00:00:00Z", datetime(2200, 1, 1, tzinfo=UTC)),
        ("expires_at", "9999-12-31T00:00:00Z", datetime(9999, 12, 31, tzinfo=UTC)),
        ("expires_at", "9999-12-31T23:59:59-05:00", wire_artifacts.LAST_TIME),
        ("expires_at", "0001-01-01T00:00:00Z", NOON + timedelta(days=7)),
        ("expires_at", 10**400, NOON + timedelta(days=7)),
    ],
)
def test_a_time_that_cannot_be_counts_as_absent(key: str, value: Any, expected: datetime) -> None:
    (found,) = artifacts_in(listed("artifacts", [json.dumps(FULL | {key: value}).encode()]))
    assert getattr(found, key) == expected


def test_an_absent_time_of_creation_means_no_expiry() -> None:
    odd = json.dumps(FULL | {"created_at": "9999-12-31", "expires_at": None}).encode()
    (found,) = artifacts_in(listed("artifacts", [odd]))
    assert found.expires_at == wire_artifacts.LAST_TIME


@pytest.mark.parametrize("value", VALUES, ids=lambda one: repr(one[:30]))
def test_an_odd_value_beside_the_list_does_not_matter(value: bytes) -> None:
    usual = json.dumps(FULL).encode()
    body = b'{"meta": %b, "artifacts": [%b]}' % (value, usual)
    try:
        json.loads(value.decode("utf-8", "replace"), parse_int=str, strict=False)
    except RecursionError:
        pass
    except ValueError:
        with pytest.raises(BadAnswer, match="not JSON"):  # only entries of a list are given up
            artifacts_in(body)
        return
    assert [one.id for one in artifacts_in(body)] == ["art_1"]


@pytest.mark.parametrize("value", [b"[1]", b'{"a": 1}', b"true", b"1.5", b'"\\ud800"', b"1e999"])
def test_a_cursor_that_cannot_be_asked_for_is_not_the_end(value: bytes) -> None:
    body = b'{"artifacts": [], "next_cursor": %b}' % value
    if value == b"1e999":  # stands as its text
        assert wire_artifacts.page_fast(body, "list").cursor == "1e999"
        return
    with pytest.raises(BadAnswer, match="next_cursor"):
        wire_artifacts.page_fast(body, "list")


@pytest.mark.parametrize("value", [b"null", b'""', b"false", b"[]", b"{}"])
def test_an_empty_cursor_is_the_end(value: bytes) -> None:
    body = b'{"artifacts": [], "next_cursor": %b}' % value
    assert wire_artifacts.page_fast(body, "list").cursor is None


def test_places_of_tasks_count_the_odd_ones() -> None:
    found = wire_jobs.tasks_of(b'[{"status": "failed"}, null, {"status": "completed"}]', "list")
    assert [(task.index, task.status) for task, _ in found] == [(0, "failed"), (2, "completed")]


def test_an_odd_entry_is_named_in_the_first_listing_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = listed("artifacts", [b'{"id": "odd", "size": -1}', json.dumps(FULL).encode()])
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with Scripted(sends(f"{head}\r\n".encode() + body)) as server:
        service = Service(server.url, TokenSource("test", value=Secret("flk_x")), HttpConfig())
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert [one.id for one in service.artifacts.list()] == ["art_1"]
        service.close()
    assert [record.getMessage() for record in caplog.records] == [
        "an artifact is left out, its size is impossible: 'odd'"
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[", b"{", b"[1", b'{"artifacts": [}', b'{"artifacts": [1}]', b"[1] [2]", b"[1,,2]",
        b"[1,]", b"[,1]", b"[,]", b'{"artifacts"}', b'{"artifacts": [] "x": 1}', b'["a]', b"oops",
        b"<html>", b'{"artifacts": []', b"[" * 100_000, b"[1]]", b'{1: [oops]}',
    ],
)  # fmt: skip
def test_what_is_cut_off_or_no_json_is_not_a_shorter_list(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        artifacts_in(body)
