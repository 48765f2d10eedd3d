"""The fixtures of the bindings' common tests: each runs once per binding that is there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.mounted import Mount

StartMount = Callable[..., Mount]


def _bindings() -> list[str]:
    native = importlib.import_module("artifactfs.fuse.native")
    return ["fusepy", "native"] if hasattr(native, "NativeBinding") else ["fusepy"]


@pytest.fixture(params=_bindings())
def binding(request: pytest.FixtureRequest) -> str:
    """The name of the binding that this run of the test is about."""
    name: str = request.param
    return name


@pytest.fixture
def start_mount(binding: str, tmp_path: Path) -> Iterator[StartMount]:
    """Start mounts with settings of one's own: ``start_mount(allow_other=True)``."""
    mounts: list[Mount] = []

    def start(*, directory: Path = tmp_path, wait: bool = True, **settings: Any) -> Mount:
        home = directory / f"mount{len(mounts)}"
        home.mkdir()
        mount = Mount(binding, home, **settings)
        mounts.append(mount)
        if wait:
            mount.wait_ready()
        return mount

    yield start
    failures = []
    for mount in mounts:
        try:
            mount.end()
        except AssertionError as error:
            failures.append(error)
    if failures:
        raise failures[0]


@pytest.fixture
def mount(start_mount: StartMount) -> Mount:
    """A mount of the memory tree by `binding`."""
    return start_mount()
