"""Random sequences of operations on drop/ do what they do on a local directory.

Both get the same operations. What each answers, bytes or errno, must be the same each time, and the
trees must be the same at the end. A violation is shrunk by Hypothesis to its shortest sequence.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuse.mounted import Mount

pytestmark = pytest.mark.fuse

NAMES = st.sampled_from(["a", "b", "d", "d/a", "d/b", "e", "e/d", "e/d/a", "é"])
OPEN_FLAGS = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR | os.O_CREAT,
        os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_WRONLY | os.O_APPEND,
        os.O_RDWR | os.O_TRUNC,
        os.O_RDONLY | os.O_DIRECTORY,
    ]
)
SLOTS = st.integers(0, 2)
SIZES = st.integers(0, 20_000)

OPERATIONS = st.one_of(
    st.tuples(st.just("open"), SLOTS, NAMES, OPEN_FLAGS),
    st.tuples(st.just("close"), SLOTS),
    st.tuples(st.just("write"), SLOTS, SIZES, st.binary(max_size=50), st.integers(1, 300)),
    st.tuples(st.just("append"), SLOTS, st.binary(max_size=50)),
    st.tuples(st.just("read"), SLOTS, SIZES, SIZES),
    st.tuples(st.just("size"), SLOTS),
    st.tuples(st.just("cut_open"), SLOTS, SIZES),
    st.tuples(st.just("cut"), NAMES, SIZES),
    st.tuples(st.just("unlink"), NAMES),
    st.tuples(st.just("mkdir"), NAMES),
    st.tuples(st.just("rmdir"), NAMES),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("stat"), NAMES),
    st.tuples(st.just("list"), NAMES),
    st.tuples(st.just("whole"), NAMES),
    st.tuples(st.just("chmod"), NAMES, st.sampled_from([0o600, 0o644, 0o755])),
)


class Root:
    """One of the two directories, with up to three open files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fds: dict[int, int] = {}

    def at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def fd(self, slot: int) -> int:
        if slot not in self.fds:
            raise OSError(errno.EBADF, "nothing open")
        return self.fds[slot]

    def do(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self, name)(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def open(self, slot: int, name: str, flags: int) -> None:
        self.close(slot)
        self.fds[slot] = os.open(self.at(name), flags, 0o644)

    def close(self, slot: int) -> None:
        fd = self.fds.pop(slot, None)
        if fd is not None:
            os.close(fd)

    def write(self, slot: int, offset: int, data: bytes, times: int) -> int:
        return os.pwrite(self.fd(slot), data * times, offset)

    def append(self, slot: int, data: bytes) -> int:
        os.lseek(self.fd(slot), 0, os.SEEK_END)
        return os.write(self.fd(slot), data)

    def read(self, slot: int, offset: int, size: int) -> bytes:
        return os.pread(self.fd(slot), size, offset)

    def size(self, slot: int) -> int | None:
        shown = os.fstat(self.fd(slot))
        return shown.st_size if stat.S_ISREG(shown.st_mode) else None

    def cut_open(self, slot: int, size: int) -> None:
        os.ftruncate(self.fd(slot), size)

    def cut(self, name: str, size: int) -> None:
        os.truncate(self.at(name), size)

    def unlink(self, name: str) -> None:
        os.unlink(self.at(name))

    def mkdir(self, name: str) -> None:
        os.mkdir(self.at(name))

    def rmdir(self, name: str) -> None:
        os.rmdir(self.at(name))

    def rename(self, old: str, new: str) -> None:
        os.rename(self.at(old), self.at(new))

    def stat(self, name: str) -> tuple[int, int | None]:
        shown = os.stat(self.at(name))
        return shown.st_mode, shown.st_size if stat.S_ISREG(shown.st_mode) else None

    def list(self, name: str) -> list[str]:
        return sorted(os.listdir(self.at(name)))

    def whole(self, name: str) -> bytes:
        return Path(self.at(name)).read_bytes()

    def chmod(self, name: str, mode: int) -> None:
        os.chmod(self.at(name), mode)

    def everything(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for above, folders, files in os.walk(self.path):
            for name in folders:
                found[os.path.relpath(os.path.join(above, name), self.path)] = "folder"
            for name in files:
                path = os.path.join(above, name)
                found[os.path.relpath(path, self.path)] = Path(path).read_bytes()
        return found


@contextlib.contextmanager
def both(mount: Mount, local: Path, number: int) -> Iterator[tuple[Root, Root]]:
    roots = Root(mount / f"drop/{number}"), Root(local / str(number))
    for root in roots:
        os.mkdir(root.path)
    try:
        yield roots
    finally:
        for root in roots:
            for slot in list(root.fds):
                root.close(slot)


def test_any_sequence_of_operations_does_what_a_local_disk_does(
    mount: Mount, tmp_path: Path
) -> None:
    numbers = itertools.count()
    local = tmp_path / "local"
    local.mkdir()

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.lists(OPERATIONS, max_size=25))
    def compare(operations: list[tuple[Any, ...]]) -> None:
        with both(mount, local, next(numbers)) as (mounted, plain):
            for operation in operations:
                assert mounted.do(*operation) == plain.do(*operation), operation
            assert mounted.everything() == plain.everything()

    compare()
    assert ".fuse_hidden" not in str(mount.dropped())
