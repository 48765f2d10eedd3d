"""The state `hashing`, held still: the kernel keeps the driver from opening the file it would hash.

A write lease (fcntl(2), F_SETLEASE) on a file in the spool belongs to the test. Whoever opens that
file waits until the lease is given back (or `lease-break-time`, 45 s, is over), and meanwhile the
kernel says that it is to be. So nothing here depends on how fast anything is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from .conftest import ServiceClient, UserMount, sha256, wait_until

pytestmark = pytest.mark.fuse

SIZE_BYTES = 9_000_000


class Lease:
    """Keeps everybody else from opening `path`, from the moment on in which nobody has it open."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR)
        # The kernel tells by a signal, too: one that does nothing.
        fcntl.fcntl(self._descriptor, fcntl.F_SETSIG, signal.SIGURG)
        wait_until(self._take, 10, "the driver has closed the file")

    def _take(self) -> bool:
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            return False
        return True

    @property
    def somebody_waits(self) -> bool:
        """Whether an open(2) is held up."""
        return fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK

    def close(self) -> None:
        """Let them."""
        os.close(self._descriptor)


def write_out_of_order(path: Path, data: bytes) -> None:
    """So that nothing can be hashed on the way: what was written first is changed at the end."""
    with path.open("wb", buffering=0) as file:
        file.write(bytes(len(data)))
        file.seek(0)
        for start in range(0, len(data), 1 << 20):
            file.write(data[start : start + (1 << 20)])


def in_spool(user: UserMount) -> Path:
    (found,) = [
        path
        for path in (Path(user.status()["spool"]) / "files").iterdir()
        if path.stat().st_size == SIZE_BYTES
    ]
    return found


def test_a_file_that_is_being_hashed_says_so_and_can_be_read_about(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = os.urandom(SIZE_BYTES)
    drop = mounted.path / "drop"
    write_out_of_order(drop / "large.tmp", data)
    with contextlib.closing(Lease(in_spool(mounted))) as lease:
        (drop / "large.tmp").rename(drop / "large.bin")
        wait_until(lambda: lease.somebody_waits, 30, "it is hashed")
        shown: dict[str, Any] = mounted.uploads()["large.bin"]
        assert (shown["state"], shown["sha256"], shown["error"]) == ("hashing", None, None)
        assert os.getxattr(drop / "large.bin", "user.artifactfs.state") == b"hashing"
        assert os.getxattr(drop / "large.bin", "user.artifactfs.progress") == b"0"
        assert (drop / "large.bin").stat().st_size == SIZE_BYTES
        (line,) = [
            line
            for line in mounted.command("status", mounted.path).stdout.splitlines()
            if line.startswith("large.bin")
        ]
        assert line.split()[1:] == ["hashing", "9.0", "MB"]
        assert mounted.status()["uploads"]["pending_files"] == 1
        (drop / "small.bin").write_bytes(b"small")
        wait_until(lambda: service.named("small.bin"), 20, "others go on")
        assert mounted.uploads()["large.bin"]["state"] == "hashing"
        assert service.named("large.bin") == []
    mounted.settle()
    (arrived,) = service.named("large.bin")
    assert arrived["sha256"] == sha256(data)
