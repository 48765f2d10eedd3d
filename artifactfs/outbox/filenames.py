"""Paths inside the outbox, and which names look temporary: pure."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import translate

NAME_MOST_BYTES = 255
PATH_MOST_BYTES = 4000


def parent_of(path: str) -> str:
    """The directory a path lies in; "" is ``drop/`` itself."""
    return path.rpartition("/")[0]


def above(path: str) -> Iterator[str]:
    """Every directory above a path, the nearest first, without the root."""
    path = parent_of(path)
    while path:
        yield path
        path = parent_of(path)


def lies_below(path: str, directory: str) -> bool:
    """Whether `path` is in `directory` or deeper; everything is below ""."""
    return not directory or path.startswith(directory + "/")


def checked(path: str) -> str:
    """The path, if it can be one. Raises `OSError` as a local file system would."""
    parts = path.split("/")
    if any(len(os.fsencode(part)) > NAME_MOST_BYTES for part in parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if len(os.fsencode(path)) > PATH_MOST_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return path


class TemporaryNames:
    """Which names will be renamed: shell patterns for the last part of a path.

    A pattern with a slash is for the whole path.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        found = list(patterns)
        self._names = _any_of([one for one in found if "/" not in one])
        self._paths = _any_of([one for one in found if "/" in one])

    def match(self, path: str) -> bool:
        """Whether the path has such a name."""
        name = path.rpartition("/")[2]
        return bool(self._names.match(name) or self._paths.match(path))


def _any_of(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(one) for one in patterns) or r"(?!)")
