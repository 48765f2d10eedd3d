"""How fast bytes move, from what a mount says time and again."""

from __future__ import annotations

from artifactfs.cli.status import WINDOW_S, TransferRates


def cache(fetched_bytes: int = 0, hits: int = 0, misses: int = 0) -> dict[str, int]:
    return {"fetched_bytes": fetched_bytes, "hits": hits, "misses": misses}


def upload(name: str, size: int, progress: float) -> dict[str, object]:
    return {"name": name, "size": size, "progress": progress}


def test_one_look_tells_no_rate() -> None:
    rates = TransferRates()
    rates.look(10.0, cache(500), [upload("a", 100, 0.5)])
    assert rates.document() == {"fetched_bytes_s": None, "sent_bytes_s": None, "hit_part": None}


def test_a_rate_is_what_was_added_in_the_time_between() -> None:
    rates = TransferRates()
    rates.look(10.0, cache(500, 4, 4), [upload("a", 100, 0.5)])
    rates.look(12.0, cache(2500, 7, 5), [upload("a", 100, 0.9)])
    assert rates.fetched_bytes_s == 1000
    assert rates.sent_bytes_s == 20
    assert rates.hit_part == 0.75


def test_what_is_over_for_long_counts_no_more() -> None:
    rates = TransferRates()
    rates.look(0.0, cache(), [])
    rates.look(1.0, cache(1000, 10, 0), [])
    for second in range(2, 2 + int(WINDOW_S)):
        rates.look(float(second), cache(1000, 10, 0), [])
    assert rates.fetched_bytes_s == 0
    assert rates.hit_part is None


def test_a_file_that_leaves_or_begins_anew_takes_nothing_back() -> None:
    rates = TransferRates()
    rates.look(0.0, cache(), [upload("a", 100, 1.0), upload("b", 100, 0.6)])
    rates.look(1.0, cache(), [upload("b", 100, 0.0), upload("c", 300, 0.1)])
    assert rates.sent_bytes_s == 30
    rates.look(2.0, cache(), [upload("b", 100, 0.5)])
    assert rates.sent_bytes_s == 40


def test_a_mount_that_was_made_anew_is_looked_at_anew() -> None:
    rates = TransferRates()
    rates.look(0.0, cache(5000), [])
    rates.look(1.0, cache(100), [])
    assert rates.fetched_bytes_s is None
    rates.look(2.0, cache(300), [])
    assert rates.fetched_bytes_s == 200
