"""fsspec's own test suites.

They remove what they have made, in the middle of a test too. The service has no such call; what it
does have is expiry, so here to remove is to have the artifacts expire now.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec.tests.abstract as abstract
import pytest

from artifactfs.fsspec import ArtifactFileSystem
from artifactfs.server.testing import LocalController


class Expiring(ArtifactFileSystem):
    """As if seven days went by in a moment."""

    cachable = False

    def __init__(self, controller: LocalController) -> None:
        super().__init__(list_ttl=60)
        self._controller = controller

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        doomed = {one for one in self.expand_path(path, recursive=recursive) if self.isfile(one)}
        for artifact in self.rooms.client.artifacts():
            if artifact.filename in doomed:
                self._controller.dev(f"artifacts/{artifact.id}", {"expires_in_s": -1})
        self.invalidate_cache()


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, environment: None, controller: LocalController) -> Iterator[Expiring]:
        one = Expiring(controller)
        yield one
        one.close()

    @pytest.fixture
    def fs_join(self):
        return posixpath.join

    @pytest.fixture
    def fs_path(self) -> str:
        return uuid.uuid4().hex

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass
