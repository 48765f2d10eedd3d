"""What all streams together may have planned."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from artifactfs.cache.readahead_budget import ReadaheadBudget

TOTAL = 1 << 20


def ask(
    allowance: ReadaheadBudget, who: str, wanted_bytes: int, *, ahead: int = 0, read: int = 0
) -> int:
    return allowance.ask(who, wanted_bytes, ahead_bytes=ahead, read_bytes=read)


def test_one_alone_has_what_it_wants() -> None:
    assert ask(ReadaheadBudget(TOTAL), "one", TOTAL // 2) == TOTAL // 2


def test_two_divide_it_evenly() -> None:
    allowance = ReadaheadBudget(TOTAL)
    ask(allowance, "one", TOTAL)
    second = ask(allowance, "two", TOTAL)
    first = ask(allowance, "one", TOTAL, ahead=0)
    second = ask(allowance, "two", TOTAL, ahead=second)
    assert first == second > TOTAL // 4


def test_one_more_always_gets_a_little() -> None:
    allowance = ReadaheadBudget(TOTAL)
    ask(allowance, "one", TOTAL)
    assert ask(allowance, "two", TOTAL) > 0


def test_who_asks_no_more_does_not_count_after_others_have_read_much() -> None:
    allowance = ReadaheadBudget(TOTAL)
    alone = ask(allowance, "gone", TOTAL)
    assert ask(allowance, "one", TOTAL) < alone
    assert ask(allowance, "one", TOTAL, read=3 * TOTAL) == alone


def test_what_is_given_back_is_there_for_others() -> None:
    allowance = ReadaheadBudget(TOTAL)
    alone = ask(allowance, "one", TOTAL)
    allowance.give_back("one")
    assert ask(allowance, "two", TOTAL) == alone


@given(
    st.integers(0, 1 << 30),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 1 << 30)), max_size=300),
)
def test_all_together_never_hold_more_than_the_total(
    total_bytes: int, asked: list[tuple[int, int]]
) -> None:
    allowance = ReadaheadBudget(total_bytes)
    granted: dict[int, int] = {}
    for who, wanted_bytes in asked:
        ahead = granted.get(who, 0)
        granted[who] = max(ahead, ask(allowance, str(who), wanted_bytes, ahead=ahead))
        assert sum(granted.values()) <= total_bytes
        assert allowance.held_bytes == sum(granted.values())
