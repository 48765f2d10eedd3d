"""Any text becomes a safe path, and no two become one."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from artifactfs.vfs import filenames

STRANGE = [
    "../../etc/passwd", "..", ".", "", "...", "/", "//", "/absolute", "a//b", "a/./b", "a/../b",
    "nul\0inside", "new\nline", "-rf", "x" * 255, "x" * 256, "x" * 300, "x" * 300 + ".csv",
    "☃" * 100, "☃" * 85, "🎉.csv", "drop", ".artifactfs", "100%", "%", "%~", "%%", "%25", "%2F",
    "percent%2Fname", "percent/name", "percent%2fname", "tab\tname", "\x7f\x1b[31mred", "a/",
    "trailing//", "trailing/", "\ud800 lone", "\udcff\udcfe", "\udcc3\udca9", "é", "e\u0301",
    "\x85", "%ED", "x~%", "name~12345678.csv", "a/" * 500 + "b", "a/" * 39 + "b", "a/" * 40 + "b",
    "a/" * 41 + "b", ("y" * 250 + "/") * 20 + "end", "n" * 300 + "/" + "n" * 300, ".bashrc",
    "a.tar.gz", "a.", "a/\n",
]  # fmt: skip

characters = st.characters() | st.sampled_from("/.%~\0\n\x7f\ud800\udcff é🎉-2Ff")
texts = st.one_of(
    st.text(characters, max_size=30),
    st.text(st.sampled_from("/.%~2F5"), max_size=12),
    st.text(max_size=400),
    st.binary(max_size=300).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.lists(st.text(st.sampled_from("ab/."), max_size=60), max_size=80).map("/".join),
    st.sampled_from(STRANGE),
)


def is_safe(component: str) -> bool:
    raw = component.encode()  # which raises where it is no UTF-8
    return (
        0 < len(raw) <= 255
        and component not in (".", "..")
        and b"/" not in raw
        and not any(byte < 32 or byte == 127 for byte in raw)
        and not any("\x80" <= one <= "\x9f" for one in component)
    )


@settings(deadline=None)
@given(texts)
@example("☃" * 86)
def test_every_name_becomes_a_path_of_safe_components(text: str) -> None:
    path = filenames.safe_path(text)
    assert all(is_safe(component) for component in path.split("/"))
    assert len(path.encode()) <= filenames.PATH_MAX_BYTES
    assert path.count("/") < filenames.DEPTH_MAX
    assert path == filenames.safe_path(text)


@settings(deadline=None)
@given(texts)
def test_every_text_becomes_one_safe_component(text: str) -> None:
    assert is_safe(filenames.safe_name(text))


@settings(deadline=None)
@given(texts)
def test_what_was_not_shortened_is_decoded_to_what_it_was(text: str) -> None:
    for made in (filenames.safe_path(text), filenames.safe_name(text)):
        if filenames.is_shortened(made):
            assert filenames.decoded(made) is None
        else:
            assert filenames.decoded(made) == text


@settings(deadline=None)
@given(st.lists(texts, max_size=20, unique=True))
@example(STRANGE)
def test_two_names_never_become_one(different: list[str]) -> None:
    assert len({filenames.safe_path(text) for text in different}) == len(different)
    assert len({filenames.safe_name(text) for text in different}) == len(different)


@settings(deadline=None)
@given(texts)
def test_what_was_escaped_never_looks_like_a_name_of_its_own(text: str) -> None:
    made = filenames.safe_path(text)
    if made != text:
        assert filenames.safe_path(made) != made


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=60))
def test_an_ordinary_name_stays_as_it_is(text: str) -> None:
    for name in (text, f"{text}.csv", f"results/{text}", f"{text} (1).tar.gz", f"é{text}"):
        assert filenames.safe_path(name) == name


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd"),
        ("/absolute", "%2Fabsolute"),
        ("a//b", "a/%2Fb"),
        ("trailing/", "trailing%2F"),
        ("new\nline", "new%0Aline"),
        ("percent%2Fname", "percent%252Fname"),
        ("100%", "100%"),
        ("50% off", "50% off"),
        ("...", "..."),
        ("-rf", "-rf"),
        ("\udcff", "%ED%B3%BF"),
        ("a/b", "a/b"),
    ],
)
def test_names_as_they_are_documented(name: str, path: str) -> None:
    assert filenames.safe_path(name) == path


def test_a_shortened_name_keeps_its_beginning_and_its_extension() -> None:
    made = filenames.safe_name("measurement " * 40 + ".parquet")
    assert made.startswith("measurement measurement ")
    assert made.endswith(".parquet")
    assert len(made) == 255


def test_a_path_that_is_too_deep_ends_in_one_component() -> None:
    deep = "/".join(f"level{number}" for number in range(100))
    path = filenames.safe_path(deep)
    assert path.startswith("level0/level1/")
    assert path.count("/") == filenames.DEPTH_MAX - 1
    assert filenames.safe_path(deep + "x") != path


@pytest.mark.parametrize(
    ("name", "told_apart"),
    [
        ("data.csv", "data~0123abcd.csv"),
        ("a.tar.gz", "a.tar~0123abcd.gz"),
        (".bashrc", ".bashrc~0123abcd"),
        ("Makefile", "Makefile~0123abcd"),
        ("a.", "a~0123abcd."),
        ("...", "...~0123abcd"),
    ],
)
def test_a_tag_stands_before_the_extension(name: str, told_apart: str) -> None:
    assert filenames.tagged(name, "0123abcd") == told_apart
    assert filenames.untagged(told_apart) == name


@settings(deadline=None)
@given(texts, st.sampled_from([1, 2, 4, 8]), st.sampled_from(["", "~2", "~17"]))
def test_a_tag_can_be_taken_off_again(text: str, length: int, count: str) -> None:
    name = filenames.safe_name(text)
    made = filenames.tagged(name, "0123abcd" * length + count)
    assert is_safe(made)
    if len(name.encode()) < 255 - 70:
        assert filenames.untagged(made) == name


@pytest.mark.parametrize(
    "name", ["data.csv", "a~b.csv", "a~0123abc.csv", "~0123abcd", "a~0123ABCD"]
)
def test_what_has_no_tag_has_none(name: str) -> None:
    assert filenames.untagged(name) is None


@settings(deadline=None)
@given(st.lists(texts, max_size=30))
@example(["a"] * 2500 + ["%"] + ["b"] * 10)
def test_odd_names_are_those_that_may_not_stay(many: list[str]) -> None:
    odd = list(filenames.odd_names(many))
    assert {text for text in many if filenames.safe_name(text) != text} <= set(odd) <= set(many)
    assert not any(text.isalnum() and text.isascii() and len(text) < 200 for text in odd)
