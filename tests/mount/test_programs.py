"""What everyday programs do in drop/: each file arrives once, under the name it ends up with."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import ServiceClient, UserMount, sha256
from .terminal import Terminal
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


TORCH_SAVE = """
import io, mmap, os, sys, zipfile
target, epochs = sys.argv[1], int(sys.argv[2])

class OneWay(io.RawIOBase):  # nothing is written twice: sizes and sums stand behind the data
    def __init__(self):
        self.data = bytearray()
    def writable(self):
        return True
    def write(self, piece):
        self.data += piece
        return len(piece)

for epoch in range(epochs):
    weights = bytes([epoch]) * 9_000_000
    made = OneWay()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", b"pickled")
        archive.writestr("model/data/0", weights)
        archive.writestr("model/version", b"3")
    start = bytes(made.data).index(weights)
    head, tail = bytes(made.data[:start]), bytes(made.data[start + len(weights):])
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    if target.isascii():  # a C++ stream: its buffer goes with the first large piece
        left = len(head) + len(weights)
        written = os.writev(descriptor, [head, weights])
        assert written == left, (written, left)
    else:  # io.FileIO, as for names that are not ASCII
        for piece in (head, weights):
            assert os.write(descriptor, piece) == len(piece)
    assert os.write(descriptor, tail) == len(tail)
    os.close(descriptor)

    with open(target, "rb") as file:  # torch.load(mmap=True): from the end, then mapped
        size = file.seek(0, os.SEEK_END)
        with zipfile.ZipFile(file) as archive:
            assert archive.read("model/version") == b"3"
        with mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as mapped:
            assert mapped[start:start + len(weights)] == weights
"""


@pytest.mark.parametrize("name", ["model.pt", "modèle.pt"])
def test_the_calls_of_torch_save_and_torch_load(
    lingering: UserMount, service: ServiceClient, name: str
) -> None:
    """As torch 2.14 makes them (seen by strace): in order, without a seek or a rename."""
    target = lingering.path / "drop" / name
    run(sys.executable, "-c", TORCH_SAVE, target, "3")
    data = target.read_bytes()
    lingering.settle()
    found = service.artifacts()
    assert {one["filename"] for one in found} == {name}
    assert sha256(data) in {one["sha256"] for one in found}
    assert (lingering.path / "by-sha256" / sha256(data)).read_bytes() == data
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert archive.read("model/data/0") == bytes([2]) * 9_000_000


def nano(path: Path, user: UserMount, *keys: str) -> None:
    """Open a file in nano, with backups and lock files, press these keys, save and leave."""
    words = ["nano", "--ignorercfiles", "--backup", "--locking", path]
    with Terminal(words, user.environment) as terminal:
        terminal.wait_for(r"\^G")  # its first key is shown, whatever the length of the title
        assert user.uploads()[f".{path.name}.swp"]["waits_for_name"]
        for key in keys:
            terminal.type(key)
        terminal.type("\x0f")  # ^O: write out
        terminal.wait_for("Write to File|File Name to Write")
        terminal.type("\r")
        terminal.wait_for(r"Wrote \d+ line")
        terminal.type("\x18")  # ^X: exit
        assert terminal.end() == 0
        assert terminal.is_as_before


def test_nano_writes_a_new_file_and_makes_it_shorter(
    lingering: UserMount, service: ServiceClient
) -> None:
    needs("nano")
    drop = lingering.path / "drop"
    nano(drop / "notes.txt", lingering, "first line")
    assert os.listdir(drop) == ["notes.txt"], "the lock file has gone"
    lingering.settle()
    (first,) = service.artifacts()
    assert (first["filename"], first["sha256"]) == ("notes.txt", sha256(b"first line\n"))

    nano(drop / "notes.txt", lingering, "\x0b", "short")  # ^K: cut the line
    assert sorted(os.listdir(drop)) == ["notes.txt", "notes.txt~"]
    assert (drop / "notes.txt").read_bytes() == b"short\n"
    assert (drop / "notes.txt~").read_bytes() == b"first line\n"
    done = lingering.command("flush", lingering.path, check=False)
    assert done.returncode == 3
    assert "notes.txt~ is not uploaded, it waits for its name" in done.stderr
    found = service.artifacts()
    assert {one["filename"] for one in found} == {"notes.txt"}
    assert {one["sha256"] for one in found} == {
        sha256(b"first line\n"), sha256(b"short\n"),
    }  # fmt: skip
    # Which of two has the plain name is not said within one second: that is how times are listed.
    final = lingering.path / "by-sha256" / sha256(b"short\n")
    assert final.read_bytes() == b"short\n"
    (drop / "notes.txt~").unlink()
    lingering.settle()
