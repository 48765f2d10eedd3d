"""A real service, shared by a module, and a file system on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.fsspec import ArtifactFileSystem
from artifactfs.server.testing import LocalController


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalController]:
    with LocalController(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def environment(
    controller: LocalController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user has it: where the service is and who asks stand in the environment."""
    monkeypatch.setenv("ARTIFACTFS_URL", controller.url)
    monkeypatch.setenv("ARTIFACTFS_TOKEN", controller.token)
    monkeypatch.setenv("ARTIFACTFS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ARTIFACTFS_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def fs(environment: None) -> Iterator[ArtifactFileSystem]:
    one = ArtifactFileSystem(list_ttl=0)
    yield one
    one.close()
    ArtifactFileSystem.clear_instance_cache()
