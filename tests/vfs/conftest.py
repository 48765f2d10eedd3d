"""A tree over a real catalog, and a cache and an outbox in memory."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from artifactfs.catalog import Catalog
from artifactfs.model import Artifact
from artifactfs.vfs import ArtifactTree
from artifactfs.vfs.node import (
    Directory,
    EntryChanged,
    File,
    Node,
)
from tests.catalog.clock import HandClock

from .fakes import FakeOutbox, FakeStore


@dataclass
class World:
    """The rooms, and what the tree has told about names."""

    catalog: Catalog
    store: FakeStore
    outbox: FakeOutbox
    tree: ArtifactTree
    clock: HandClock
    listing: list[Artifact]
    told: list[EntryChanged] = field(default_factory=list)
    calls: int = 0
    failure: Exception | None = None
    may_list: threading.Event = field(default_factory=threading.Event)
    _order_ids: Iterator[int] = field(default_factory=itertools.count)

    def list(self, *artifacts: Artifact) -> None:
        """Have the service list these from now on, and the catalog know it."""
        self.listing[:] = artifacts
        self.clock.advance(1)
        assert self.catalog.refresh(10)

    def order(self, node: Node, name: str, value: str = "1") -> str | None:
        """Give an order and wait for its end, which status.json shows: why it failed, or None."""
        order_id = f"order-{next(self._order_ids)}"
        node.set_xattr(f"user.artifactfs.{name}", f"{value} {order_id}".encode())
        deadline_s = time.monotonic() + 10
        while order_id not in (orders := self.orders())["ended"]:
            assert order_id in orders["pending"]
            assert time.monotonic() < deadline_s, orders
            time.sleep(0.005)
        failure: str | None = orders["ended"][order_id]
        return failure

    def orders(self) -> dict[str, Any]:
        """What status.json says of orders."""
        status = self.file(".artifactfs/status.json").open(os.O_RDONLY).read(0, 1 << 20)
        orders: dict[str, Any] = json.loads(status)["orders"]
        return orders

    def node(self, path: str) -> Node | None:
        """What stands at `path`, by what is known."""
        node: Node | None = self.tree.root
        for name in path.split("/"):
            if not isinstance(node, Directory):
                return None
            node = node.find(name)
        return node

    def directory(self, path: str) -> Directory:
        node = self.node(path)
        assert isinstance(node, Directory), path
        return node

    def file(self, path: str) -> File:
        node = self.node(path)
        assert isinstance(node, File), path
        return node

    def names(self, path: str) -> list[str]:
        return sorted(entry.name for entry in self.directory(path).entries())


@pytest.fixture
def world() -> Iterator[World]:
    """Started, with an empty first listing."""
    listing: list[Artifact] = []
    clock, store, outbox = HandClock(), FakeStore(), FakeOutbox()

    def listed() -> list[Artifact]:
        made.calls += 1
        assert made.may_list.wait(20)
        if made.failure is not None:
            raise made.failure
        return list(listing)

    catalog = Catalog(listed, ttl_s=10.0, clock=clock, retry_first_s=3600)
    facts: dict[str, object] = {
        "url": "https://example.test",
        "mountpoint": "/mnt",
        "pid": 7,
        "token": "a file",
        "binding": {"name": "native", "open_files": 3, "passthrough": True},
    }
    tree = ArtifactTree(catalog, store, outbox, facts=lambda: dict(facts), clock=clock)
    made = World(catalog, store, outbox, tree, clock, listing)
    made.may_list.set()
    tree.subscribe(made.told.append)
    tree.start()
    catalog.start()
    assert catalog.freshen(10)
    yield made
    made.may_list.set()
    tree.close()
    catalog.close()
