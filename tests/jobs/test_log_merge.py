"""Tails joined, against what was really printed."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from artifactfs.jobs.log_merge import (
    KNOWN_CHARS,
    SHORT_CHARS,
    SURE_CHARS,
    Tail,
    overlap,
)


@st.composite
def glimpses(draw: st.DrawFn) -> tuple[str, list[str], bool]:
    """What was printed in numbered lines, the tails that were seen, and whether these miss some."""
    chance = random.Random(draw(st.integers(0, 1 << 32)))
    printed = "".join(
        f"{number:05d} {''.join(chance.choices('abcdef ,é漢', k=chance.randrange(60)))}\n"
        for number in range(draw(st.integers(1, 1500)))
    )
    fastest = draw(st.sampled_from([10, 200, 1000, 5000]))
    most, varies = draw(st.integers(SHORT_CHARS, 6000)), draw(st.booleans())
    tails: list[str] = []
    missed, stop, seen_to = False, 0, -1
    while stop < len(printed) and len(tails) < 100:
        stop = min(stop + chance.randint(1, fastest), len(printed))
        limit = chance.randint(SHORT_CHARS, most) if varies else most
        start = max(0, stop - limit)
        missed = missed or -1 < seen_to < start
        tails.append(printed[start:stop])
        if chance.random() < 0.2:
            tails.append(tails[-1])  # an event that tells something else
        seen_to = stop
    return printed[: max(seen_to, 0)], tails, missed


@settings(max_examples=100, deadline=None)
@given(glimpses())
def test_nothing_comes_twice_and_no_gap_is_hidden(seen: tuple[str, list[str], bool]) -> None:
    printed, tails, missed = seen
    tail, parts = Tail(), [""]
    for one in tails:
        joined = tail.join(one)
        if joined.gap:
            parts.append("")
        parts[-1] += joined.text
    # Each part is one piece of what was printed; they come in order, and none overlaps another.
    place = 0
    for part in parts:
        found = printed.find(part, place)
        assert found >= 0
        place = found + len(part)
    assert place == len(printed)
    assert len(parts) > 1 or not missed


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 400))
def test_lines_that_repeat_are_never_doubled(steps: list[int], limit: int) -> None:
    printed, tail, shown = "", Tail(), ""
    for step in steps:
        printed += "tick\n" * step
        shown += tail.join(printed[-5 * limit :]).text
    assert len(shown) <= len(printed)
    if len(printed) <= 5 * limit:
        assert shown == printed


def test_a_short_beginning_is_joined_without_a_mark() -> None:
    tail = Tail()
    assert tail.join("hi\n").text == "hi\n"
    joined = tail.join("hi\n" + "x" * 3000)
    assert (joined.text, joined.gap) == ("x" * 3000, False)


def test_an_overlap_of_few_characters_is_marked_but_not_repeated() -> None:
    tail = Tail()
    tail.join("a" * 100 + "end\n")
    joined = tail.join("end\n" + "b" * 2000)
    assert (joined.text, joined.gap) == ("b" * 2000, True)


def test_an_older_glimpse_says_nothing_new() -> None:
    tail = Tail()
    tail.join("0123456789 first\nsecond\n")
    assert tail.join("0123456789 first\n").text == ""
    assert tail.join("second\n").text == ""


def test_what_was_cut_within_a_character_is_joined() -> None:
    tail = Tail()
    tail.join("x" * 50 + "漢" + "y" * 50)
    assert tail.join("\ufffd\ufffd" + "y" * 50 + "new").text == "new"


def test_only_the_end_is_kept_and_joined_by_what_is_kept() -> None:
    tail = Tail()
    text = "".join(f"{number}\n" for number in range(20_000))
    tail.join(text)
    assert len(tail.known) == KNOWN_CHARS
    assert tail.join(text[-KNOWN_CHARS - 100 :] + "more\n").text == "more\n"


@given(st.text("ab", max_size=80), st.text("ab", max_size=80))
def test_the_overlap_is_the_longest(known: str, tail: str) -> None:
    most = min(len(known), len(tail))
    longest = max(n for n in range(most + 1) if known.endswith(tail[:n]))
    assert overlap(known, tail) == longest
    assert SURE_CHARS > 0
