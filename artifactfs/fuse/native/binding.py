"""What ends a mount: signals, `stop`, and the end of the connection, in one place to wait for.

A queue would not do. A signal that arrives just before a thread goes to sleep on a lock is noted,
but does not wake it, and the mount would go on until something else happens. So everything comes
through a pair of sockets: Python's own C signal handler writes the signal's number there
(`signal.set_wakeup_fd`), which no sleep can miss, and everybody else writes a byte of his own.

The native way into the kernel: ``/dev/fuse`` spoken directly, Linux only, no library needed.

`NativeBinding.run` is the life of one mount, on the main thread:

    attach (`mounting`) → session answers INIT → the mount point answers a statfs → `on_ready`
    → wait → stop notifying → unmount → wait for the kernel's goodbye → close the session

What it waits for (`ending`) is a signal, `stop` from any thread, or the word of the reading thread
that the connection is gone: somebody else unmounted (``umount``, ``fusermount -u``) or aborted it.

**Ending.** Plain unmount first. If files are open, the mount point is detached, so that nobody new
comes in, and who is inside has `GRACE_S` to finish; then the connection is aborted and they get an
error instead of a hang. A second signal skips the grace. Every wait here is bounded.
"""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

from artifactfs.errors import MountError
from artifactfs.fuse.binding import MountOptions
from artifactfs.fuse.native import passthrough
from artifactfs.fuse.native.device import Device
from artifactfs.fuse.native.mount import (
    MountedDevice,
    is_mounted,
    is_privileged,
    is_stacked,
    mount_device,
    raise_readahead,
    unmount_device,
)
from artifactfs.fuse.native.session import NativeSession
from artifactfs.fuse.unmount import MountedFilesystem, abort
from artifactfs.vfs.node import Tree

ENDED: Final = 0xE0
"""The connection with the kernel is gone."""
STOP: Final = 0xE1
"""Somebody called `stop`."""

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class MountEnd:
    """Collects what ends a mount. One thread waits; any thread or signal handler tells.

    `_ours` are the signals that end it; only the waiting thread uses it.
    """

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._ours: set[int] = set()
        self._poll = select.poll()
        self._poll.register(self._inside, select.POLLIN)

    def tell(self, word: int) -> None:
        """Put `ENDED` or `STOP`. Never waits; after `close` it does nothing."""
        with suppress(OSError):  # full: then there is enough to wake up for
            self._outside.send(bytes([word]))

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The next word: `ENDED`, `STOP` or a signal's number; None if there is none in time."""
        limit_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if limit_s is None else max(0.0, limit_s - time.monotonic())
            if not self._poll.poll(None if left_s is None else left_s * 1000):
                return None
            word = self._inside.recv(1)[0]
            if word in (ENDED, STOP) or word in self._ours:
                return word  # others are signals that the program handles itself

    def close(self) -> None:
        """Give the sockets back."""
        self._inside.close()
        self._outside.close()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Have INT, TERM and HUP put their numbers, unless the program has its own idea of them.

        On the main thread; elsewhere signals stay as they are.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[signal.Signals, Any] = {}
        wakeup_before = signal.set_wakeup_fd(self._outside.fileno(), warn_on_full_buffer=False)
        try:
            for number in SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    before[number] = signal.signal(number, _on_signal)
                    self._ours.add(number)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup_before)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Nothing to do: its number has been written already."""
    del number, frame


_log = logging.getLogger(__name__)

READY_WITHIN_S: Final = 10.0
GRACE_S: Final = 3.0
CLOSE_WITHIN_S: Final = 10.0
READAHEAD_KB: Final = 256
"""More makes a reader of pieces, such as one of a Parquet column, ask for much beyond them (1.7
times the column with 1 MiB, 1.3 with this), and whole files are read no faster: the cache reads
ahead."""
SWITCH_INTERVAL_S: Final = 0.0005
OLDEST_LINUX: Final = (5, 4)


class NativeBinding:
    """One mount by the kernel's own protocol. An object serves one mount.

    `backing_directory` is where the files lie that passthrough is to read: the cache. It decides
    how deep file systems may be stacked, and is tried out before the first open. Raises
    `MountError` where this is not Linux.
    """

    def __init__(self, *, backing_directory: Path | None = None) -> None:
        if not sys.platform.startswith("linux"):
            raise MountError("the native binding speaks with Linux only", remedy="--fuse fusepy")
        release = os.uname().release
        if _version(release) < OLDEST_LINUX:
            raise MountError(
                f"the native binding needs Linux {'.'.join(map(str, OLDEST_LINUX))}, "
                f"this is {release}",
                remedy="--fuse fusepy",
            )
        self._backing_directory = backing_directory
        self._ending: MountEnd | None = None
        self._stopped = False
        self._session: NativeSession | None = None
        self._attached: MountedDevice | None = None
        self._connection: int | None = None
        self._readahead_kb: int | None = None

    @property
    def name(self) -> str:
        """``native``."""
        return "native"

    @property
    def facts(self) -> dict[str, object]:
        """What ``status`` shows of it."""
        facts: dict[str, object] = {}
        if self._attached is not None:
            facts |= {"mounted_by": self._attached.way, "connection": self._connection}
        if self._readahead_kb is not None:
            facts["readahead_kb"] = self._readahead_kb
        if self._session is not None:
            facts |= self._session.facts()
        return facts

    def without_passthrough(self) -> str | None:
        """Why the kernel will not read cached files past the driver; None if it will."""
        if _version(os.uname().release) < passthrough.OLDEST_LINUX:
            return passthrough.TOO_OLD
        return None if is_privileged() else passthrough.UNPRIVILEGED

    def stop(self) -> None:
        """Have `run` unmount and return; from any thread or a signal handler."""
        self._stopped = True
        ending = self._ending
        if ending is not None:
            ending.tell(STOP)

    def run(
        self, tree: Tree, mountpoint: Path, options: MountOptions, on_ready: Callable[[], None]
    ) -> None:
        """Mount, serve, unmount; see `Binding.run`."""
        with closing(MountEnd()) as ending, ending.signals(), _quick_switches():
            self._ending = ending
            if self._stopped:
                ending.tell(STOP)
            try:
                self._serve(tree, mountpoint, options, on_ready, ending)
            finally:
                self._ending = None

    def _serve(
        self,
        tree: Tree,
        mountpoint: Path,
        options: MountOptions,
        on_ready: Callable[[], None],
        ending: MountEnd,
    ) -> None:
        stack_depth = 1
        if self._backing_directory is not None and is_stacked(self._backing_directory):
            stack_depth = 2
        attached = self._attached = mount_device(mountpoint, options)
        device = Device(attached.fd)
        session: NativeSession | None = None
        try:
            session = self._session = NativeSession(
                device,
                tree,
                options,
                backing_directory=self._backing_directory,
                stack_depth=stack_depth,
                on_end=lambda: ending.tell(ENDED),
            )
            session.start()
            session.wait_ready()
            self._check_answers(attached)
            session.start_notifying()
            on_ready()
            ending.wait()
        finally:
            if session is not None:
                session.stop_notifying(GRACE_S)
            self._detach(attached, device, ending)
            device.stop_receiving()
            if session is not None:
                session.close(CLOSE_WITHIN_S)
            else:
                device.close(unused=True)

    def _check_answers(self, attached: MountedDevice) -> None:
        """Until the mount point has answered a statfs and a stat of ours."""
        if attached.mountpoint is None:
            return
        mountpoint = attached.mountpoint
        outcome: SimpleQueue[OSError | int] = SimpleQueue()

        def ask() -> None:
            try:
                os.statvfs(mountpoint)
                outcome.put(os.minor(mountpoint.stat().st_dev))
            except OSError as error:
                outcome.put(error)

        threading.Thread(target=ask, name="fuse-ask", daemon=True).start()
        try:
            answer = outcome.get(timeout=READY_WITHIN_S)
        except Empty:
            raise MountError(
                f"{mountpoint} was mounted but did not answer in {READY_WITHIN_S:.0f} s"
            ) from None
        if isinstance(answer, OSError):
            raise MountError(f"{mountpoint} was mounted but answers: {answer.strerror}") from answer
        self._connection = answer
        self._readahead_kb = raise_readahead(answer, READAHEAD_KB)

    def _detach(self, attached: MountedDevice, device: Device, ending: MountEnd) -> None:
        """Unmount what `mount_device` mounted, if nobody has yet, and end the connection."""
        mountpoint = attached.mountpoint
        if mountpoint is None or not is_mounted(attached):
            return
        try:
            unmount_device(mountpoint)
            return
        except MountError as error:
            _log.info("%s", error)
        try:
            unmount_device(mountpoint, lazy=True)
        except MountError as error:
            _log.warning("%s", error)
        ending.wait(GRACE_S)  # the end, or somebody who tells again to stop
        if device.ended is None:
            _log.warning("%s: files are still open; their connection is cut", mountpoint)
            if self._connection is None:
                return
            try:
                abort(MountedFilesystem(mountpoint, "", self._connection))
            except MountError as error:
                _log.debug("%s", error)  # closing the device cuts it too


def _version(release: str) -> tuple[int, ...]:
    """The first two numbers of ``6.1.0-13-amd64``; what has none counts as new."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return tuple(map(int, found.groups())) if found else OLDEST_LINUX


@contextmanager
def _quick_switches() -> Iterator[None]:
    """Let a thread that computes give way after half a millisecond instead of five.

    The reading thread lets go of the interpreter at each system call; without this it gets it back
    5 ms later whenever some other thread is parsing or hashing.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
