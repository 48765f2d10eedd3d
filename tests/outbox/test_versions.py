"""Each closed file becomes an artifact of its own: a revert is the newest version again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from artifactfs.config import UploadConfig
from artifactfs.model import Artifact
from artifactfs.outbox import Uploader
from artifactfs.outbox.acceptance import RETENTION, is_acceptable
from tests.fault_proxy import FaultProxy

from .conftest import Bench, digest, write

OLD, NEW = b"old version", b"new version"
SIZES = {"controller": 100, "direct": (1 << 20) + 1, "multipart": 6 << 20}


def versions(bench: Bench, name: str = "a.csv") -> list[Artifact]:
    """The newest first."""
    found = [one for one in bench.service.artifacts.list() if one.filename == name]
    return sorted(found, key=lambda one: one.created_at, reverse=True)


def listed(bench: Bench) -> Callable[[str], Artifact | None]:
    def known(sha256: str) -> Artifact | None:
        found = [one for one in bench.service.artifacts.list() if one.sha256 == sha256]
        return max(found, key=lambda one: one.created_at, default=None)

    return known


class Answering:
    """The service's uploads, which say that they have everything, as `answer` tells."""

    def __init__(self, real: Any, answer: Callable[[Artifact], Artifact]) -> None:
        self._real = real
        self._answer = answer
        self.asked = 0
        self.known: Artifact | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _start(self, sha256: str, size_bytes: int, filename: str) -> Artifact:
        self.asked += 1
        self._real.find(sha256, size_bytes, filename)  # an answer that tells the time
        now = self._real.service_now()
        return self._answer(
            Artifact("art_known", filename, now, now + RETENTION, sha256, size_bytes)
        )

    start_direct = start_multipart = _start


def _sooner(artifact: Artifact) -> Artifact:
    created_at = artifact.created_at - timedelta(days=6, hours=23)
    return replace(artifact, created_at=created_at, expires_at=created_at + RETENTION)


STALE: dict[str, Callable[[Artifact], Artifact]] = {
    "older": lambda one: replace(one, created_at=one.created_at - timedelta(seconds=3)),
    "expiring": _sooner,
    "kept shortly": lambda one: replace(one, expires_at=one.created_at + timedelta(minutes=5)),
    "of another name": lambda one: replace(one, filename="b.csv"),
    "pending": lambda one: replace(one, status="pending"),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("answer", STALE.values(), ids=STALE)
def test_an_answer_that_does_not_count_has_the_bytes_sent(
    bench: Bench, answer: Callable[[Artifact], Artifact], size: int
) -> None:
    bench.uploads = Answering(bench.service.uploads, answer)
    bench.known = lambda sha256: Artifact(
        "art_other", "b.csv", datetime.now(UTC), datetime.now(UTC), sha256, size
    )
    outbox = bench.outbox()
    data = os.urandom(size)
    write(outbox, "a.csv", data)
    assert outbox.wait(timeout_s=30) == []
    assert bench.uploads.asked
    (sent,) = versions(bench)
    assert sent.sha256 == digest(data)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_an_answer_of_a_new_artifact_spares_the_bytes(bench: Bench, size: int) -> None:
    bench.uploads = Answering(bench.service.uploads, lambda one: one)
    bench.known = lambda sha256: Artifact(
        "art_other", "b.csv", datetime.now(UTC), datetime.now(UTC), sha256, size
    )
    outbox = bench.outbox()
    write(outbox, "a.csv", os.urandom(size))
    assert outbox.wait(timeout_s=30) == []
    assert versions(bench) == []


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_revert_is_the_newest_version_again(bench: Bench, size: int) -> None:
    bench.known = listed(bench)
    outbox = bench.outbox()
    old, new = os.urandom(size), os.urandom(size)
    for data in (old, new, old):
        write(outbox, "a.csv", data)
        assert outbox.wait(timeout_s=30) == []
    found = [one.sha256 for one in versions(bench)]
    assert found[:2] == [digest(old), digest(new)]


def test_a_revert_by_rename_is_the_newest_version_again(bench: Bench) -> None:
    bench.known = listed(bench)
    outbox = bench.outbox()

    def settled() -> None:
        assert outbox.wait(timeout_s=30) == []

    write(outbox, "a.csv", OLD)
    settled()
    outbox.rename("a.csv", "a.bak")
    settled()
    write(outbox, "a.csv", NEW)
    settled()
    outbox.rename("a.bak", "a.csv")
    settled()
    assert versions(bench)[0].sha256 == digest(OLD)


def test_the_same_bytes_under_another_name_are_an_artifact_of_that_name(bench: Bench) -> None:
    bench.known = listed(bench)
    outbox = bench.outbox()
    for name in ("a.csv", "b.csv"):
        write(outbox, name, OLD)
        assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"a.csv": digest(OLD), "b.csv": digest(OLD)}


@pytest.mark.parametrize("path", ["/api/v1/artifacts", "/complete"])
@pytest.mark.parametrize("direct", [True, False], ids=["with direct", "without"])
def test_a_revert_whose_answer_is_lost_arrives_once(
    bench: Bench, proxy: FaultProxy, path: str, direct: bool
) -> None:
    bench.known = listed(bench)
    outbox = bench.outbox()
    for data in (OLD, NEW):
        write(outbox, "a.csv", data)
        assert outbox.wait(timeout_s=30) == []
    if not direct:
        proxy.break_with(method="POST", path="/artifacts/direct", status=501, times=99)
        proxy.break_with(method="POST", path="/artifacts/multipart", status=501, times=99)
    proxy.break_with(method="POST", path=path, lose_answer=True)
    write(outbox, "a.csv", OLD)
    assert outbox.wait(timeout_s=30) == []
    found = [one.sha256 for one in versions(bench)]
    assert found[0] == digest(OLD)
    assert len(found) == 3


def put(bench: Bench, uploads: Any, path: Path, data: bytes) -> Artifact:
    path.write_bytes(data)
    uploader = Uploader(uploads, UploadConfig(controller_max_bytes=0))
    return uploader.upload_file(path, "a.csv", cancelled=threading.Event())


@pytest.mark.parametrize("answer", STALE.values(), ids=STALE)
def test_put_sends_the_bytes_if_the_answer_does_not_count(
    bench: Bench, tmp_path: Path, answer: Callable[[Artifact], Artifact]
) -> None:
    answering = Answering(bench.service.uploads, answer)
    put(bench, answering, tmp_path / "file", OLD)
    assert answering.asked
    assert [one.sha256 for one in versions(bench)] == [digest(OLD)]
    uploader = Uploader(answering, UploadConfig())
    assert uploader.list_again(digest(OLD), len(OLD), "a.csv") is None
    uploader.close()


@pytest.mark.parametrize("skew", [timedelta(), timedelta(days=-3), timedelta(hours=5)])
def test_the_services_clock_decides(skew: timedelta) -> None:
    now = datetime(2026, 11, 29, 12, 0, 0, 300_000, tzinfo=UTC)
    since = now - timedelta(seconds=10)

    def counted(created_at: datetime) -> bool:
        artifact = Artifact("art_1", "a", created_at + skew, created_at + skew + RETENTION)
        return is_acceptable(
            artifact, "a", since=since, now=now, service_now=now + skew, retention=RETENTION
        )

    assert counted(since)
    assert counted(since.replace(microsecond=0))  # whole seconds
    assert not counted(since - timedelta(milliseconds=200))
    assert not counted(since.replace(microsecond=0) - timedelta(seconds=1))


def test_without_the_services_clock_nothing_counts() -> None:
    now = datetime.now(UTC)
    artifact = Artifact("art_1", "a", now, now + RETENTION)
    assert not is_acceptable(
        artifact, "a", since=now, now=now, service_now=None, retention=RETENTION
    )
