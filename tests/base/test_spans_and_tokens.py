"""Half-open ranges, and tokens that do not show themselves."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.byte_range import ByteRange
from artifactfs.errors import TokenMissing
from artifactfs.token import (
    NO_TOKEN,
    Secret,
    TokenSource,
)

spans = st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda pair: ByteRange(*sorted(pair)))


@given(spans, spans)
def test_spans_behave_like_sets_of_bytes(one: ByteRange, other: ByteRange) -> None:
    mine, theirs = (set(range(span.start, span.stop)) for span in (one, other))
    assert len(one) == len(mine)
    assert bool(one) == bool(mine)
    if mine and theirs:
        assert one.overlaps(other) == bool(mine & theirs)
        assert one.contains(other) == (theirs <= mine)


@given(spans, st.integers(0, 99))
def test_a_clipped_span_lies_inside_the_file(span: ByteRange, size_bytes: int) -> None:
    clipped = span.clip(size_bytes)
    inside = {offset for offset in range(span.start, span.stop) if offset < size_bytes}
    assert set(range(clipped.start, clipped.stop)) == inside


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2)])
def test_what_is_no_range_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="not a byte range"):
        ByteRange(start, stop)


def test_a_file_is_read_again_each_time(tmp_path: Path) -> None:
    path = tmp_path / "token"
    source = TokenSource("file", path=path)
    path.write_text("first\n")
    assert source.read().reveal() == "first"
    path.write_text("second\n")
    assert source.read().reveal() == "second"


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"two words", b"\xff\xfe", b"\x00"])
def test_a_file_without_a_token_says_so_and_shows_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(TokenMissing) as caught:
        TokenSource(str(path), path=path).read()
    assert "lines" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_source_names_the_ways_to_give_one() -> None:
    with pytest.raises(TokenMissing, match="ARTIFACTFS_TOKEN"):
        NO_TOKEN.read()


def test_a_secret_is_neither_shown_nor_pickled() -> None:
    secret = Secret("flk_secret")
    assert "flk" not in f"{secret} {secret!r} {TokenSource('x', value=secret)!r}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
