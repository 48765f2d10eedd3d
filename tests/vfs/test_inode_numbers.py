"""Inode numbers: stable, and never the same for two things."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from artifactfs.vfs.inode_numbers import (
    InodeNumbers,
    NumberedThing,
    drop_ino,
    fixed_ino,
)

CONTROLLED = st.sampled_from([NumberedThing.ARTIFACT, NumberedThing.FOLDER])


def weak(key: bytes, seed: int) -> int:
    """A hash with four values only."""
    return (len(key) + seed) % 4


@settings(deadline=None)
@given(st.lists(st.tuples(CONTROLLED, st.text(max_size=12)), unique=True, max_size=60))
def test_what_collides_gets_another_number_and_keeps_it(keys: list[tuple[int, str]]) -> None:
    inodes = InodeNumbers(lambda key, seed: (sum(key) + seed) % 200)
    numbers: dict[tuple[int, str], int] = {}
    for kind, key in keys:
        inodes.claim(kind, key)
        numbers[kind, key] = inodes.of(kind, key)
        assert all(inodes.of(*known) == number for known, number in numbers.items())
    assert len(set(numbers.values())) == len(keys)
    assert all(number > 1 for number in numbers.values())


@settings(deadline=None)
@given(
    st.lists(st.text(max_size=12), unique=True, max_size=20),
    st.lists(st.text(max_size=12), unique=True, max_size=20),
    st.sampled_from([60, 200, 2**60]),
)
def test_claiming_many_at_once_is_claiming_each(
    before: list[str], keys: list[str], values: int
) -> None:
    one, other = (InodeNumbers(lambda key, seed: (sum(key) + 7 * seed) % values) for _ in range(2))
    for key in (*before, *keys):
        one.claim(NumberedThing.ARTIFACT, key)
    other.claim_all(NumberedThing.ARTIFACT, before)
    other.claim_all(NumberedThing.ARTIFACT, keys)
    for key in (*before, *keys):
        assert one.of(NumberedThing.ARTIFACT, key) == other.of(NumberedThing.ARTIFACT, key)


def test_a_number_is_free_again_once_its_owner_has_gone() -> None:
    inodes = InodeNumbers(weak)
    inodes.claim(NumberedThing.ARTIFACT, "aa")
    inodes.claim(NumberedThing.ARTIFACT, "bb")
    taken = {inodes.of(NumberedThing.ARTIFACT, key) for key in ("aa", "bb")}
    assert len(taken) == 2
    inodes.release(NumberedThing.ARTIFACT, "aa")
    inodes.claim(NumberedThing.ARTIFACT, "cc")
    assert {inodes.of(NumberedThing.ARTIFACT, key) for key in ("bb", "cc")} == taken


def test_claiming_twice_changes_nothing() -> None:
    inodes = InodeNumbers(weak)
    for _ in range(2):
        inodes.claim(NumberedThing.ARTIFACT, "aa")
        inodes.claim(NumberedThing.ARTIFACT, "bb")
    assert inodes.of(NumberedThing.ARTIFACT, "aa") != inodes.of(NumberedThing.ARTIFACT, "bb")


@settings(deadline=None)
@given(st.text(), st.integers(1, 2**50))
def test_numbers_are_stable_positive_and_of_one_kind(key: str, entry_id: int) -> None:
    numbers = {
        InodeNumbers().of(NumberedThing.ARTIFACT, key),
        InodeNumbers().of(NumberedThing.FOLDER, key),
        fixed_ino(key),
        drop_ino(entry_id, is_folder=False),
        drop_ino(entry_id, is_folder=True),
    }
    assert len(numbers) == 5
    assert all(1 < number < 2**63 for number in numbers)
    assert InodeNumbers().of(NumberedThing.ARTIFACT, key) in numbers


def test_numbers_are_the_same_in_every_version_of_this_program() -> None:
    assert InodeNumbers().of(NumberedThing.ARTIFACT, "art_dataset_123") == 875416367556103266
    assert drop_ino(1, is_folder=True) == 4611686018427387907
