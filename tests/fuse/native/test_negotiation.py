"""What is agreed with which kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifactfs.errors import MountError
from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.negotiation import (
    BUFFER_BYTES,
    MAX_WRITE_BYTES,
    Offer,
    agree,
    deadline_s,
    read_offer,
)

EVERYTHING = (1 << 64) - 1


def offer(minor: int = 45, flags: int = EVERYTHING, readahead_bytes: int = 1 << 17) -> Offer:
    return Offer(7, minor, readahead_bytes, flags)


def test_nothing_is_taken_that_was_not_offered() -> None:
    for flags in (0, protocol.ASYNC_READ, protocol.INIT_EXT | protocol.MAX_PAGES, EVERYTHING):
        agreed = agree(offer(flags=flags), stack_depth=1)
        assert agreed.flags & ~flags == 0


def test_what_must_not_be_is_never_taken() -> None:
    agreed = agree(offer(), stack_depth=1)
    for unwanted in (
        protocol.WRITEBACK_CACHE,
        protocol.AUTO_INVAL_DATA,
        protocol.SETXATTR_EXT,
    ):
        assert not agreed.flags & unwanted


def test_passthrough_needs_the_second_half_of_the_flags() -> None:
    assert agree(offer(), stack_depth=1).passthrough
    assert not agree(offer(flags=EVERYTHING & ~protocol.INIT_EXT), stack_depth=1).passthrough
    assert not agree(offer(flags=EVERYTHING & ~protocol.PASSTHROUGH), stack_depth=1).passthrough
    assert not agree(offer(), stack_depth=1, passthrough=False).passthrough


@pytest.mark.parametrize("minor", [31, 36, 40, 43, 45, 99])
def test_the_smaller_minor_version_counts(minor: int) -> None:
    assert agree(offer(minor), stack_depth=1).minor == min(minor, protocol.MINOR)


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (7, 0), (6, 99)])
def test_an_old_kernel_is_refused_with_a_remedy(major: int, minor: int) -> None:
    with pytest.raises(MountError, match=rf"{major}\.{minor}.*fusepy"):
        agree(Offer(major, minor, 1 << 17, EVERYTHING), stack_depth=1)


def test_the_answer_says_what_was_agreed() -> None:
    agreed = agree(offer(), stack_depth=2)
    fields = protocol.INIT_OUT.unpack(agreed.pack())
    major, minor, _, flags, background, congestion, max_write, *_ = fields
    assert (major, minor, max_write) == (7, protocol.MINOR, MAX_WRITE_BYTES)
    assert flags | fields[10] << 32 == agreed.flags
    assert fields[8] * 4096 == MAX_WRITE_BYTES
    assert fields[11] == 2
    assert congestion < background
    assert max_write + protocol.HEADER_BYTES + protocol.WRITE_IN.size <= BUFFER_BYTES


def test_without_passthrough_no_stack_depth_is_asked_for() -> None:
    agreed = agree(offer(), stack_depth=2, passthrough=False)
    assert protocol.INIT_OUT.unpack(agreed.pack())[11] == 0


def test_an_offer_is_read_whole_or_in_its_short_form() -> None:
    short = protocol.INIT_IN.pack(7, 35, 4096, protocol.ASYNC_READ)
    assert read_offer(memoryview(short)) == Offer(7, 35, 4096, protocol.ASYNC_READ)
    flags = protocol.INIT_EXT | protocol.PASSTHROUGH
    long = protocol.INIT_IN.pack(7, 40, 4096, flags & 0xFFFFFFFF)
    long += (flags >> 32).to_bytes(4, "little") + bytes(44)
    assert read_offer(memoryview(long)) == Offer(7, 40, 4096, flags)


def limits(directory: Path, **values: int) -> Path:
    for name, value in values.items():
        (directory / name).write_text(f"{value}\n")
    return directory


def test_without_a_limit_there_is_no_deadline(tmp_path: Path) -> None:
    assert deadline_s(tmp_path) is None
    assert deadline_s(limits(tmp_path, max_request_timeout=0, default_request_timeout=0)) is None


def test_the_deadline_is_below_the_shorter_limit(tmp_path: Path) -> None:
    found = deadline_s(limits(tmp_path, max_request_timeout=60, default_request_timeout=30))
    assert found is not None
    assert 10 < found < 30


def test_a_tiny_limit_counts_as_the_kernels_timer(tmp_path: Path) -> None:
    found = deadline_s(limits(tmp_path, max_request_timeout=1))
    assert found is not None
    assert 5 <= found < 15
