"""A header in any form is a value, or counts as absent: it never raises what no layer expects."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.byte_range import ByteRange
from artifactfs.errors import ArtifactfsError
from artifactfs.remote import Service
from artifactfs.remote.connection_pool import ConnectionPool
from artifactfs.remote.header_values import (
    ContentRange,
    content_range,
    http_date,
    whole_number,
)
from tests.fault_proxy import Reply, Scripted, sends

from .test_http_connection import Taken, artifact, plain, service_at

DIGITS = "9" * 5000
LISTING = b'{"artifacts": []}'


@pytest.mark.parametrize(
    ("value", "number"),
    [("0", 0), (" 12\t", 12), ("9" * 18, 10**18 - 1)]
    + [(odd, None) for odd in (None, "", "-1", "+1", "²", "1_0", "٣", "1.0", "9" * 19, DIGITS)],
)
def test_a_number_is_of_decimal_digits(value: str | None, number: int | None) -> None:
    assert whole_number(value) == number


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("bytes 0-9/10", ContentRange(0, 10, 10)),
        ("bytes  5-5/*", ContentRange(5, 6, None)),
        ("bytes */7", ContentRange(None, None, 7)),
        ("bytes */*", ContentRange(None, None, None)),
        ("bytes 9-0/10", None),
        (f"bytes 0-{DIGITS}/*", None),
        (f"bytes 0-9/{DIGITS}", None),
        ("bytes ²-9/10", None),
        ("items 0-9/10", None),
        (None, None),
    ],
)
def test_a_range_is_half_open(value: str | None, found: ContentRange | None) -> None:
    assert content_range(value) == found


@pytest.mark.parametrize(
    ("value", "date"),
    [
        ("Mon, 23 Nov 2026 12:00:00 GMT", datetime(2026, 11, 23, 12, tzinfo=UTC)),
        ("Mon, 23 Nov 2026 12:00:00", datetime(2026, 11, 23, 12, tzinfo=UTC)),
        ("Mon, 23 Nov 2026 12:00:00 +0100", datetime(2026, 11, 23, 11, tzinfo=UTC)),
        ("Fri, 31 Dec 9999 23:59:59 -2359", datetime(2261, 12, 31, tzinfo=UTC)),
        ("Mon, 01 Jan 1601 00:00:00 +2359", datetime(1970, 1, 1, tzinfo=UTC)),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999999999", None),
        (",", None),
        (DIGITS, None),
        (None, None),
    ],
)
def test_a_date_is_cut_to_ordinary_years(value: str | None, date: datetime | None) -> None:
    assert http_date(value) == date


@given(st.text(max_size=60))
def test_no_text_raises(text: str) -> None:
    for read in (whole_number, content_range, http_date):
        read(text)


def answers(*lines: str, status: str = "200 OK", body: bytes = b"") -> Reply:
    head = "".join(f"{line}\r\n" for line in lines)
    return sends(f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(plain) as running:
        yield running


@pytest.fixture(params=["directly", "by the library"])
def service(
    server: Scripted, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    if request.param == "by the library":
        monkeypatch.setattr(ConnectionPool, "speaks_to", lambda *_, **__: False)
    made = service_at(server.url)
    yield made
    made.close()


@pytest.mark.parametrize("size", [10, None])
@pytest.mark.parametrize(
    "reply",
    [
        answers(
            "Content-Length: 10", "Content-Range: bytes ²-9/10", status="206 P", body=b"x" * 10
        ),
        answers(
            "Content-Length: 10",
            f"Content-Range: bytes 0-9/{DIGITS}",
            status="206 P",
            body=b"x" * 10,
        ),
        answers("Content-Length: 0", f"Content-Range: bytes */{DIGITS}", status="416 X"),
        answers("Content-Length: 0", "Location: http://[::", status="302 X"),
        answers("Content-Length: 0", "Location: http://h:²/", status="307 X"),
        answers("Content-Length: 0", "Location: http://h:99999999/", status="303 X"),
    ],
)
def test_an_odd_header_fails_a_download_with_an_error_of_ours(
    server: Scripted, service: Service, reply: Reply, size: int | None
) -> None:
    server.replies = [reply]
    try:
        service.downloads.stream(
            artifact(size_bytes=size), ByteRange(0, 10), Taken(), deadline_s=0.0
        )
    except ArtifactfsError:
        pass
    else:
        assert size is None  # "past the end" is the end of what has no known size


@pytest.mark.parametrize("length", ["²", DIGITS])
def test_an_odd_length_counts_as_absent(server: Scripted, service: Service, length: str) -> None:
    def closes(connection: object, head: str) -> bool:
        answers(f"Content-Length: {length}", body=b"0123456789")(connection, head)  # type: ignore[arg-type]
        return False

    server.replies = [closes, closes]
    sink = Taken()
    service.downloads.stream(artifact(size_bytes=10), ByteRange(0, 10), sink, deadline_s=0.0)
    assert bytes(sink.data[:10]) == b"0123456789"


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +99999999999999999999",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        ",",
    ],
)
def test_an_odd_date_does_not_cost_the_listing(
    server: Scripted, service: Service, date: str
) -> None:
    length = f"Content-Length: {len(LISTING)}"
    server.replies = [answers(length, f"Date: {date}", body=LISTING)] * 2
    assert list(service.artifacts.list(deadline_s=0.0)) == []
    said = service.artifacts.probe()
    assert said is None or said.year == 2261


@pytest.mark.parametrize("location", ["http://[::", "http://h:²/", "http://h/x"])
def test_the_library_neither_follows_nor_reads_a_redirect(
    server: Scripted, service: Service, location: str
) -> None:
    """Its body could be of any size once it is decoded."""
    body = gzip.compress(bytes(64 << 20))
    headers = (f"Content-Length: {len(body)}", "Content-Encoding: gzip", f"Location: {location}")
    server.replies = [answers(*headers, status="302 Found", body=body)]
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactfsError):
            list(service.artifacts.list(deadline_s=0.0))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
