"""Whatever the service calls an artifact, it is one safe name, listed and readable."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import ServiceClient, UserMount

pytestmark = pytest.mark.fuse

STRANGE = [
    "../../etc/passwd",
    "..",
    ".",
    "",
    "/absolute",
    "a//b",
    "nul\0inside",
    "new\nline",
    "-rf",
    "x" * 300,
    "☃" * 100,
    "emoji 🎉.csv",
    "drop",
    ".artifactfs",
    "percent%2Fname",
    "percent/name",
    "tab\tname",
    "\x7f\x1b[31mred",
    "trailing/",
    "a",
    "a/b",
    "con.txt ",
    "\ud800 lone surrogate",
]


def files_below(directory: Path) -> dict[bytes, tuple[int, bytes]]:
    """Every file below by its path, its inode number and its content."""
    found = {}
    for folder, _, names in os.walk(os.fsencode(directory)):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[path] = (os.fstat(file.fileno()).st_ino, file.read())
    return found


def test_strange_names_are_safe_listed_and_readable(
    mounted: UserMount, service: ServiceClient
) -> None:
    wanted = {}
    for index, name in enumerate(STRANGE):
        content = f"content {index}".encode()
        wanted[content] = name
        service.post(
            "_dev/artifacts",
            {"artifacts": [{"filename": name, "content": base64.b64encode(content).decode()}]},
        )
    found = files_below(mounted.path / "artifacts")
    assert sorted(content for _, content in found.values()) == sorted(wanted)
    for path in found:
        relative = os.path.relpath(path, os.fsencode(mounted.path / "artifacts"))
        assert not relative.startswith(b"..")
        assert all(0 < len(part) <= 255 for part in relative.split(b"/"))
        assert not any(byte < 32 or byte == 127 for byte in relative)
        relative.decode()
    assert (mounted.path / "artifacts" / "emoji 🎉.csv").exists()
    assert (mounted.path / "artifacts" / "-rf").exists()
    assert not Path("/etc/passwd").read_bytes().startswith(b"content")
    ids = os.listdir(mounted.path / "by-id")
    assert len(ids) == len(STRANGE)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(names=st.lists(st.text(max_size=80), min_size=1, max_size=12, unique=True))
def test_any_names_are_one_to_one(
    mounted: UserMount, service: ServiceClient, names: list[str]
) -> None:
    marker = os.urandom(6).hex()
    contents = [f"{marker} {index}".encode() for index in range(len(names))]
    service.post(
        "_dev/artifacts",
        {
            "artifacts": [
                {"filename": name, "content": base64.b64encode(content).decode()}
                for name, content in zip(names, contents, strict=True)
            ]
        },
    )
    found = [content for _, content in files_below(mounted.path / "artifacts").values()]
    assert sorted(one for one in found if one.startswith(marker.encode())) == sorted(contents)
