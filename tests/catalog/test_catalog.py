"""The catalog: own uploads, expiry and those who want to know."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from artifactfs.catalog import Catalog, Snapshot
from artifactfs.model import Artifact
from tests.helpers import wait_until

from .clock import HandClock
from .conftest import Lister, artifact


def test_our_own_upload_shows_at_once(catalog: Catalog) -> None:
    catalog.add(artifact("own", sha256="ab" * 32))
    assert [one.id for one in catalog.snapshot.artifacts] == ["own"]
    assert catalog.snapshot.by_sha256["ab" * 32].id == "own"


def test_our_own_upload_survives_the_listing_that_was_asked_for_before_it(
    catalog: Catalog, lister: Lister, clock: HandClock
) -> None:
    lister.gate.clear()
    lister.artifacts = [artifact("old", age_s=60)]
    catalog.start()
    assert lister.entered.acquire(timeout=5)
    clock.advance(0.5)
    catalog.add(artifact("own"))
    lister.gate.set()
    wait_until(lambda: catalog.snapshot.fetched_at is not None)
    assert [one.id for one in catalog.snapshot.artifacts] == ["own", "old"]
    clock.advance(1)
    assert catalog.refresh(10)
    assert [one.id for one in catalog.snapshot.artifacts] == ["old"]


def test_what_the_service_says_of_our_upload_counts_more_than_what_we_say(
    catalog: Catalog, lister: Lister, clock: HandClock
) -> None:
    lister.gate.clear()
    lister.artifacts = [artifact("own", content_type="text/csv")]
    catalog.start()
    assert lister.entered.acquire(timeout=5)
    catalog.add(artifact("own"))
    lister.gate.set()
    wait_until(lambda: catalog.snapshot.fetched_at is not None)
    assert catalog.snapshot.by_id["own"].content_type == "text/csv"


def test_what_expires_leaves_though_the_service_hangs(
    catalog: Catalog, lister: Lister, clock: HandClock
) -> None:
    lister.artifacts = [artifact("short", life_s=60), artifact("long", life_s=600)]
    catalog.start()
    assert catalog.refresh(10)
    lister.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(catalog.refresh, 0)
        clock.advance(59)
        catalog.expire()
        assert set(catalog.snapshot.by_id) == {"short", "long"}
        clock.advance(1)
        catalog.expire()
        assert set(catalog.snapshot.by_id) == {"long"}
        lister.gate.set()


def test_expiry_happens_by_itself(lister: Lister) -> None:
    now = datetime.now(UTC)
    short = Artifact("short", "short", now, now + timedelta(seconds=0.4))
    lister.artifacts = [short, Artifact("long", "long", now, now + timedelta(days=1))]
    catalog = Catalog(lister, ttl_s=3600)
    catalog.start()
    try:
        wait_until(lambda: catalog.snapshot.artifacts)
        lister.artifacts.clear()
        wait_until(lambda: set(catalog.snapshot.by_id) == {"long"})
        assert lister.calls == 1
    finally:
        catalog.close()


def test_listeners_hear_of_changes_in_order_and_of_nothing_else(
    catalog: Catalog, lister: Lister, clock: HandClock
) -> None:
    heard: list[tuple[Snapshot, Snapshot]] = []
    catalog.subscribe(lambda old, new: heard.append((old, new)))
    lister.artifacts = [artifact("a", life_s=60)]
    catalog.start()
    assert catalog.refresh(10)
    assert catalog.refresh(10)
    lister.failure = OSError("down")
    assert not catalog.refresh(10)
    catalog.add(artifact("b"))
    catalog.add(artifact("b"))
    clock.advance(60)
    catalog.expire()
    assert [[one.id for one in new.artifacts] for _, new in heard] == [["a"], ["b", "a"], ["b"]]
    for (_, before), (old, _) in pairwise(heard):
        assert old.artifacts is before.artifacts


def test_a_listener_that_fails_hurts_nobody_else(catalog: Catalog) -> None:
    heard = []

    def broken(old: Snapshot, new: Snapshot) -> None:
        raise KeyError("broken")

    catalog.subscribe(broken)
    catalog.subscribe(lambda old, new: heard.append(new.version))
    catalog.add(artifact("a"))
    assert heard == [1]


def test_uploads_from_many_threads_while_listings_come_all_stay(
    catalog: Catalog, lister: Lister
) -> None:
    catalog.start()
    stop = threading.Event()
    seen: list[int] = []
    catalog.subscribe(lambda old, new: seen.append(new.version))

    def upload(worker: int) -> None:
        for number in range(50):
            one = artifact(f"{worker}-{number}")
            lister.artifacts.append(one)
            catalog.add(one)

    def refresh() -> None:
        while not stop.is_set():
            catalog.refresh(1.0)

    with ThreadPoolExecutor(5) as pool:
        refreshing = pool.submit(refresh)
        for done in [pool.submit(upload, worker) for worker in range(4)]:
            done.result(30)
        stop.set()
        refreshing.result(30)
    assert len(catalog.snapshot.artifacts) == 200
    assert seen == sorted(seen)
