"""The README's first command, in a copy of the project without anything installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOWN = (
    "$ artifactfs mount mnt",
    "$ cp files/* mnt/drop/",
    "model.safetensors",
    "packages.parquet",
    "20 files",
    "bytes: int64",
    "the same",
)


def copy_of_the_project(target: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


@pytest.mark.fuse
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quickstart_ends_with_a_mount_that_holds_what_it_uploaded(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    script = project / "scripts" / "quickstart"
    environment = {name: text for name, text in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        done = subprocess.run(
            [script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for line in SHOWN:
            assert line in done.stdout
        mounted = project / ".quickstart" / "mnt" / "artifacts"
        files = project / ".quickstart" / "files"
        assert {path.name for path in mounted.iterdir()} == {path.name for path in files.iterdir()}
        for path in files.iterdir():
            assert (mounted / path.name).read_bytes() == path.read_bytes()
    finally:
        subprocess.run([script, "--stop"], env=environment, check=False)
    assert str(project) not in Path("/proc/self/mountinfo").read_text()
    assert not (project / ".quickstart" / "service.pid").exists()


def test_the_readme_shows_what_the_quickstart_shows() -> None:
    text = (ROOT / "README.md").read_text()
    transcript = text.partition("<!-- transcript")[2].partition("<!-- end of transcript")[0]
    for line in SHOWN:
        assert line in transcript
