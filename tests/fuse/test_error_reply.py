"""Exceptions become errnos and, once, a line in the log."""

from __future__ import annotations

import errno
import logging

import pytest

from artifactfs.errors import TokenRejected
from artifactfs.fuse.error_reply import ErrorReplies


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


@pytest.fixture
def replies(caplog: pytest.LogCaptureFixture) -> ErrorReplies:
    caplog.set_level(logging.DEBUG)
    return ErrorReplies()


def test_a_result_passes(replies: ErrorReplies) -> None:
    assert replies.answer("read", "/a", lambda: b"bytes") == b"bytes"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError("no number"), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (TokenRejected("no"), errno.EACCES),
        (MemoryError(), errno.ENOMEM),
        (SystemExit(0), errno.EIO),
        (KeyboardInterrupt(), errno.EIO),
        (Unprintable(), errno.EIO),
    ],
)
def test_every_exception_is_a_negated_errno(
    replies: ErrorReplies, error: BaseException, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    assert replies.answer("read", "/a", fail) == -number
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.ERROR
    assert "read /a" in caplog.text


def test_ordinary_refusals_are_no_trouble(
    replies: ErrorReplies, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (errno.ENOENT, errno.EROFS, errno.EEXIST, errno.ENAMETOOLONG):
        assert replies.errno_for("lookup", "/a", OSError(number, "no")) == number
    assert not caplog.records


def test_a_remedy_is_told(replies: ErrorReplies, caplog: pytest.LogCaptureFixture) -> None:
    replies.errno_for("open", "/a", TokenRejected("the token was refused"))
    assert "the token was refused (check the token" in caplog.text
    assert "[EACCES]" in caplog.text
    assert "Traceback" not in caplog.text


def test_the_same_trouble_is_told_once_another_is_told(
    replies: ErrorReplies, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        replies.errno_for("read", "/a", OSError("gone"))
        replies.errno_for("read", "/b", OSError("gone"))
        replies.errno_for("read", "/a", KeyError("other"))
    assert len(caplog.records) == 3


def test_what_was_unforeseen_comes_with_its_traceback(
    replies: ErrorReplies, caplog: pytest.LogCaptureFixture
) -> None:
    replies.answer("read", "/a", lambda: {}["key"])
    assert "Traceback" in caplog.text
