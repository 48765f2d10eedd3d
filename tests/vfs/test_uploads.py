"""``.artifactfs/uploads.json``: right at every look, and made anew only where something changed."""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from artifactfs.vfs.control_dir import UploadsText
from artifactfs.vfs.node import File

from .conftest import World
from .fakes import DropEntry, FakeOutbox

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(["writing", "queued", "hashing", "uploading", "failed"]),
        "size_bytes": st.integers(0, 1 << 50),
        "progress": st.floats(0, 1),
        "error": st.none() | st.text(max_size=20),
        "sha256": st.none() | st.just("a" * 64),
        "waits_for_name": st.booleans(),
    },
)
NAMES = st.sampled_from(["a", "b/c", "\udcff", 'quo"ted', "two\nlines", "ümlaut"])


def made_at_once(outbox: FakeOutbox) -> bytes:
    """The whole document, by the plainest means."""
    uploads = [
        {
            "name": one.path,
            "state": one.state,
            "size": one.size_bytes,
            "progress": one.progress,
            "sha256": one.sha256,
            "artifact_id": one.artifact_id,
            "error": one.error,
            "waits_for_name": one.waits_for_name,
        }
        for one in outbox.entries()
    ]
    return (json.dumps({"uploads": uploads}, indent=2) + "\n").encode()


@given(st.lists(st.tuples(NAMES, st.none() | CHANGES), max_size=20))
def test_it_says_what_is_there_after_each_change(
    steps: list[tuple[str, dict[str, Any] | None]],
) -> None:
    outbox = FakeOutbox()
    text = UploadsText(outbox)
    assert text.now() == made_at_once(outbox)
    for number, (name, changes) in enumerate(steps):
        if changes is None:
            outbox.found.pop(name, None)
        elif name in outbox.found:
            outbox.set(name, **changes)
        else:
            outbox.found[name] = DropEntry(100 + number, name, **changes)
        assert text.now() == made_at_once(outbox)


def control_file(world: World) -> File:
    return world.file(".artifactfs/uploads.json")


def content(file: File) -> bytes:
    handle = file.open(os.O_RDONLY)
    try:
        return handle.read(0, 1 << 30)
    finally:
        handle.release()


def test_ten_thousand_entries_are_gone_through_once_for_any_number_of_looks(world: World) -> None:
    for number in range(10_000):
        world.outbox.found[f"{number}"] = DropEntry(number + 1, f"{number}", "queued")
    file = control_file(world)
    for _ in range(50):
        assert file.attributes().size_bytes == len(content(file))
    assert world.outbox.listed == 1
    before = file.attributes().size_bytes
    world.outbox.set("77", state="failed", error="no room")
    assert file.attributes().size_bytes == len(content(file)) > before
    assert json.loads(content(file))["uploads"][77]["error"] == "no room"
    assert world.outbox.listed == 2


class Told(str):
    """A state that counts how often it is written down."""

    times = 0

    def __str__(self) -> str:
        type(self).times += 1
        return "queued"


def test_of_many_entries_only_the_changed_one_is_written_down_anew(world: World) -> None:
    for number in range(100):
        world.outbox.found[f"{number}"] = DropEntry(number + 1, f"{number}", Told())
    text = UploadsText(world.outbox)
    Told.times = 0
    seen = {text.now()}
    assert Told.times == 100
    for step in range(3):
        world.outbox.set("50", progress=step / 4 + 0.1)
        seen.add(text.now())
    assert (Told.times, len(seen)) == (103, 4)
