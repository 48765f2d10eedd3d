"""Ranges and conditions, by themselves and over HTTP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.server.range_response import (
    RangePart,
    Unsatisfiable,
    not_modified,
    part_of,
    precondition_fails,
)
from tests.server.conftest import Client, code_of, sha256

TAG = '"abc"'


def asked(value: str, size: int, **more: str) -> RangePart | None:
    """What a range gets; None for 416."""
    try:
        return part_of({"Range": value, **more}, TAG, size)
    except Unsatisfiable:
        return None


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_a_range_is_the_bytes_it_names_clipped_to_the_content(
    start: int, length: int, size: int
) -> None:
    last = start + length
    part = asked(f"bytes={start}-{last}", size)
    if start >= size:
        assert part is None
    else:
        assert part == RangePart(start, min(last + 1, size), True)


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_an_open_range_goes_to_the_end(start: int, size: int) -> None:
    part = asked(f"bytes={start}-", size)
    assert part == (None if start >= size else RangePart(start, size, True))


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_a_suffix_is_the_last_bytes_or_all_of_them(count: int, size: int) -> None:
    part = asked(f"bytes=-{count}", size)
    assert part == (
        None if count == 0 or size == 0 else RangePart(max(0, size - count), size, True)
    )


@given(st.text(max_size=40), st.integers(0, 1 << 40))
def test_whatever_stands_in_a_range_header_stays_inside_the_content(text: str, size: int) -> None:
    part = asked(text, size)
    assert part is None or 0 <= part.start <= part.stop <= size


@given(
    st.text("0123456789", max_size=6000), st.text("0123456789", max_size=6000), st.integers(0, 99)
)
def test_numbers_of_any_length_are_numbers(first: str, last: str, size: int) -> None:
    part = asked(f"bytes={first}-{last}", size)
    assert part is None or 0 <= part.start <= part.stop <= size


@pytest.mark.parametrize(
    "value",
    ["", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "items=0-1", "bytes=٣-٤"],
)
def test_what_is_no_single_range_gets_the_whole(value: str) -> None:
    assert asked(value, 10) == RangePart(0, 10, False)


@pytest.mark.parametrize("value", ['"other"', f"W/{TAG}", "Tue, 24 Nov 2026 00:00:00 GMT"])
def test_if_range_with_anything_but_the_strong_tag_gets_the_whole(value: str) -> None:
    assert asked("bytes=0-1", 10, **{"If-Range": value}) == RangePart(0, 10, False)


def test_if_range_with_the_tag_gets_the_range() -> None:
    assert asked("bytes=0-1", 10, **{"If-Range": TAG}) == RangePart(0, 2, True)


@pytest.mark.parametrize("value", [TAG, "*", f"W/{TAG}", f'"x", {TAG}', f'"a,b",W/{TAG}'])
def test_if_none_match_knows_the_tag_in_every_form(value: str) -> None:
    assert not_modified({"If-None-Match": value}, TAG)


@pytest.mark.parametrize("value", ["", '"x"', "abc", '"*"'])
def test_if_none_match_with_another_tag_does_not_match(value: str) -> None:
    assert not not_modified({"If-None-Match": value}, TAG)


def test_if_match_wants_the_strong_tag() -> None:
    assert not precondition_fails({}, TAG)
    assert not precondition_fails({"If-Match": f'"x", {TAG}'}, TAG)
    assert not precondition_fails({"If-Match": "*"}, TAG)
    assert precondition_fails({"If-Match": f"W/{TAG}"}, TAG)
    assert precondition_fails({"If-Match": '"x"'}, TAG)


@pytest.mark.parametrize("size", [0, 1, 5000, 300_000])
def test_over_http_a_range_is_answered_206_with_its_bytes(client: Client, size: int) -> None:
    """A small content is answered at once, a larger one by sendfile."""
    data = bytes(index * 7 % 251 for index in range(size))
    path = f"artifacts/{client.upload(data)['id']}"
    for first, last in [(0, 0), (1, 9), (size // 2, size), (max(size - 1, 0), size + 5)]:
        answer = client.get(path, headers={"Range": f"bytes={first}-{last}"})
        if first >= size:
            assert answer.status_code == 416
            assert code_of(answer) == "range_not_satisfiable"
            assert answer.headers["Content-Range"] == f"bytes */{size}"
        else:
            assert answer.status_code == 206
            assert answer.content == data[first : last + 1]
            stop = min(last, size - 1)
            assert answer.headers["Content-Range"] == f"bytes {first}-{stop}/{size}"
            assert answer.headers["Content-Length"] == str(stop - first + 1)
            assert answer.headers["ETag"] == f'"{sha256(data)}"'
    suffix = client.get(path, headers={"Range": "bytes=-3"})
    assert (suffix.status_code, suffix.content) == (
        (206, data[-3:]) if size else (416, suffix.content)
    )


def test_over_http_conditions_are_answered_304_and_412(client: Client) -> None:
    data = b"conditional"
    path, tag = f"artifacts/{client.upload(data)['id']}", f'"{sha256(data)}"'
    unchanged = client.get(path, headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["ETag"] == tag
    assert client.get(path, headers={"If-None-Match": '"x"'}).content == data
    failed = client.get(path, headers={"If-Match": '"x"'})
    assert failed.status_code == 412
    assert code_of(failed) == "precondition_failed"
    assert client.get(path, headers={"If-Match": tag}).content == data
    other = client.get(path, headers={"Range": "bytes=0-1", "If-Range": '"x"'})
    assert (other.status_code, other.content) == (200, data)


def test_head_ignores_a_range_and_says_the_size_of_the_whole(client: Client) -> None:
    data = bytes(200_000)
    path = f"artifacts/{client.upload(data)['id']}"
    answer = client.ask("HEAD", path, headers={"Range": "bytes=0-1"})
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == "200000"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"] == f'"{sha256(data)}"'
