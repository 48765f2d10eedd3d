"""Errors: an errno and a remedy for each, and never success."""

from __future__ import annotations

import errno

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from artifactfs import errors
from artifactfs.errors import ArtifactfsError, errno_of


def tree(kind: type[ArtifactfsError]) -> list[type[ArtifactfsError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


@pytest.mark.parametrize("kind", tree(ArtifactfsError))
def test_each_error_has_an_errno_and_stands_in_the_drawn_tree(kind: type[ArtifactfsError]) -> None:
    assert errno_of(kind("it happened")) in errno.errorcode
    assert kind.__name__ in (errors.__doc__ or "")
    assert errno.errorcode[kind.errno] in (errors.__doc__ or "")


def test_a_remedy_is_shown_after_the_message() -> None:
    assert str(errors.SpoolFull("the spool is full")).startswith("the spool is full (free disk")
    assert str(errors.Gone("art_1 is gone")) == "art_1 is gone"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (requests.ConnectionError("no errno"), errno.EIO),
        (OSError("no errno"), errno.EIO),
        (OSError(0, "success?"), errno.EIO),
        (OSError(-5, "negative"), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (KeyError("x"), errno.EIO),
        (MemoryError(), errno.ENOMEM),
        (TimeoutError(), errno.ETIMEDOUT),
        (RecursionError(), errno.EIO),
        (SystemExit(0), errno.EIO),
        (KeyboardInterrupt(), errno.EIO),
    ],
)
def test_whatever_is_raised_becomes_a_real_errno(error: BaseException, number: int) -> None:
    assert errno_of(error) == number


@given(st.integers(-(2**31), 2**31))
def test_no_number_in_an_oserror_becomes_success(number: int) -> None:
    assert errno_of(OSError(number, "x")) in errno.errorcode
