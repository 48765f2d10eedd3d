"""The native way into the kernel: ``/dev/fuse`` spoken directly, Linux only, no library needed.

`NativeBinding.run` is the life of one mount, on the main thread:

    attach (`mounting`) → session answers INIT → the mount point answers a statfs → `on_ready`
    → wait → stop notifying → unmount → wait for the kernel's goodbye → close the session

It waits on a queue into which everything that ends a mount puts one word: the signal handlers,
`stop` from any thread, and the reading thread when the connection is gone because somebody else
unmounted (``umount``, ``fusermount -u``) or aborted it. (`SimpleQueue.put` may be called from a
signal handler; an `Event` may not, its lock could be held by the very thread that is interrupted.)

**Ending.** Plain unmount first. If files are open, the mount point is detached, so that nobody new
comes in, and who is inside has `GRACE_S` to finish; then the connection is aborted and they get an
error instead of a hang. A second signal skips the grace. Every wait here is bounded.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

from artifactfs.errors import MountError
from artifactfs.kernel.binding import MountOptions
from artifactfs.kernel.mount_table import Mounted, find_mount
from artifactfs.kernel.native.device import Device
from artifactfs.kernel.native.mounting import Attached, attach, is_stacked, raise_readahead
from artifactfs.kernel.native.session import Session
from artifactfs.kernel.unmounting import abort, unmount
from artifactfs.tree.node import Tree

_log = logging.getLogger(__name__)

READY_WITHIN_S: Final = 10.0
GRACE_S: Final = 3.0
CLOSE_WITHIN_S: Final = 10.0
READAHEAD_KB: Final = 1024
SWITCH_INTERVAL_S: Final = 0.0005

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOP: Final = "stop"
_ENDED: Final = "ended"


class NativeBinding:
    """One mount by the kernel's own protocol. An object serves one mount.

    `backing_directory` is where the files lie that passthrough is to read: the cache. It decides
    how deep file systems may be stacked, and is tried out before the first open. Raises
    `MountError` where this is not Linux.
    """

    def __init__(self, *, backing_directory: Path | None = None) -> None:
        if not sys.platform.startswith("linux"):
            raise MountError("the native binding speaks with Linux only", remedy="--fuse fusepy")
        self._backing_directory = backing_directory
        self._events: SimpleQueue[str] = SimpleQueue()
        self._session: Session | None = None
        self._attached: Attached | None = None
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
            facts |= {"mounted_by": self._attached.way, "connection": self._attached.connection}
        if self._readahead_kb is not None:
            facts["readahead_kb"] = self._readahead_kb
        if self._session is not None:
            facts |= self._session.facts()
        return facts

    def stop(self) -> None:
        """Have `run` unmount and return; from any thread or a signal handler."""
        self._events.put(_STOP)

    def run(
        self, tree: Tree, mountpoint: Path, options: MountOptions, on_ready: Callable[[], None]
    ) -> None:
        """Mount, serve, unmount; see `Binding.run`."""
        stack_depth = 1
        if self._backing_directory is not None and is_stacked(self._backing_directory):
            stack_depth = 2
        with self._signals(), _quick_switches():
            attached = self._attached = attach(mountpoint, options)
            device = Device(attached.fd)
            session = self._session = Session(
                device,
                tree,
                options,
                backing_directory=self._backing_directory,
                stack_depth=stack_depth,
                on_end=lambda: self._events.put(_ENDED),
            )
            try:
                session.start()
                session.wait_ready()
                self._check_answers(attached)
                session.start_notifying()
                on_ready()
                self._events.get()
            finally:
                session.stop_notifying(GRACE_S)
                self._detach(attached, device)
                session.close(CLOSE_WITHIN_S)

    def _check_answers(self, attached: Attached) -> None:
        """Until the mount point has answered a statfs and a stat of ours."""
        if attached.mountpoint is None:
            return
        if attached.connection is not None:
            self._readahead_kb = raise_readahead(attached.connection, READAHEAD_KB)
        outcome: SimpleQueue[OSError | None] = SimpleQueue()

        def ask() -> None:
            try:
                os.statvfs(attached.mountpoint or "/")
                os.stat(attached.mountpoint or "/")  # noqa: PTH116 - the plain system call
            except OSError as error:
                outcome.put(error)
            else:
                outcome.put(None)

        threading.Thread(target=ask, name="fuse-ask", daemon=True).start()
        try:
            error = outcome.get(timeout=READY_WITHIN_S)
        except Empty:
            raise MountError(
                f"{attached.mountpoint} was mounted but did not answer in {READY_WITHIN_S:.0f} s"
            ) from None
        if error is not None:
            raise MountError(
                f"{attached.mountpoint} was mounted but answers: {error.strerror}"
            ) from error

    def _detach(self, attached: Attached, device: Device) -> None:
        """Unmount what `attach` mounted, if nobody has yet, and end the connection."""
        mounted = self._still_mounted(attached)
        if mounted is None:
            return
        try:
            unmount(mounted.mountpoint)
            return
        except MountError as error:
            _log.info("%s", error)
        try:
            unmount(mounted.mountpoint, lazy=True)
        except MountError as error:
            _log.warning("%s", error)
        limit_s = time.monotonic() + GRACE_S
        while device.ended is None and (left_s := limit_s - time.monotonic()) > 0:
            try:
                self._events.get(timeout=left_s)
            except Empty:
                break
            if device.ended is None:
                break  # told to stop again: no more grace
        if device.ended is None:
            _log.warning("%s: files are still open; their connection is cut", mounted.mountpoint)
            try:
                abort(mounted)
            except MountError as error:
                _log.warning("%s", error)

    def _still_mounted(self, attached: Attached) -> Mounted | None:
        if attached.mountpoint is None:
            return None
        mounted = find_mount(attached.mountpoint)
        if mounted is None or mounted.connection != attached.connection:
            return None
        return mounted

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Have INT, TERM and HUP end the mount, unless the program has its own idea of them."""
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    before[number] = signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.stop()


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
