"""What everyday programs do in drop/: each file arrives once, under the name it ends up with."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import ServiceClient, UserMount, sha256
from .test_dropping import arrived, contents, run

pytestmark = pytest.mark.fuse


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "sub" / "deep").mkdir(parents=True)
    for number in range(12):
        place = (directory, directory / "sub", directory / "sub" / "deep")[number % 3]
        (place / f"{number}.bin").write_bytes(os.urandom(1000 * number))
    return directory


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def test_rsync_again_with_delete_sends_nothing_twice(
    user: UserMount, service: ServiceClient, source: Path
) -> None:
    user.settings = {"list.ttl": "0", "drop.linger": "3600"}
    user.mount()
    run("rsync", "-a", "--delete", f"{source}/", user.path / "drop")
    user.settle()
    expected = contents(source)
    (source / "0.bin").unlink()
    (source / "new.bin").write_bytes(b"new")
    run("rsync", "-a", "--delete", f"{source}/", user.path / "drop")
    user.settle()
    assert not (user.path / "drop" / "0.bin").exists()
    expected["new.bin"] = b"new"
    found = service.artifacts()
    assert sorted(one["filename"] for one in found) == sorted(expected)
    assert {one["filename"]: one["sha256"] for one in found} == {
        name: sha256(data) for name, data in expected.items()
    }


def test_unzip(mounted: UserMount, service: ServiceClient, source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents(source).items():
            archive.writestr(name, data)
    run("unzip", "-q", tmp_path / "a.zip", "-d", mounted.path / "drop")
    arrived(mounted, service, contents(source))


@pytest.fixture
def lingering(user: UserMount) -> UserMount:
    """A mount as users have it: what is uploaded can still be renamed for a while."""
    user.settings = {"list.ttl": "0", "drop.linger": "3600"}
    user.mount()
    return user


def test_git_clone(lingering: UserMount, service: ServiceClient, source: Path) -> None:
    needs("git")
    mounted = lingering
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    run("git", *who, "init", "-q", source)
    run("git", "-C", source, "add", ".")
    run("git", *who, "-C", source, "commit", "-qm", "one")
    run("git", "clone", "-q", "--no-hardlinks", source, mounted.path / "drop" / "repo")
    mounted.settle()
    found = {one["filename"]: one["sha256"] for one in service.artifacts()}
    for name, data in contents(source).items():
        if not name.startswith(".git/"):
            assert found[f"repo/{name}"] == sha256(data)
    assert "repo/.git/HEAD" in found
    assert "repo/.git/index" in found
    assert len([name for name in found if name.startswith("repo/.git/objects/")]) >= 1


ATOMIC = """
import os, sys, tempfile
target, data = sys.argv[1], sys.argv[2].encode()
for number in range(5):
    descriptor, name = tempfile.mkstemp(dir=os.path.dirname(target))
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.replace(name, f"{target}-{number}")
"""


def test_atomic_writes_under_names_that_do_not_look_temporary(
    lingering: UserMount, service: ServiceClient
) -> None:
    run(sys.executable, "-c", ATOMIC, lingering.path / "drop" / "checkpoint.pt", "weights")
    lingering.settle()
    found = {one["filename"]: one["sha256"] for one in service.artifacts()}
    # A program that was kept waiting between close and rename has its first name uploaded, too.
    kept = {name: digest for name, digest in found.items() if not name.startswith("tmp")}
    assert kept == {f"checkpoint.pt-{number}": sha256(b"weights") for number in range(5)}


SAFETENSORS = """
import os, sys
import numpy
from safetensors.numpy import load_file, save_file
target = sys.argv[1]
for number in range(3):
    save_file({"weights": numpy.full(1000, number)}, target + ".new")
    os.replace(target + ".new", target)
assert load_file(target)["weights"][0] == 2
"""


def test_safetensors_renamed_over_itself(lingering: UserMount, service: ServiceClient) -> None:
    run(sys.executable, "-c", SAFETENSORS, lingering.path / "drop" / "model.safetensors")
    lingering.settle()
    found = service.artifacts()
    names = {one["filename"] for one in found}
    assert {"model.safetensors"} <= names <= {"model.safetensors", "model.safetensors.new"}
    last = (lingering.path / "artifacts" / "model.safetensors").read_bytes()
    assert sha256(last) in {one["sha256"] for one in found}


@pytest.mark.parametrize("times", [1, 3])
def test_vim(lingering: UserMount, service: ServiceClient, times: int) -> None:
    needs("vim")
    path = lingering.path / "drop" / "notes.txt"
    edits = [("-c", f"normal Goline {number}", "-c", "w") for number in range(times)]
    words = [word for edit in edits for word in edit]
    run("vim", "-u", "NONE", "-N", "-es", "-c", "set backup", *words, "-c", "q", path)
    expected = "\n" + "".join(f"line {number}\n" for number in range(times))
    assert path.read_text() == expected
    lingering.settle()
    found = service.artifacts()
    assert {one["filename"] for one in found} <= {"notes.txt", "4913"}  # its probe, if it was slow
    assert sha256(expected.encode()) in {one["sha256"] for one in found}
