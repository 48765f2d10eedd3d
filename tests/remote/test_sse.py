"""Server-sent events, however their bytes are cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from artifactfs.remote.sse import EventParser, ServerSentEvent

texts = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=12)
ends = st.sampled_from([b"\n", b"\r", b"\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[ServerSentEvent]]:
    """A stream's bytes, and what its events are by the standard."""
    wire = b"\xef\xbb\xbf" if draw(st.booleans()) else b""
    expected: list[ServerSentEvent] = []
    last_id = ""

    def line(content: str) -> bytes:
        end = draw(ends)
        if not content and end == b"\n" and wire.endswith(b"\r"):
            end = b"\r"  # else both together would be the end of one line
        return content.encode() + end

    for _ in range(draw(st.integers(0, 5))):
        kind, data = "message", draw(st.lists(texts, max_size=3))
        if draw(st.booleans()):
            wire += line(":" + draw(texts))
        if draw(st.booleans()):
            last_id = draw(texts)
            wire += line(f"id: {last_id}")
        if draw(st.booleans()):
            kind = draw(texts.filter(bool))
            wire += line(f"event: {kind}")
        for one in data:
            wire += line(f"data: {one}" if draw(st.booleans()) or one[:1] == " " else f"data:{one}")
        if draw(st.booleans()):
            wire += line("unknown: field")
        wire += line("")
        if data:
            expected.append(ServerSentEvent(kind, "\n".join(data), last_id))
    if draw(st.booleans()):
        wire += line("data: never completed")
    return wire, expected


def pieces(wire: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    for start, stop in itertools.pairwise(edges):
        yield wire[start:stop]


@given(streams(), st.lists(st.integers(0, 300)))
def test_events_are_the_same_wherever_the_stream_is_cut(
    stream: tuple[bytes, list[ServerSentEvent]], cuts: list[int]
) -> None:
    wire, expected = stream
    parser = EventParser()
    assert [event for piece in pieces(wire, cuts) for event in parser.feed(piece)] == expected


@given(
    st.integers(0, 400), st.lists(st.integers(0, 2000)), st.sampled_from([b"data: ", b":", b"x"])
)
def test_a_huge_frame_is_told_not_kept_and_the_next_one_is_whole(
    more: int, cuts: list[int], begins: bytes
) -> None:
    huge = begins + b"x" * (1000 + more) + b"\n"
    wire = b"id: 1\n" + huge + b"data: more\nid: 2\n\ndata: small\nid: 3\n\n"
    parser = EventParser(most_bytes=1000)
    events = [event for piece in pieces(wire, cuts) for event in parser.feed(piece)]
    assert events[-1] == ServerSentEvent("message", "small", "3")
    assert [event.id for event in events] == ["2", "3"]
    if begins == b"data: ":
        assert events[0].too_large
        assert events[0].data == ""


def test_many_small_comments_are_no_huge_frame() -> None:
    parser = EventParser(most_bytes=100)
    for _ in range(1000):
        assert parser.feed(b": heartbeat\n") == []
    assert parser.feed(b"data: x\n\n") == [ServerSentEvent("message", "x", "")]


def test_an_id_goes_on_until_another_is_said_and_retry_is_a_number() -> None:
    parser = EventParser(last_id="before")
    assert parser.feed(b"retry: 1500\ndata: a\n\n")[0].id == "before"
    assert parser.feed(b"id: 7\ndata: b\n\nretry: soon\ndata: c\n\n")[1].id == "7"
    assert parser.feed(b"id: no\0t\ndata: d\n\n")[0].id == "7"
    assert parser.feed(b"id\ndata: e\n\n")[0].id == ""
    assert parser.retry_ms == 1500


def test_bytes_that_are_no_utf_8_do_not_end_a_stream() -> None:
    assert EventParser().feed(b"data: \xff\xfe\n\n")[0].data == "\ufffd\ufffd"
