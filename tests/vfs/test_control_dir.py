"""``.artifactfs/`` and the root."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as older_families

from artifactfs import __version__
from artifactfs.cache import CacheStatistics
from artifactfs.errors import Unreachable
from artifactfs.vfs import metrics_text
from artifactfs.vfs.node import (
    AttributeChange,
    Directory,
    FilesystemSpace,
)

from .conftest import World
from .fakes import DropEntry, artifact

DASHBOARD = Path(__file__).parents[2] / "scripts/grafana-dashboard.json"


def content(world: World, name: str) -> bytes:
    handle = world.file(f".artifactfs/{name}").open(os.O_RDONLY)
    try:
        return handle.read(0, 1 << 20)
    finally:
        handle.release()


def document(world: World, name: str) -> dict[str, Any]:
    return dict(json.loads(content(world, name)))


def test_the_root_shows_what_is_always_there(world: World) -> None:
    root = world.tree.root
    names = [entry.name for entry in root.entries()]
    assert names == ["artifacts", "by-id", "by-sha256", "drop", ".artifactfs"]
    shown = root.attributes()
    assert (shown.ino, shown.mode, shown.nlink) == (1, 0o555, 7)
    for entry in root.entries():
        assert root.find(entry.name) == entry.node
        assert isinstance(entry.node, Directory)
    assert root.find("jobs") is None
    assert not root.may_know_more
    assert root.listing_version == root.listing_version


def test_the_space_is_the_caches_budget(world: World) -> None:
    world.list(artifact("x"), artifact("y"))
    assert world.tree.space() == FilesystemSpace(1 << 30, 1 << 29, 2)


def test_status_says_what_a_mount_is_and_does(world: World) -> None:
    world.list(artifact("x"), artifact("y"))
    world.clock.advance(2.5)
    status = document(world, "status.json")
    assert status["version"] == __version__
    assert status["url"] == "https://example.test"
    assert (status["mountpoint"], status["pid"], status["token"]) == ("/mnt", 7, "a file")
    assert status["listing"] == {
        "artifacts": 2,
        "fetched_at": "2026-11-23T12:00:01Z",
        "age_s": 2.5,
        "stale": False,
        "error": None,
    }
    assert status["cache"]["fetched_bytes"] == 1000
    assert status["cache"] == document(world, "cache.json")
    assert status["uploads"] == {
        "pending_files": 0,
        "pending_bytes": 0,
        "sent_bytes": 0,
        "failed": 0,
        "interrupted": 0,
        "error": None,
    }


def test_status_says_that_the_service_fails(world: World) -> None:
    world.list(artifact("x"))
    world.failure = Unreachable("nobody answers", remedy="")
    assert not world.catalog.refresh(10)
    listing = document(world, "status.json")["listing"]
    assert (listing["artifacts"], listing["stale"]) == (1, True)
    assert listing["error"] == "nobody answers"


def test_uploads_lists_the_outbox(world: World) -> None:
    world.outbox.found["a\udcff/b"] = DropEntry(
        5, "a\udcff/b", "failed", size_bytes=9, progress=0.25, error="no", sha256="a" * 64
    )
    world.outbox.found["q"] = DropEntry(6, "q", "queued", size_bytes=3, waits_for_name=True)
    assert document(world, "uploads.json")["uploads"][0] == {
        "name": "a\udcff/b",
        "state": "failed",
        "size": 9,
        "progress": 0.25,
        "sha256": "a" * 64,
        "artifact_id": None,
        "error": "no",
        "waits_for_name": False,
    }
    uploads = document(world, "status.json")["uploads"]
    assert (uploads["pending_files"], uploads["pending_bytes"], uploads["failed"]) == (1, 3, 1)


def families(text: str) -> list[Metric]:
    """What Prometheus's own reader of OpenMetrics finds."""
    return list(text_string_to_metric_families(text))


def samples(text: str) -> dict[str, float]:
    found = [sample for family in families(text) for sample in family.samples]
    values = {sample.name: sample.value for sample in found}
    assert len(values) == len(found)
    return values


def test_metrics_are_what_prometheus_reads(world: World) -> None:
    world.list(artifact("x"))
    text = content(world, "metrics.prom").decode()
    values = samples(text)
    assert values["artifactfs_up"] == 1
    assert values["artifactfs_listing_artifacts"] == 1
    assert values["artifactfs_cache_fetched_bytes_total"] == 1000
    assert values["artifactfs_cache_hits_total"] == 7
    assert values["artifactfs_cache_free_bytes"] == 1 << 29
    assert values["artifactfs_kernel_open_files"] == 3
    labels = [one.samples[0].labels for one in families(text) if one.name.endswith("build_info")]
    assert labels == [{"version": __version__}]
    assert text.encode() == world.tree.metrics()


def test_a_textfile_collector_reads_the_same_numbers(world: World) -> None:
    """It knows the older format only, in which the end is a comment."""
    text = content(world, "metrics.prom").decode()
    older = {one.name: one.value for family in older_families(text) for one in family.samples}
    assert older == samples(text)


def test_metrics_have_names_by_prometheus_conventions(world: World) -> None:
    world.list(artifact("x"))
    for family in families(content(world, "metrics.prom").decode()):
        assert family.name.startswith("artifactfs_")
        assert family.type in ("counter", "gauge")
        (sample,) = family.samples
        assert sample.name == family.name + "_total" * (family.type == "counter")
        for unit in ("bytes", "seconds"):
            assert family.name.endswith(f"_{unit}") == (f"_{unit}" in family.name)
        assert not re.search("_(s|ms|kb|mb|percent|total)$", family.name)
        assert family.documentation.endswith(".")


def test_every_statistic_of_the_cache_is_a_metric() -> None:
    counted = {field.name for field in dataclasses.fields(CacheStatistics)}
    assert counted <= set(metrics_text.CACHE)


def test_the_version_is_a_line(world: World) -> None:
    assert content(world, "version") == f"{__version__}\n".encode()


def test_an_open_file_stays_as_it_was_made(world: World) -> None:
    file = world.file(".artifactfs/status.json")
    handle = file.open(os.O_RDONLY)
    before = handle.read(0, 1 << 20)
    world.list(*(artifact(f"x{number}") for number in range(1000)))
    assert handle.read(0, 1 << 20) == before == handle.try_read(0, 1 << 20)
    assert handle.direct_io
    assert file.lifetime_s == 0
    assert file.attributes().size_bytes == len(content(world, "status.json"))


def test_nothing_in_it_can_be_written(world: World) -> None:
    directory = world.directory(".artifactfs")
    file = world.file(".artifactfs/version")
    attempts = [
        lambda: file.open(os.O_RDWR),
        lambda: file.set_xattr("user.x", b"1"),
        lambda: file.change(AttributeChange(size_bytes=0)),
        lambda: directory.create("x", os.O_RDWR, 0o644),
        lambda: directory.set_xattr("user.x", b"1"),
        lambda: world.tree.root.make_directory("x", 0o755),
        lambda: world.tree.root.remove_directory("drop"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS


def test_every_entry_is_found_and_numbered_apart(world: World) -> None:
    directory = world.directory(".artifactfs")
    names = [entry.name for entry in directory.entries()]
    assert names == ["status.json", "uploads.json", "cache.json", "metrics.prom", "version"]
    numbers = {entry.node.ino for entry in directory.entries()} | {directory.ino}
    assert len(numbers) == 6
    assert directory.find("other") is None
    assert directory.attributes().mode == 0o555


def test_the_dashboard_asks_for_metrics_that_exist(world: World) -> None:
    world.list(artifact("x"))
    there = set(samples(content(world, "metrics.prom").decode()))
    there |= {f"artifactfs_kernel_{name}" for name in metrics_text.KERNEL}
    there |= {f"artifactfs_cache_{name}" for name, _, _ in metrics_text.CACHE.values()}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name for expression in asked for name in re.findall(r"artifactfs_\w+", expression)}
    assert len(used) > 15
    assert used <= there
