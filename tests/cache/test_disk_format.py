"""The sidecar: what is written into it every mount sees; what is unsound nobody believes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactfs.cache.blocks import (
    ABSENT,
    BLOCK_BYTES,
    STORED,
)
from artifactfs.cache.disk_format import (
    HEADER_BYTES,
    Sidecar,
    peek,
)

COUNT = 40
SIZE = COUNT * BLOCK_BYTES - 5
IN_A_DIRECTORY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def opened(tmp_path: Path, size_bytes: int = SIZE, inode: int = 7) -> Sidecar:
    path = str(tmp_path / "x.grains")
    return Sidecar.existing(path, size_bytes, inode) or Sidecar.new(path, size_bytes, inode)


@IN_A_DIRECTORY
@given(st.dictionaries(st.integers(0, COUNT - 1), st.integers(1, 2**64 - 1)))
def test_what_one_mount_writes_down_every_other_reads(tmp_path: Path, sums: dict[int, int]) -> None:
    (tmp_path / "x.grains").unlink(missing_ok=True)
    one, other = opened(tmp_path), opened(tmp_path)
    for grain, total in sums.items():
        one.record(grain, [total])
    assert list(other.sums(0, COUNT)) == [sums.get(grain, 0) for grain in range(COUNT)]
    assert [flag == STORED for flag in other.flags()] == [grain in sums for grain in range(COUNT)]
    for grain in sums:
        other.forget(grain, grain + 1)
    assert set(one.flags()) == {ABSENT}
    one.close()
    other.close()


def test_it_is_the_same_one_when_it_is_opened_again(tmp_path: Path) -> None:
    one = opened(tmp_path)
    one.describe(77, verified=True)
    one.close()
    again = opened(tmp_path)
    assert (again.generation, again.is_verified) == (one.generation, True)
    again.close()
    assert peek((tmp_path / "x.grains").read_bytes()) == (SIZE, 77, True)


def test_every_mount_knows_of_which_version_the_bytes_are(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    assert other.version() == 0
    one.set_version(2**64 - 1)
    other.describe(5, verified=False)
    assert one.version() == other.version() == 2**64 - 1
    one.close()
    other.close()
    assert Sidecar.new(str(tmp_path / "x.grains"), SIZE, 7).version() == 0


@pytest.mark.parametrize("spoil", ["cut", "flip", "other size", "other file"])
def test_one_that_is_not_sound_is_made_anew(tmp_path: Path, spoil: str) -> None:
    one = opened(tmp_path)
    one.record(0, [5, 6, 7])
    one.close()
    path = tmp_path / "x.grains"
    data = bytearray(path.read_bytes())
    if spoil == "cut":
        path.write_bytes(data[:30])
    elif spoil == "flip":
        data[20] ^= 1
        path.write_bytes(data)
    inode = 1 << 40 | 7 if spoil == "other file" else 7
    again = opened(tmp_path, SIZE + 1 if spoil == "other size" else SIZE, inode)
    assert again.generation != one.generation
    assert set(again.flags()) == {ABSENT}
    again.close()


@given(st.binary(max_size=2 * HEADER_BYTES))
def test_what_is_no_header_is_none(data: bytes) -> None:
    assert peek(data) is None


def test_one_whose_end_is_missing_holds_what_is_left(tmp_path: Path) -> None:
    one = opened(tmp_path)
    one.record(0, [9] * COUNT)
    os.truncate(tmp_path / "x.grains", HEADER_BYTES + 8 * 3 + 5)
    assert list(one.sums(0, 5)) == [9, 9, 9, 0, 0]
    one.close()


def test_what_one_mount_reserves_no_other_fetches(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    assert one.reserve(0, 10)
    assert not other.reserve(9, 12)
    assert other.reserve(10, 12)
    one.free(5, 10)
    assert other.reserve(5, 10)
    assert not other.reserve(0, 5)
    one.close()
    assert other.reserve(0, 5)
    other.close()


def test_what_a_killed_mount_had_reserved_is_free(tmp_path: Path) -> None:
    program = (
        "import sys, time; from artifactfs.cache.disk_format import Sidecar\n"
        f"one = Sidecar.new(sys.argv[1], {SIZE}, 7); print(one.reserve(0, 40), flush=True)\n"
        "time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "x.grains"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"True\n"
    mine = opened(tmp_path)
    assert not mine.reserve(3, 4)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert mine.reserve(3, 4)
    mine.close()


def test_nothing_is_given_back_of_what_is_open_elsewhere(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    assert one.share()
    assert other.share()
    assert not one.own()
    assert not other.own()  # to have asked has not cost the first one its share
    other.close()
    assert one.own()
    third = opened(tmp_path)
    assert not third.share()
    assert one.share()
    assert third.share()
    assert one.reserve(0, 40)  # another lock
    one.close()
    third.close()
