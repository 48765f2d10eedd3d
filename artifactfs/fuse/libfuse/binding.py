"""The portable way into the kernel: fusepy over libfuse 2.

Who does what, on which thread:

* **main** (`run`): starts the others, waits for events from a queue, unmounts. Signal handlers for
  INT, TERM and HUP run here and put one more event into the queue. (libfuse would install its own;
  it leaves those alone that are taken.)
* **fusepy** runs `LibfuseSession`, that is libfuse's main loop, to its end.
* **libfuse's own threads**, one per request under way and as many as needed, run `operations`.

A mount is ready when the kernel's INIT was answered, and that is known when a statfs(2) of ours
comes back; it is done before `on_ready`.

Ending: libfuse looks whether it shall end when a request has been served, so `stop` marks the
session and then sends a request. It waits for the requests under way; reads that wait for bytes are
given up by `Operations.stopping`. Whoever is not done after `END_S` is left behind: the mount point
is detached and the connection cut, so that nobody hangs on it.

A name is looked up again each time, and the answer brings its attributes. They are kept for a
moment (`ATTRIBUTES_S`), because otherwise each stat(2) would ask a second time: 62 instead of 118
µs, and 2.5 instead of 3.9 s for ``ls -l`` of 10 000 files. Only fstat(2) can be late by that
moment.

Compared with the native binding: no passthrough, no readdirplus, no time-outs per node, no rename
flags, no fallocate; two names of one artifact do not share their cached pages.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from artifactfs import system
from artifactfs.caller import CallerIntent, caller_intent
from artifactfs.errors import MountError
from artifactfs.fuse.binding import SUBTYPE, MountOptions
from artifactfs.fuse.error_reply import ErrorReplies
from artifactfs.fuse.libfuse.operations import NodeOwner, Operations
from artifactfs.fuse.mount_checks import (
    check_fuse,
    clean_stale,
    load_library,
)
from artifactfs.fuse.unmount import (
    abort,
    find_mount,
    unmount,
)
from artifactfs.vfs.node import Tree

END_S = 10.0
WAITING_END_S = 1.0
NUDGE_S = 0.5
LOOK_FOR_SIGNALS_S = 0.5
REQUEST_BYTES = 128 * 1024
READAHEAD_BYTES = 1024 * 1024
BACKGROUND_REQUESTS = 64
ATTRIBUTES_S = 0.05

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_log = logging.getLogger(__name__)


class _Event(Enum):
    BEGUN = "the kernel's INIT is being answered"
    STOP = "someone wants it to end"
    ENDED = "libfuse's loop has returned"


class FusepyBinding:
    """One mount by fusepy. `instead_of` says why not by the native binding.

    `_events` is the only thing that signal handlers share with `run`: its `put` may be called at
    any moment. `_session_lock` guards `_session`, libfuse's object while it lives.
    """

    def __init__(self, *, instead_of: str | None = None) -> None:
        load_library()
        from artifactfs.fuse.libfuse.callbacks import LibfuseLibrary

        self._library = LibfuseLibrary()
        self._instead_of = instead_of
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._session_lock = threading.Lock()
        self._session: int | None = None
        self._begun = False
        self._failure: BaseException | None = None
        self._connection: int | None = None

    @property
    def name(self) -> str:
        """``fusepy``."""
        return "fusepy"

    @property
    def facts(self) -> dict[str, object]:
        """What ``status`` shows of it."""
        facts: dict[str, object] = {
            "library": f"libfuse {self._library.version}",
            "passthrough": False,
            "passthrough_reason": self.without_passthrough(),
            "connection": self._connection,
        }
        if self._instead_of:
            facts["instead_of_native"] = self._instead_of
        return facts

    def without_passthrough(self) -> str | None:
        """There is none."""
        return "libfuse 2 does not know it"

    def stop(self) -> None:
        """Have `run` unmount and return; from any thread or a signal handler."""
        self._events.put(_Event.STOP)

    def run(
        self, tree: Tree, mountpoint: Path, options: MountOptions, on_ready: Callable[[], None]
    ) -> None:
        """Mount, serve, unmount; see `Binding.run`. An object serves one mount."""
        check_fuse("fusepy", allow_other=options.allow_other)
        replies = ErrorReplies()
        operations = Operations(
            tree,
            NodeOwner(options.uid, options.gid),
            replies,
            wish=self._wish,
            caller_pid=self._library.caller_pid,
        )
        thread = threading.Thread(
            target=self._serve,
            args=(operations, replies, mountpoint, mount_options(options)),
            name="fusepy",
            daemon=True,  # where libfuse's loop is left behind, the process ends nevertheless
        )
        with self._signals():
            thread.start()
            try:
                self._attend(mountpoint, on_ready)
            finally:
                operations.stopping.set()
                ended = self._end(thread, mountpoint)
                operations.close(WAITING_END_S)
        if ended:
            operations.release_all()
        if not self._begun:
            raise MountError(
                f"libfuse could not mount {mountpoint}: {self._failure}",
                remedy="its own words stand on standard error; `artifactfs doctor` looks closer",
            )
        if self._failure is not None:
            _log.error("libfuse ended with an error: %s", self._failure)

    def _serve(
        self,
        operations: Operations,
        replies: ErrorReplies,
        mountpoint: Path,
        options: dict[str, Any],
    ) -> None:
        from artifactfs.fuse.libfuse.callbacks import LibfuseSession

        try:
            LibfuseSession(
                operations,
                replies,
                os.fspath(mountpoint),
                begun=self._on_init,
                ending=self._on_destroy,
                options=options,
            )
        except BaseException as error:  # noqa: BLE001 - it ends here; `run` says so
            self._failure = error
        finally:
            self._events.put(_Event.ENDED)

    def _wish(self) -> CallerIntent:
        """What the caller of the request under way wants; unknown only if it was interrupted.

        Reads for the page cache are not interrupted by a signal that has a handler (``calls`` says
        more), so its signals are looked at in any case.
        """
        wish = caller_intent(self._library.caller_pid())
        if wish is CallerIntent.UNKNOWN and not self._library.interrupted():
            return CallerIntent.GO_ON
        return wish

    def _on_init(self) -> None:
        with self._session_lock:
            self._session = self._library.session()
            self._begun = True
        self._events.put(_Event.BEGUN)

    def _on_destroy(self) -> None:
        with self._session_lock:
            self._session = None

    def _attend(self, mountpoint: Path, on_ready: Callable[[], None]) -> None:
        """Until it ends or shall end."""
        while self._next_event() is _Event.BEGUN:
            with suppress(OSError):
                os.statvfs(mountpoint)
            mounted = find_mount(mountpoint)
            self._connection = mounted.connection if mounted else None
            on_ready()

    def _next_event(self) -> _Event:
        while True:
            # The kernel may hand a signal to any thread. Python carries it out on this one, and
            # only between two instructions: so waiting has to end now and then.
            with suppress(Empty):
                return self._events.get(timeout=LOOK_FOR_SIGNALS_S)

    def _end(self, thread: threading.Thread, mountpoint: Path) -> bool:
        """End libfuse's loop and the mount. False: something had to be left behind."""
        deadline = time.monotonic() + END_S
        while thread.is_alive() and time.monotonic() < deadline:
            with self._session_lock:
                lives = self._session is not None
                if self._session is not None:
                    self._library.exit(self._session)
            if lives:
                threading.Thread(
                    target=_nudge, args=(mountpoint,), name="nudge", daemon=True
                ).start()
            thread.join(NUDGE_S)
        ended = not thread.is_alive()
        if not ended:
            _log.error("%s: requests under way did not end within %s s", mountpoint, END_S)
        mounted = find_mount(mountpoint) if self._begun else None
        if mounted is None or self._connection not in (None, mounted.connection):
            return ended
        try:
            if ended:
                # Only if it is stale: numbers are used again, this may be the next mount already.
                clean_stale(mountpoint)
            else:
                abort(mounted)
                unmount(mountpoint, lazy=True)
        except MountError as error:
            _log.warning("%s", error)
        return ended

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
            for taken, handler in before.items():
                signal.signal(taken, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.stop()


def _nudge(mountpoint: Path) -> None:
    with suppress(OSError):
        os.statvfs(mountpoint)


def mount_options(options: MountOptions) -> dict[str, Any]:
    """libfuse's options (mount.fuse(8), version 2)."""
    chosen: dict[str, Any] = {
        "foreground": True,
        "use_ino": True,
        "entry_timeout": 0,
        "attr_timeout": ATTRIBUTES_S,
        "negative_timeout": 0,
    }
    source = _as_option(options.source)
    if system.LINUX:
        chosen |= {
            "fsname": source,
            "subtype": SUBTYPE,
            "atomic_o_trunc": True,
            "big_writes": True,
            "max_read": REQUEST_BYTES,
            "max_write": REQUEST_BYTES,
            "max_readahead": READAHEAD_BYTES,
            "max_background": BACKGROUND_REQUESTS,
        }
    else:
        chosen |= system.macfuse_options(SUBTYPE, source)
    if options.allow_other:
        # Only then: the owner shall see EROFS, not EACCES, and may set commands on read-only nodes.
        chosen |= {"allow_other": True, "default_permissions": True}
    if options.read_only:
        chosen["ro"] = True
    if options.noexec:
        chosen["noexec"] = True
    return chosen


def _as_option(text: str) -> str:
    """`text` as the value of an option: commas part options, backslashes escape."""
    return text.replace("\\", "\\\\").replace(",", "\\,")
