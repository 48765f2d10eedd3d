"""Directories that nobody but their owner can look into."""

from __future__ import annotations

import contextlib
import os


def make_private(path: str | os.PathLike[str]) -> None:
    """Make a directory and what is missing above it, open to their owner only. Raises `OSError`."""
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102 - the cache has its paths as text
    except FileExistsError:
        if not os.path.isdir(path):  # noqa: PTH112
            raise
    except FileNotFoundError:
        above = os.path.dirname(path)  # noqa: PTH120
        if not above or above == os.fspath(path):
            raise
        make_private(above)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)  # noqa: PTH102
