"""An outbox over a real service, opened as often as a test likes, behind a proxy that breaks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifactfs.config import (
    DropConfig,
    HttpConfig,
    SpoolConfig,
    UploadConfig,
)
from artifactfs.model import Artifact
from artifactfs.outbox import (
    Outbox,
    OutboxEntry,
    UploadLog,
)
from artifactfs.outbox.namespace import UPLOAD_DELAY_S
from artifactfs.remote import Service
from artifactfs.server.testing import LocalController
from artifactfs.token import Secret, TokenSource
from tests.fault_proxy import FaultProxy

HTTP = HttpConfig(connect_timeout_s=1, timeout_s=5, retry_for_s=0.5)


class Bench:
    """One spool, opened as often as a test likes, over one service behind a proxy."""

    def __init__(self, directory: Path, url: str, token: str) -> None:
        self.directory = directory
        self.service = Service(url, TokenSource("test", value=Secret(token)), HTTP)
        self.upload = UploadConfig(controller_max_bytes=1 << 20, multipart_min_bytes=5 << 20)
        self.drop = DropConfig(linger_s=3600)
        self.spool = SpoolConfig()
        self.audit: Path | None = None
        self.killed = False
        self.quiet_s = UPLOAD_DELAY_S
        self.adopted: list[tuple[str, bytes]] = []
        self.open: list[Outbox] = []
        self.known: Callable[[str], Artifact | None] = lambda digest: None
        self.uploads: Any = self.service.uploads

    def outbox(self) -> Outbox:
        made = Outbox(
            self.directory,
            self.uploads,
            origin="http://the.same.whatever.port",
            upload=self.upload,
            drop=self.drop,
            spool=self.spool,
            known=lambda digest: self.known(digest),
            on_uploaded=self._adopt,
            audit=UploadLog(self.audit) if self.audit else None,
            was_killed=lambda pid: self.killed,
            quiet_s=self.quiet_s,
        )
        made.start()
        self.open.append(made)
        return made

    def _adopt(self, artifact: Artifact, path: Path | None) -> None:
        if path is not None:
            self.adopted.append((artifact.filename, path.read_bytes()))

    def close(self, outbox: Outbox) -> None:
        self.open.remove(outbox)
        outbox.close()

    def listed(self) -> dict[str, str | None]:
        artifacts = list(self.service.artifacts.list())
        names = {one.filename: one.sha256 for one in artifacts}
        assert len(names) == len(artifacts), "something arrived twice"
        return names


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[LocalController]:
    with LocalController(tmp_path / "service", part_size=5 << 20) as running:
        yield running


@pytest.fixture
def proxy(controller: LocalController) -> Iterator[FaultProxy]:
    with FaultProxy(controller.url) as running:
        yield running


@pytest.fixture
def bench(tmp_path: Path, proxy: FaultProxy, controller: LocalController) -> Iterator[Bench]:
    made = Bench(tmp_path / "spool", proxy.url, controller.token)
    try:
        yield made
    finally:
        for outbox in made.open:
            outbox.close()
        made.service.close()


def write(outbox: Outbox, path: str, data: bytes) -> None:
    file = outbox.create(path, 0o644)
    file.write(0, data)
    file.flush(os.getpid())
    file.release()


def entry(outbox: Outbox, path: str) -> OutboxEntry:
    found = outbox.find(path)
    assert isinstance(found, OutboxEntry)
    return found


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
