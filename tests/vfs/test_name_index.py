"""Who gets which name, and that it does not depend on what was there before."""

from __future__ import annotations

import time
from hashlib import sha256
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactfs.catalog import Snapshot
from artifactfs.catalog import snapshot as snapshots
from artifactfs.model import Artifact
from artifactfs.vfs import name_index as folders_module
from artifactfs.vfs.filenames import safe_path
from artifactfs.vfs.name_index import (
    NameChange,
    NameDirectory,
    NameIndex,
    names_of,
)
from tests.catalog.clock import START

from .fakes import artifact

HASHES = [digit * 8 + rest * 56 for digit in "0ab" for rest in "01"]  # three pairs begin alike
NAMES = [
    "a", "a/b", "a/b/c", "a/c", "data.csv", "x/data.csv", "data~00000000.csv", "a~00000000",
    "data~0000000011111111.csv", "data~aaaaaaaa.csv", "data~aaaaaaaa.csv/deep", "", "..", "n" * 300,
    "data~" + HASHES[0] + ".csv", "a~aaaaaaaa/b",
]  # fmt: skip


def no_hash(artifact_id: str) -> str:
    return sha256(artifact_id.encode()).hexdigest()[:8]


@st.composite
def listings(draw: st.DrawFn) -> list[Artifact]:
    ids = draw(st.lists(st.integers(0, 9), unique=True, max_size=8))
    return [
        artifact(
            draw(st.sampled_from(NAMES)),
            f"art_{number}",
            age_s=draw(st.integers(0, 3)),
            sha256=draw(st.sampled_from([*HASHES, None])),
            status=draw(st.sampled_from(["ready", "pending"])),
        )
        for number in ids
    ]


def view(folders: NameIndex) -> dict[str, str]:
    """Every path and what it means: an id, or "/"."""
    found = {}
    for folder in folders:
        for name, value in folder.entries.items():
            path = f"{folder.path}/{name}" if folder.path else name
            found[path] = value.id if isinstance(value, Artifact) else "/"
    return found


def apply(
    folders: NameIndex, old: Snapshot, listing: list[Artifact]
) -> tuple[Snapshot, list[NameChange]]:
    new = snapshots.listed(old, snapshots.gathered(old.by_id, listing), START)
    differ = snapshots.differences(old, new)
    applied = folders.apply(differ.removed, differ.added, 1)
    return new, [
        *applied.changed,
        *(NameChange("", name, was_there=False) for name in applied.fresh),
    ]


@pytest.mark.parametrize("many", [folders_module.MANY, 0])
@settings(deadline=None, max_examples=400)
@given(history=st.lists(listings(), min_size=1, max_size=5))
def test_names_depend_only_on_what_there_is(many: int, history: list[list[Artifact]]) -> None:
    folders, snapshot = NameIndex(0), Snapshot()
    for listing in history:
        before = view(folders)
        versions = {folder.path: folder.version for folder in folders}
        with patch.object(folders_module, "MANY", many):
            snapshot, changed = apply(folders, snapshot, listing)
        after = view(folders)
        anew = NameIndex(0)
        anew.apply((), listing, 1)
        assert after == view(anew)
        told = {f"{one.folder}/{one.name}" if one.folder else one.name for one in changed}
        assert told == {path for path in before | after if before.get(path) != after.get(path)} | {
            path for path in told if before.get(path) == after.get(path) == "/"
        }
        for folder in folders:
            if any(one.folder == folder.path for one in changed):
                assert folder.version != versions.get(folder.path)
            elif folder.path in versions:
                assert folder.version == versions[folder.path]


@settings(deadline=None, max_examples=300)
@given(listings())
def test_every_content_of_a_name_is_reachable_once_and_the_newest_stands_for_it(
    listing: list[Artifact],
) -> None:
    folders = NameIndex(0)
    folders.apply((), listing, 1)
    shown = [one for one in view(folders).values() if one != "/"]
    assert len(shown) == len(set(shown))
    newest: dict[tuple[str, str], Artifact] = {}
    for one in sorted(listing, key=lambda one: (one.created_at, one.id)):
        newest[one.filename, one.sha256 or one.id] = one
    assert set(shown) == {one.id for one in newest.values()}
    for one in listing:
        assert folders.has_name(one.id) == (one.id in shown)


@settings(deadline=None)
@given(listings())
def test_the_tree_is_whole(listing: list[Artifact]) -> None:
    folders = NameIndex(0)
    folders.apply((), listing, 1)
    reached = {""}
    waiting = [folders.get("")]
    while waiting:
        folder = waiting.pop()
        assert folder is not None
        inside = [one for one in folder.entries.values() if isinstance(one, NameDirectory)]
        assert folder.folders == len(inside)
        assert folder.entries or not folder.path
        reached |= {one.path for one in inside}
        waiting += inside
    assert reached == {folder.path for folder in folders}


def test_the_newest_has_the_plain_name_and_the_others_their_hash() -> None:
    old = artifact("same.txt", "1", age_s=3, sha256="aa" * 32)
    mid = artifact("same.txt", "2", age_s=2, sha256="bb" * 32)
    new = artifact("same.txt", "3", age_s=1, sha256="cc" * 32)
    assert names_of([new, mid, old]) == {
        "same.txt": new,
        "same~bbbbbbbb.txt": mid,
        "same~aaaaaaaa.txt": old,
    }


def test_one_name_and_one_content_are_one_entry() -> None:
    old = artifact("same.txt", "1", age_s=3, sha256="aa" * 32)
    again = artifact("same.txt", "2", age_s=2, sha256="aa" * 32)
    assert names_of([again, old]) == {"same.txt": again}


def test_an_older_content_that_comes_back_takes_the_plain_name() -> None:
    first = artifact("same.txt", "1", age_s=3, sha256="aa" * 32)
    other = artifact("same.txt", "2", age_s=2, sha256="bb" * 32)
    again = artifact("same.txt", "3", age_s=1, sha256="aa" * 32)
    assert names_of([again, other, first]) == {"same.txt": again, "same~bbbbbbbb.txt": other}


def test_without_a_hash_the_id_tells_apart() -> None:
    old = artifact("x.bin", "art_1", age_s=2)
    new = artifact("x.bin", "art_2", age_s=1)
    assert names_of([new, old]) == {"x.bin": new, f"x~{no_hash('art_1')}.bin": old}


def test_hashes_that_begin_alike_take_more_digits_the_younger_one_more() -> None:
    first = artifact("x", "1", age_s=3, sha256=HASHES[2])
    second = artifact("x", "2", age_s=2, sha256=HASHES[3])
    new = artifact("x", "3", age_s=1, sha256="c" * 64)
    assert names_of([new, second, first]) == {
        "x": new,
        "x~aaaaaaaa": first,
        f"x~{HASHES[3][:16]}": second,
    }


def test_an_artifact_that_is_really_called_so_keeps_its_name() -> None:
    old = artifact("x", "1", age_s=3, sha256="a" * 64)
    new = artifact("x", "2", age_s=2, sha256="b" * 64)
    real = [artifact(f"x~{'a' * digits}", f"r{digits}") for digits in (8, 16, 32, 64)]
    assert names_of([new, old, *real]) == {
        "x": new,
        f"x~{'a' * 64}~2": old,
        **{one.filename: one for one in real},
    }


def test_a_directory_keeps_its_name_and_the_file_beside_it_gives_way() -> None:
    folders = NameIndex(0)
    file = artifact("a", "1", sha256="a" * 64)
    below = artifact("a/b", "2", sha256="b" * 64)
    folders.apply((), [file], 1)
    assert view(folders) == {"a": "1"}
    folders.apply((), [below], 2)
    assert view(folders) == {"a": "/", "a/b": "2", "a~aaaaaaaa": "1"}
    folders.apply([below], (), 3)
    assert view(folders) == {"a": "1"}


def test_a_folder_that_comes_back_has_another_version() -> None:
    folders = NameIndex(0)
    one = artifact("d/x", "1")
    versions = set()
    for moment in range(4):
        folders.apply((), [one], moment)
        folder = folders.get("d")
        assert folder is not None
        versions.add(folder.version)
        folders.apply([one], (), moment)
        assert folders.get("d") is None
    assert len(versions) == 4


def test_a_new_record_of_an_artifact_changes_no_name() -> None:
    folders = NameIndex(0)
    pending = artifact("x", "1", status="pending")
    ready = artifact("x", "1", status="ready")
    folders.apply((), [pending], 1)
    assert folders.apply([pending], [ready], 2).changed == []
    top = folders.get("")
    assert top is not None
    assert top.entries["x"] is ready


def test_readers_keep_the_entries_that_they_have_taken() -> None:
    folders = NameIndex(0)
    folders.apply((), [artifact("x")], 1)
    top = folders.get("")
    assert top is not None
    taken = top.entries
    folders.apply((), [artifact("y")], 2)
    assert set(taken) == {"x"}
    assert set(top.entries) == {"x", "y"}


def test_names_in_two_folders_do_not_meet() -> None:
    one, two = artifact("a/x", "1"), artifact("b/x", "2")
    assert names_of([one, two]) == {"a/x": one, "b/x": two}


def test_a_hundred_thousand_names_are_given_in_a_moment_and_one_more_in_less() -> None:
    many = [artifact(f"run{number % 100}/file{number}", str(number)) for number in range(100_000)]
    folders = NameIndex(0)
    began_s = time.perf_counter()
    folders.apply((), many, 1)
    given_s = time.perf_counter()
    folders.apply((), [artifact("run1/another")], 2)
    ended_s = time.perf_counter()
    assert given_s - began_s < 3.0
    assert ended_s - given_s < 0.5
    assert safe_path("run1/another") == "run1/another"
