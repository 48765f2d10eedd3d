"""A content's two files are a pair, or nobody believes the one what it says of the other."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifactfs.cache.blocks import ABSENT, BLOCK_BYTES
from artifactfs.cache.cache_layout import CachePaths
from artifactfs.cache.data_file import open_pair, opening
from artifactfs.cache.disk_format import Sidecar

SIZE = 5 * BLOCK_BYTES + 3
Pair = tuple[int, Sidecar]


@pytest.fixture
def place(tmp_path: Path) -> CachePaths:
    return CachePaths("key", str(tmp_path / "deep/er/content"))


def close(*pairs: Pair) -> None:
    for descriptor, sidecar in pairs:
        os.close(descriptor)
        sidecar.close()


def of(pair: Pair) -> tuple[int, int]:
    """Which file of bytes and which sidecar it is."""
    return os.fstat(pair[0]).st_ino, pair[1].generation


def test_who_opens_a_content_gets_the_pair_that_others_have(place: CachePaths) -> None:
    one = open_pair(place, SIZE)
    other = open_pair(place, SIZE)
    assert of(one) == of(other)
    assert os.fstat(one[0]).st_size == SIZE
    one[1].record(2, [77])
    close(one, other)
    again = open_pair(place, SIZE)
    assert list(again[1].sums(0, 4)) == [0, 0, 77, 0]
    close(again)


@pytest.mark.parametrize("spoil", ["no bytes", "no sidecar", "cut bytes", "other sidecar"])
def test_what_is_no_pair_any_more_is_left_to_those_who_have_it(
    place: CachePaths, spoil: str
) -> None:
    held = open_pair(place, SIZE)
    held[1].record(0, [5] * 6)
    match spoil:
        case "no bytes":
            Path(place.path).unlink()
        case "no sidecar":
            Path(place.sidecar).unlink()
        case "cut bytes":
            os.truncate(place.path, 0)
        case "other sidecar":
            elsewhere = CachePaths("other", place.path + "-other")
            close(open_pair(elsewhere, SIZE))
            Path(elsewhere.sidecar).replace(place.sidecar)
    anew = open_pair(place, SIZE)
    (ino, generation), (old_ino, old_generation) = of(anew), of(held)
    assert ino != old_ino
    assert generation != old_generation
    assert set(anew[1].flags()) == {ABSENT}
    assert anew[1].own()  # nobody has seen these bytes to be right
    assert list(held[1].sums(0, 2)) == [5, 5]
    held[1].record(1, [6])
    assert list(anew[1].sums(0, 2)) == [0, 0]
    joined = open_pair(place, SIZE)
    assert of(joined) == of(anew)
    close(held, anew, joined)


def test_those_who_open_at_the_same_time_get_one_pair(place: CachePaths) -> None:
    with ThreadPoolExecutor(8) as threads:
        for number in range(20):
            here = CachePaths("key", f"{place.path}-{number}")
            pairs = list(threads.map(lambda _, here=here: open_pair(here, SIZE), range(8)))
            assert len({of(pair) for pair in pairs}) == 1
            close(*pairs)


def test_a_pair_that_others_are_making_is_waited_for(place: CachePaths) -> None:
    making = open_pair(place, SIZE)
    with opening(making[0]) as is_mine, ThreadPoolExecutor(1) as thread:
        assert is_mine
        with pytest.raises(OSError, match="opened or removed by others"):
            thread.submit(open_pair, place, SIZE).result()
    joined = open_pair(place, SIZE)
    assert of(joined) == of(making)
    close(making, joined)


def test_a_content_of_no_bytes_has_a_pair_too(place: CachePaths) -> None:
    one, other = open_pair(place, 0), open_pair(place, 0)
    assert of(one) == of(other)
    close(one, other)


def test_a_sidecar_takes_its_place_whoever_makes_one_at_the_same_time(place: CachePaths) -> None:
    close(open_pair(place, SIZE))
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda ino: Sidecar.new(place.sidecar, SIZE, ino), range(400)))
    for sidecar in made:
        sidecar.close()
    assert [one.name for one in Path(place.path).parent.iterdir() if one.suffix == ".new"] == []
    assert sum(bool(Sidecar.existing(place.sidecar, SIZE, ino)) for ino in range(400)) == 1
