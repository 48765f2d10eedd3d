"""Documents that change while they are open."""

from __future__ import annotations

import errno
import os

import pytest

from artifactfs.vfs.text_file import (
    TextHandle,
    blocks,
    refuse_writing,
)


class Telling:
    """A document that is told anew, and how often it was closed."""

    def __init__(self) -> None:
        self.text = b"one\n"
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def telling() -> Telling:
    return Telling()


@pytest.fixture
def handle(telling: Telling) -> TextHandle:
    return TextHandle(lambda: telling.text, telling.close)


def test_an_open_document_is_not_half_of_one_and_half_of_another(
    telling: Telling, handle: TextHandle
) -> None:
    assert handle.try_read(0, 2) == b"on"
    telling.text = b"another text, longer\n"
    assert handle.read(2, 100) == b"e\n"
    assert handle.read(4, 100) == b""
    assert handle.read(0, 100) == b"another text, longer\n"


def test_who_waits_at_the_end_gets_what_is_added(telling: Telling, handle: TextHandle) -> None:
    assert handle.read(0, 100) == b"one\n"
    telling.text += b"two\n"
    assert handle.read(4, 100) == b"two\n"
    telling.text = b"one\n"  # shorter again: tail(1) sees that by the size
    assert handle.read(8, 100) == b""
    assert handle.read(0, 100) == b"one\n"


def test_it_is_never_cached_and_closed_once(telling: Telling, handle: TextHandle) -> None:
    assert handle.direct_io
    assert not handle.keep_cache
    handle.release()
    assert telling.closed == 1


def test_writing_is_refused() -> None:
    refuse_writing(os.O_RDONLY)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        with pytest.raises(OSError) as refused:
            refuse_writing(flags)
        assert refused.value.errno == errno.EROFS
    assert [blocks(size) for size in (0, 1, 512, 513)] == [0, 1, 1, 2]
