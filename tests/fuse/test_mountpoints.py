"""The checks before a mount: each refusal is one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.errors import MountError
from artifactfs.fuse import select
from artifactfs.fuse.mount_checks import (
    check_fuse,
    check_mountpoint,
    is_stale,
)
from artifactfs.fuse.unmount import (
    MountedFilesystem,
    find_mount,
    parse_line,
    table,
    unescape,
    users_of,
)

LINE = (
    rb"42 27 0:39 / /tmp/a\040b/mnt rw,nosuid,nodev,relatime shared:7 master:2 - "
    rb"fuse.artifactfs host\054name rw,user_id=0,group_id=0"
)


def test_a_line_of_the_mount_table_is_understood() -> None:
    line = parse_line(LINE)
    assert line is not None
    assert line.mountpoint == Path("/tmp/a b/mnt")
    assert (line.kind, line.source, line.device_minor) == ("fuse.artifactfs", "host,name", 39)


@given(st.binary(max_size=200))
def test_any_name_survives_the_escapes_of_the_mount_table(name: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    assert os.fsencode(unescape(escaped)) == name


@given(st.binary(max_size=200))
def test_a_line_that_is_none_is_passed_over(line: bytes) -> None:
    parsed = parse_line(line)
    assert parsed is None or parsed.kind


def test_the_root_is_mounted_and_not_ours() -> None:
    assert any(line.mountpoint == Path("/") for line in table())
    assert find_mount("/") is None
    assert not is_stale("/")


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    assert check_mountpoint(tmp_path) == tmp_path
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert check_mountpoint(tmp_path / "link") == tmp_path / "real"
    assert check_mountpoint(f"{tmp_path}/link/../link/") == tmp_path / "real"


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert check_mountpoint("here") == tmp_path / "here"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist (mkdir -p "),
        (lambda path: path.write_bytes(b""), "is not a directory (choose an empty directory)"),
        (lambda path: (path / "inner").mkdir(parents=True), "is not empty: it holds inner"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
        (lambda path: path.symlink_to(path), "cannot be read"),
    ],
    ids=["missing", "file", "full", "dangling", "loop"],
)
def test_anything_else_is_refused_with_a_remedy(tmp_path: Path, make, words: str) -> None:
    make(tmp_path / "mnt")
    with pytest.raises(MountError) as refused:
        check_mountpoint(tmp_path / "mnt")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_file_systems_mount_point_is_refused() -> None:
    with pytest.raises(MountError, match=r"another file system \(proc\)"):
        check_mountpoint("/proc")


def test_who_uses_a_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path.parent / f"{tmp_path.name}-other").mkdir()
    with (
        subprocess.Popen(["sleep", "60"], cwd=tmp_path) as inside,
        subprocess.Popen(["sleep", "60"], cwd=f"{tmp_path}-other") as beside,
        open(tmp_path / "file", "rb"),
    ):
        found = dict(users_of(tmp_path))
        inside.kill()
        beside.kill()
    assert found[inside.pid] == "sleep"
    assert os.getpid() in found
    assert beside.pid not in found


def test_a_search_without_time_ends_at_once(tmp_path: Path) -> None:
    assert users_of(tmp_path, search_s=-1) == []


@pytest.mark.fuse
def test_this_machine_can_mount() -> None:
    check_fuse("native")
    check_fuse("fusepy", allow_other=True)
    assert select.make("auto").name in ("native", "fusepy")
    assert select.make("fusepy").facts["library"] == "libfuse 2.9"


def test_an_unknown_binding_is_refused() -> None:
    with pytest.raises(MountError, match="auto, native, fusepy"):
        select.make("fuse4")


def test_importing_the_room_loads_no_library_and_starts_no_thread() -> None:
    script = """
import sys, threading
import artifactfs.fuse.select, artifactfs.fuse.libfuse.binding, artifactfs.fuse.mount_checks
assert "fuse" not in sys.modules
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_machine_without_libfuse_is_told_what_to_install(tmp_path: Path) -> None:
    """fusepy takes its library from FUSE_LIBRARY_PATH where that is set."""
    script = """
import sys
from artifactfs.errors import MountError
from artifactfs.fuse.select import make
try:
    make("fusepy")
except MountError as error:
    sys.exit(0 if "apt-get install libfuse2" in str(error) else str(error))
"""
    environ = {**os.environ, "FUSE_LIBRARY_PATH": str(tmp_path / "libfuse.so.2")}
    subprocess.run([sys.executable, "-c", script], check=True, env=environ)


def test_a_mount_is_a_value() -> None:
    one = MountedFilesystem(Path("/mnt"), "host", 7)
    assert one == MountedFilesystem(Path("/mnt"), "host", 7)
