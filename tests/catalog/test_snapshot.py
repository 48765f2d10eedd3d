"""Snapshots: made of the last one, ordered, cheap to compare."""

from __future__ import annotations

import time
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from artifactfs.catalog import Snapshot
from artifactfs.catalog import snapshot as snapshots
from artifactfs.model import Artifact

from .clock import START
from .conftest import artifact

artifacts = st.builds(
    lambda number, age, content, status: artifact(
        f"art_{number}", age_s=age, sha256=f"{content:064x}" if content else None, status=status
    ),
    st.integers(0, 12),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from(["ready", "pending"]),
)


def listed(before: Snapshot, found: list[Artifact]) -> Snapshot:
    return snapshots.listed(before, snapshots.gathered(before.by_id, iter(found)), START)


def sound(snapshot: Snapshot) -> None:
    """What every snapshot promises."""
    keys = [(one.created_at, one.id) for one in snapshot.artifacts]
    assert keys == sorted(keys, reverse=True)
    assert dict(snapshot.by_id) == {one.id: one for one in snapshot.artifacts}
    assert len(snapshot.by_id) == len(snapshot.artifacts)
    for content, one in snapshot.by_sha256.items():
        same = [other for other in snapshot.artifacts if other.sha256 == content]
        assert one is same[0]
    assert set(snapshot.by_sha256) == {one.sha256 for one in snapshot.artifacts} - {None}


@settings(deadline=None)
@given(st.lists(st.lists(artifacts, max_size=12), max_size=5), st.lists(artifacts, max_size=4))
def test_every_snapshot_is_sound_whatever_came_before(
    listings: list[list[Artifact]], added: list[Artifact]
) -> None:
    snapshot = Snapshot()
    for found in listings:
        snapshot = listed(snapshot, found)
        sound(snapshot)
        assert set(snapshot.by_id) == {one.id for one in found}
    together = snapshots.with_artifacts(snapshot, added)
    sound(together)
    for one in added:
        snapshot = snapshots.with_artifacts(snapshot, [one])
        sound(snapshot)
        assert snapshot.by_id[one.id] == one
    assert (together.artifacts, together.by_id) == (snapshot.artifacts, snapshot.by_id)
    for one in added:
        snapshot = snapshots.without(snapshot, {one.id})
        sound(snapshot)
        assert one.id not in snapshot.by_id


@settings(deadline=None)
@given(st.lists(artifacts, max_size=12), st.lists(artifacts, max_size=12))
def test_differences_lead_from_one_snapshot_to_the_next(
    first: list[Artifact], second: list[Artifact]
) -> None:
    old = listed(Snapshot(), first)
    new = listed(old, second)
    differences = snapshots.differences(old, new)
    by_id = dict(old.by_id)
    for one in differences.removed:
        assert by_id.pop(one.id) is one
    for one in differences.added:
        assert by_id.setdefault(one.id, one) is one
    assert by_id == dict(new.by_id)
    assert (old.version == new.version) == (not differences.removed and not differences.added)


def test_a_listing_without_news_shares_everything_with_the_last() -> None:
    old = listed(Snapshot(), [artifact("a"), artifact("b", metadata={"key": 1})])
    new = listed(old, [artifact("b", metadata={"key": 1}), artifact("a")])
    assert new.artifacts is old.artifacts
    assert new.by_id is old.by_id
    assert new.version == old.version


def test_changed_metadata_is_news_though_it_does_not_count_for_equality() -> None:
    old = listed(Snapshot(), [artifact("a", metadata={"key": 1}), artifact("b")])
    new = listed(old, [artifact("a", metadata={"key": 2}), artifact("b")])
    assert new.by_id["a"].metadata == {"key": 2}
    assert new.by_id["b"] is old.by_id["b"]
    assert new.version > old.version


def test_an_id_that_two_pages_list_counts_once() -> None:
    snapshot = listed(Snapshot(), [artifact("a", status="pending"), artifact("a")])
    assert [one.status for one in snapshot.artifacts] == ["ready"]


def test_what_the_service_lists_past_its_time_stays_until_it_is_not_listed() -> None:
    snapshot = listed(Snapshot(), [artifact("late", life_s=-5), artifact("soon", life_s=60)])
    assert snapshots.next_expiry(snapshot) == START + timedelta(seconds=60)
    assert snapshots.expired(snapshot, START + timedelta(seconds=59)) == set()
    assert snapshots.expired(snapshot, START + timedelta(seconds=60)) == {"soon"}
    assert listed(snapshot, []).artifacts == ()


def test_a_hundred_thousand_artifacts_are_indexed_in_no_time() -> None:
    many = [artifact(f"art_{number}", age_s=number) for number in range(100_000)]
    snapshot = listed(Snapshot(), many)
    began_s = time.perf_counter()
    again = listed(snapshot, many)
    one_more = snapshots.with_artifacts(again, [artifact("new")])
    snapshots.differences(again, one_more)
    assert time.perf_counter() - began_s < 2.0
    assert again.version == snapshot.version
