"""The common fixtures, for the native binding only."""

from __future__ import annotations

import pytest


@pytest.fixture
def binding() -> str:
    """Overrides the one that runs each test once per binding."""
    return "native"
