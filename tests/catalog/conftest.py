"""A service whose listing waits until it may answer."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from artifactfs.catalog import Catalog
from artifactfs.model import Artifact
from tests.catalog.clock import START, HandClock


class Lister:
    """The service's listing: counts its calls, and can be made to wait or to fail."""

    def __init__(self, *artifacts: Artifact) -> None:
        self.artifacts = list(artifacts)
        self.calls = 0
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def __call__(self) -> Iterable[Artifact]:
        self.calls += 1
        listing = list(self.artifacts)
        self.entered.release()
        assert self.gate.wait(30), "the test never let the listing go on"
        if self.failure is not None:
            raise self.failure
        return iter(listing)


def artifact(
    name: str, /, *, age_s: float = 0.0, life_s: float = 7 * 86400.0, **more: Any
) -> Artifact:
    """An artifact whose id is `name`, made `age_s` before the clock's start."""
    created = START - timedelta(seconds=age_s)
    return Artifact(
        **{
            "id": name,
            "filename": f"{name}.bin",
            "created_at": created,
            "expires_at": created + timedelta(seconds=life_s),
            **more,
        }
    )


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def lister() -> Iterator[Lister]:
    one = Lister()
    yield one
    one.gate.set()


@pytest.fixture
def catalog(lister: Lister, clock: HandClock) -> Iterator[Catalog]:
    """Not started yet."""
    one = Catalog(lister, ttl_s=10.0, clock=clock, retry_first_s=3600.0)
    yield one
    lister.gate.set()
    one.close()
