"""What tests of all packages need."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL_S = 0.01


def wait_until(condition: Callable[[], T], within_s: float = 30.0, what: str = "") -> T:
    """Return the first true value of `condition`; fail if there is none in time."""
    deadline_s = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() >= deadline_s:
            shown = what or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"not within {within_s} s: {shown}, but {value!r}")
        time.sleep(INTERVAL_S)
    return value
