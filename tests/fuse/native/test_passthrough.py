"""One mode per inode, from its first open to its last release."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.device import Device
from artifactfs.fuse.native.passthrough import Passthrough
from artifactfs.vfs.node import Handle


class BackingDevice(Device):
    """Takes any descriptor, as long as `error` is not set, and knows which ids are in use."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.ids: set[int] = set()
        self.given = 0

    def open_backing(self, fd: int) -> int:
        if self.error is not None:
            raise OSError(self.error, "refused")
        self.given += 1
        self.ids.add(self.given)
        return self.given

    def close_backing(self, backing_id: int) -> None:
        self.ids.remove(backing_id)


class Backed(Handle):
    def __init__(self, fd: int | None = 3, *, direct_io: bool = False) -> None:
        self._fd = fd
        self._direct_io = direct_io

    @property
    def direct_io(self) -> bool:
        return self._direct_io

    def read(self, start: int, stop: int) -> bytes:
        return b""

    def backing_fd(self) -> int | None:
        return self._fd


def working() -> tuple[BackingDevice, Passthrough]:
    device = BackingDevice()
    passthrough = Passthrough(device)
    passthrough.allow(3)
    assert passthrough.reason is None
    return device, passthrough


class Kernel(RuleBasedStateMachine):
    """The kernel's own rules (fs/fuse/iomode.c), which answer EIO when they are broken."""

    def __init__(self) -> None:
        super().__init__()
        self.device, self.passthrough = working()
        self.opens: list[tuple[int, int]] = []  # (ino, backing id)

    @rule(ino=st.integers(1, 3), fd=st.none() | st.just(3), direct=st.booleans())
    def open(self, ino: int, fd: int | None, direct: bool) -> None:
        entered = self.passthrough.enter(ino, Backed(fd, direct_io=direct), os.O_RDONLY)
        ids = {backing_id for opened, backing_id in self.opens if opened == ino}
        if entered is None:
            assert direct
            assert ids <= {0}, "a plain open of an inode that is open for passthrough"
            return
        flags, backing_id = entered
        assert bool(flags & protocol.FOPEN_PASSTHROUGH) == (backing_id != 0)
        assert backing_id == 0 or backing_id in self.device.ids
        assert ids <= {backing_id}, "two modes, or two backing files, of one inode"
        self.opens.append((ino, backing_id))

    @precondition(lambda self: self.opens)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ino, backing_id = self.opens.pop(data.draw(st.integers(0, len(self.opens) - 1)))
        self.passthrough.leave(ino)
        assert backing_id == 0 or (
            (backing_id in self.device.ids) == ((ino, backing_id) in self.opens)
        )

    @rule()
    def the_kernel_refuses_for_a_while(self) -> None:
        self.device.error = None if self.device.error else errno.EIO

    @invariant()
    def no_id_is_kept_that_nobody_uses(self) -> None:
        assert self.device.ids == {backing_id for _, backing_id in self.opens if backing_id}


TestKernel = Kernel.TestCase


def test_what_is_open_uncached_stays_so_when_it_becomes_complete() -> None:
    _, passthrough = working()
    assert passthrough.enter(5, Backed(None), os.O_RDONLY) == (0, 0)
    assert passthrough.enter(5, Backed(), os.O_RDONLY) == (0, 0)
    passthrough.leave(5)
    assert passthrough.enter(5, Backed(), os.O_RDONLY) == (0, 0)
    passthrough.leave(5)
    passthrough.leave(5)
    assert passthrough.enter(5, Backed(), os.O_RDONLY) == (protocol.FOPEN_PASSTHROUGH, 2)


def test_what_is_passed_through_stays_so_when_it_is_evicted() -> None:
    device, passthrough = working()
    first = passthrough.enter(5, Backed(), os.O_RDONLY)
    assert passthrough.enter(5, Backed(None), os.O_RDONLY) == first
    assert device.given == 2  # the sample and this one
    passthrough.leave(5)
    passthrough.leave(5)
    assert device.ids == set()


def test_a_writer_is_never_passed_through() -> None:
    _, passthrough = working()
    assert passthrough.enter(5, Backed(), os.O_RDWR) == (0, 0)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EPERM, "CAP_SYS_ADMIN"), (errno.ELOOP, "stacked"), (errno.EOPNOTSUPP, "refuses")],
)
def test_why_not_is_said_in_words(number: int, words: str) -> None:
    device = BackingDevice()
    device.error = number
    passthrough = Passthrough(device)
    passthrough.allow(3)
    assert passthrough.reason is not None
    assert words in passthrough.reason
    assert passthrough.enter(5, Backed(), os.O_RDONLY) == (0, 0)


def test_a_privilege_that_is_lost_ends_it_for_good_one_bad_file_does_not() -> None:
    device, passthrough = working()
    device.error = errno.EIO
    assert passthrough.enter(5, Backed(), os.O_RDONLY) == (0, 0)
    assert passthrough.reason is None
    device.error = errno.EPERM
    assert passthrough.enter(6, Backed(), os.O_RDONLY) == (0, 0)
    assert passthrough.reason is not None


def test_what_is_only_written_goes_past_the_page_cache_where_the_kernel_can_map_it() -> None:
    _, passthrough = working()
    assert passthrough.enter(5, Backed(None), os.O_WRONLY) == (0, 0)
    passthrough.write_directly = True
    assert passthrough.enter(5, Backed(None), os.O_WRONLY) is None
    assert passthrough.enter(5, Backed(None), os.O_RDWR) == (0, 0)
