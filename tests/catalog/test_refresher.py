"""When the service is asked, and that nobody waits longer than they must."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from artifactfs.catalog import Catalog
from artifactfs.catalog.refresher import OVERDUE_S
from artifactfs.errors import Unreachable
from tests.helpers import wait_until

from .clock import HandClock
from .conftest import Lister, artifact


@pytest.fixture
def pool() -> object:
    with ThreadPoolExecutor(8) as one:
        yield one


@pytest.fixture
def started(catalog: Catalog, lister: Lister) -> Catalog:
    """Started, with its first listing."""
    catalog.start()
    wait_until(lambda: catalog.snapshot.fetched_at is not None)
    assert lister.entered.acquire(timeout=5)
    return catalog


def hold(lister: Lister) -> None:
    """Have the next listing wait."""
    lister.gate.clear()


def test_starting_lists(catalog: Catalog, lister: Lister) -> None:
    lister.artifacts = [artifact("a")]
    assert catalog.snapshot.fetched_at is None
    assert not catalog.is_fresh()
    catalog.start()
    assert catalog.freshen(1.0)
    assert [one.id for one in catalog.snapshot.artifacts] == ["a"]
    assert catalog.is_fresh()
    assert lister.calls == 1


def test_the_first_listing_is_waited_for_because_nothing_else_can_be_shown(
    catalog: Catalog, lister: Lister, pool: ThreadPoolExecutor
) -> None:
    hold(lister)
    lister.artifacts = [artifact("a")]
    catalog.start()
    assert lister.entered.acquire(timeout=5)
    waiting = pool.submit(catalog.freshen, 0.0)
    assert not waiting.done()
    lister.gate.set()
    assert waiting.result(10)
    assert catalog.snapshot.artifacts


def test_before_the_start_and_after_the_end_nobody_waits(catalog: Catalog) -> None:
    assert not catalog.refresh(None)
    assert not catalog.ask(60)
    assert not catalog.may_ask
    catalog.start()
    catalog.close()
    assert not catalog.refresh(None)
    assert not catalog.ask(60)


def test_a_listing_is_fresh_until_its_time_is_over(
    started: Catalog, lister: Lister, clock: HandClock
) -> None:
    clock.advance(9.9)
    assert started.is_fresh()
    assert started.freshen(1.0)
    assert lister.calls == 1
    clock.advance(0.2)
    assert not started.is_fresh()
    lister.artifacts = [artifact("new")]
    assert started.freshen(10.0)
    assert lister.calls == 2
    assert "new" in started.snapshot.by_id


def test_a_listing_that_takes_long_is_fresh_from_its_end(
    started: Catalog, lister: Lister, clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    hold(lister)
    refreshed = pool.submit(started.refresh, None)
    assert lister.entered.acquire(timeout=5)
    clock.advance(30)
    lister.gate.set()
    assert refreshed.result(10)
    assert started.is_fresh()


def test_a_hundred_callers_cost_one_listing_or_two(
    started: Catalog, lister: Lister, clock: HandClock
) -> None:
    hold(lister)
    with ThreadPoolExecutor(100) as pool:
        first = pool.submit(started.refresh, None)
        assert lister.entered.acquire(timeout=5)
        others = [pool.submit(started.refresh, None) for _ in range(99)]
        lister.gate.set()
        assert first.result(10)
        assert all(other.result(10) for other in others)
    assert lister.calls <= 3


def test_a_refresh_never_takes_an_answer_that_was_asked_for_before_it(
    started: Catalog, lister: Lister, pool: ThreadPoolExecutor
) -> None:
    hold(lister)
    early = pool.submit(started.refresh, None)
    assert lister.entered.acquire(timeout=5)
    lister.artifacts = [artifact("just uploaded elsewhere")]
    late = pool.submit(started.refresh, None)
    lister.gate.set()
    assert early.result(10)
    assert late.result(10)
    assert "just uploaded elsewhere" in started.snapshot.by_id


def test_freshening_joins_a_listing_on_its_way(
    started: Catalog, lister: Lister, clock: HandClock, pool: ThreadPoolExecutor
) -> None:
    clock.advance(11)
    hold(lister)
    waiting = [pool.submit(started.freshen, 10.0) for _ in range(8)]
    assert lister.entered.acquire(timeout=5)
    lister.gate.set()
    assert all(one.result(10) for one in waiting)
    assert lister.calls == 2


def test_a_hung_service_holds_up_nobody_beyond_their_wait(
    started: Catalog, lister: Lister, clock: HandClock
) -> None:
    hold(lister)
    clock.advance(11)
    began_s = time.monotonic()
    assert not started.freshen(0.05)
    assert not started.refresh(0.05)
    assert time.monotonic() - began_s < 5
    assert not started.overdue
    clock.advance(OVERDUE_S + 0.1)
    assert started.overdue
    assert not started.may_ask
    assert not started.ask(3600)
    assert not started.freshen(3600)
    lister.gate.set()
    wait_until(lambda: not started.overdue and started.is_fresh())


def test_closing_does_not_wait_for_ever_for_a_hung_service(
    started: Catalog, lister: Lister, pool: ThreadPoolExecutor
) -> None:
    hold(lister)
    waiting = pool.submit(started.refresh, None)
    assert lister.entered.acquire(timeout=5)
    closing = pool.submit(started.close)
    assert not waiting.result(10)
    lister.gate.set()
    closing.result(20)


def test_an_unknown_name_asks_at_most_once_a_second(
    started: Catalog, lister: Lister, clock: HandClock
) -> None:
    assert started.may_ask
    assert started.ask(10)
    assert lister.calls == 2
    assert not started.may_ask
    assert not started.ask(10)
    clock.advance(0.9)
    assert not started.ask(10)
    assert lister.calls == 2
    clock.advance(0.2)
    assert started.may_ask
    assert started.ask(10)
    assert lister.calls == 3


def test_names_unknown_at_one_time_share_what_is_asked(
    started: Catalog, lister: Lister, pool: ThreadPoolExecutor
) -> None:
    hold(lister)
    waiting: list[Future[bool]] = [pool.submit(started.ask, 10) for _ in range(8)]
    assert lister.entered.acquire(timeout=5)
    assert started.may_ask
    lister.gate.set()
    answers = [one.result(10) for one in waiting]
    assert any(answers)
    assert lister.calls == 2


def test_a_service_that_fails_leaves_the_last_listing_marked_stale(
    started: Catalog, lister: Lister, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    lister.artifacts = [artifact("a")]
    assert started.refresh(10)
    version = started.snapshot.version
    lister.failure = Unreachable("https://example.test does not answer", remedy="")
    assert not started.refresh(10)
    assert not started.refresh(10)
    assert "a" in started.snapshot.by_id
    assert started.snapshot.stale
    assert started.snapshot.error == "https://example.test does not answer"
    assert started.snapshot.version == version
    assert isinstance(started.failure, Unreachable)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    lister.failure = None
    assert started.refresh(10)
    assert not started.snapshot.stale
    assert started.snapshot.error is None
    assert started.failure is None


def test_while_the_service_fails_nobody_waits_but_it_is_tried_again(
    started: Catalog, lister: Lister, clock: HandClock
) -> None:
    lister.failure = Unreachable("gone")
    assert not started.refresh(10)
    calls = lister.calls
    assert not started.may_ask
    assert not started.ask(3600)
    assert lister.calls == calls
    clock.advance(11)
    lister.failure = None
    lister.artifacts = [artifact("new")]
    assert not started.freshen(3600)
    wait_until(lambda: "new" in started.snapshot.by_id and started.may_ask)


def test_a_service_that_failed_is_tried_again_without_anybody_asking(lister: Lister) -> None:
    lister.failure = Unreachable("gone")
    catalog = Catalog(lister, ttl_s=3600, retry_first_s=0.01)
    catalog.start()
    try:
        wait_until(lambda: lister.calls > 2)
        lister.failure = None
        wait_until(catalog.is_fresh)
        assert not catalog.snapshot.stale
    finally:
        catalog.close()


def test_a_listing_that_breaks_in_the_middle_changes_nothing(clock: HandClock) -> None:
    broken = threading.Event()

    def listing():
        yield artifact("a")
        if broken.is_set():
            raise ValueError("page 2 is no JSON")
        yield artifact("b")

    catalog = Catalog(listing, ttl_s=0, clock=clock, retry_first_s=3600)
    catalog.start()
    try:
        assert catalog.refresh(10)
        broken.set()
        assert not catalog.refresh(10)
        assert set(catalog.snapshot.by_id) == {"a", "b"}
        assert catalog.snapshot.error == "page 2 is no JSON"
    finally:
        catalog.close()
