"""Requests of the kernel, from the moment they are read until they are answered, exactly once.

Most requests are answered by the thread that read them, before it reads the next; those never enter
a table. What has to wait is *deferred*: it is remembered under its number, and from then on several
threads may want to end it: the one that has the result, the reading thread when the kernel sends
INTERRUPT (the caller got a signal), the watch when the request's time is up. Whoever takes the
number out of the table (`InFlightRequests.claim`) answers; everyone else finds it gone and undoes
or forgets what he had.

An INTERRUPT ends what waits for the network at once with EINTR (`WAITS`). What changes the local
disk is not torn out of the middle (`CHANGES`): as on a local file system it runs to its end, and
only if it has not begun yet is it given up. FLUSH (`SETTLES`) is never left out, and its caller,
who may be a process that is dying of a signal, is not let go before the tree has had the time to
look at him. When a deadline ends such work none the less (else the kernel aborts the whole
connection), its late result is taken back.

Not every signal means that the caller wants to stop: Ctrl-Z, a profiler's timer, a child that exits
or a resized terminal interrupt a wait in FUSE too, and programs rarely expect EINTR from ``open``
of a file. `patience` decides; a call that may go on is looked at again every `POLL_INTERVAL_S`,
because the kernel sends INTERRUPT only once per request.

And for most reads it sends none. They are made for the page cache in the background; whoever waits
for the page is freed by a fatal signal only, so a program that handles Ctrl-C (any Python) would
sit there until the bytes come. So the watch looks at the callers of reads that take long, too. If
one wants to stop, its read ends with EINTR; the kernel then asks for that page once more, this time
in the caller's name and with an INTERRUPT; others who wait for the page ask again and go on.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from artifactfs.caller import (
    UNSEEN_S,
    CallerIntent,
    caller_intent,
)
from artifactfs.fuse.error_reply import ErrorReplies
from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.device import Device

_log = logging.getLogger(__name__)

# While one of these is not answered, the kernel keeps the directory that it is about locked; the
# last four only if they are about the directory itself.
_LOCKING: Final = frozenset(
    {
        protocol.Opcode.LOOKUP,
        protocol.Opcode.CREATE,
        protocol.Opcode.MKNOD,
        protocol.Opcode.MKDIR,
        protocol.Opcode.UNLINK,
        protocol.Opcode.RMDIR,
        protocol.Opcode.RENAME,
        protocol.Opcode.RENAME2,
        protocol.Opcode.SYMLINK,
        protocol.Opcode.LINK,
        protocol.Opcode.READDIR,
        protocol.Opcode.READDIRPLUS,
        protocol.Opcode.SETATTR,
        protocol.Opcode.FSYNCDIR,
        protocol.Opcode.SETXATTR,
        protocol.Opcode.REMOVEXATTR,
    }
)

POLL_INTERVAL_S: Final = 0.1
SLOW_READ_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Interruptible:
    """When an interrupted call may be given up: before it has begun (`unbegun`), and `after_s`
    seconds into it (None: never)."""

    unbegun: bool
    after_s: float | None

    def allow(self, begun_s: float | None) -> bool:
        """Whether it may be given up now; `begun_s` is when work on it began, if it did."""
        if begun_s is None:
            return self.unbegun
        return self.after_s is not None and time.monotonic() - begun_s >= self.after_s


WAITS: Final = Interruptible(unbegun=True, after_s=0.0)
CHANGES: Final = Interruptible(unbegun=True, after_s=None)
SETTLES: Final = Interruptible(unbegun=False, after_s=1.0)


class Request:
    """One request. The thread that read it owns it until it is deferred; then see
    `InFlightRequests`.

    `target` is the second directory that it is about, if there is one. `abandon` is what to stop
    when somebody else ends the call early: a ticket to cancel, a handle to let go. `begun_s` (when
    work began) is guarded by the lock of `InFlightRequests`.
    """

    __slots__ = (
        "abandon",
        "begun_s",
        "calls",
        "manners",
        "nodeid",
        "opcode",
        "pid",
        "since_s",
        "subject",
        "target",
        "unique",
    )

    abandon: Callable[[], None] | None
    begun_s: float | None
    manners: Interruptible
    since_s: float

    def __init__(
        self, calls: InFlightRequests, opcode: int, unique: int, nodeid: int, pid: int
    ) -> None:
        self.calls = calls
        self.opcode = opcode
        self.unique = unique
        self.nodeid = nodeid
        self.pid = pid
        self.subject = ""
        self.target = 0

    def answer(self, body: bytes | bytearray | memoryview = b"") -> bool:
        """Reply with success. False: nobody waits any more, what it gave must be taken back."""
        try:
            return self.calls.device.answer(self.unique, body)
        except OSError as error:
            _log.error(
                "the kernel did not take the answer to %s of inode %d: %s",
                protocol.OPERATIONS.get(self.opcode, str(self.opcode)),
                self.nodeid,
                error,
            )
            self.refuse(errno.EIO)
            return False

    def refuse(self, number: int) -> bool:
        """Reply with an errno, above zero."""
        try:
            return self.calls.device.refuse(self.unique, number)
        except OSError as error:
            _log.debug("the kernel did not take the errno %d: %s", number, error)
            return False

    def fail(self, error: BaseException) -> bool:
        """Reply with the errno of `error`, after it was logged if it is a trouble."""
        operation = protocol.OPERATIONS.get(self.opcode, str(self.opcode))
        number = self.calls.replies.errno_for(
            operation, self.subject or f"inode {self.nodeid}", error
        )
        if self.opcode in protocol.WITHOUT_ANSWER:
            return False
        if number == errno.ENOSYS:
            number = errno.EOPNOTSUPP  # ENOSYS switches an operation off for the whole mount
        return self.refuse(number if 0 < number < 512 else errno.EIO)


class InFlightRequests:
    """The deferred requests of one mount.

    `_lock` guards `_waiting`, `_interrupted`, `_asleep`, and of each call that waits `begun_s` and
    `abandon`. Nothing is called or written while it is held.
    """

    def __init__(
        self, device: Device, replies: ErrorReplies, deadline_s: float | None = None
    ) -> None:
        self.device = device
        self.replies = replies
        self.deadline_s = deadline_s
        self._lock = threading.Lock()
        self._waiting: dict[int, Request] = {}
        self._interrupted: dict[int, float] = {}  # when
        self._attention = threading.Event()
        self._asleep = False
        self._closed = False

    def defer(
        self,
        call: Request,
        manners: Interruptible = WAITS,
        *,
        abandon: Callable[[], None] | None = None,
    ) -> None:
        """Remember `call` as one that is answered later.

        `abandon` is called when it is ended early by somebody else, before that is answered.
        """
        call.begun_s = None
        call.manners = manners
        call.abandon = abandon
        call.since_s = time.monotonic()
        with self._lock:
            self._waiting[call.unique] = call
            asleep, self._asleep = self._asleep, False
        if asleep:
            self._attention.set()

    def defer_again(self, call: Request, manners: Interruptible) -> None:
        """Have `call`, which is deferred, wait for its next step, which has other `manners`.

        An INTERRUPT that came meanwhile is not lost. Nothing happens if it was given up.
        """
        with self._lock:
            call.begun_s = None
            call.manners = manners
        self._attention.set()

    def begin(self, call: Request) -> bool:
        """Say that work on it starts now. False: it was given up meanwhile, do nothing."""
        with self._lock:
            if self._waiting.get(call.unique) is not call:
                return False
            call.begun_s = time.monotonic()
            return True

    def claim(self, call: Request) -> bool:
        """Take the right, and the duty, to answer it. False: somebody else has."""
        with self._lock:
            if self._waiting.get(call.unique) is not call:
                return False
            del self._waiting[call.unique]
            self._interrupted.pop(call.unique, None)
            return True

    def interrupt(self, unique: int) -> None:
        """The kernel's INTERRUPT for the request `unique`: end it if its caller wants to stop."""
        with self._lock:
            call = self._waiting.get(unique)
        if call is None:
            return  # answered in the meantime
        if caller_intent(call.pid) is CallerIntent.STOP and self._end(
            call, errno.EINTR, force=False
        ):
            return
        with self._lock:
            if self._waiting.get(unique) is call:
                self._interrupted.setdefault(unique, time.monotonic())
        self._attention.set()

    def watch(self) -> None:
        """End in time what is overdue, and what was interrupted and wants to stop by now.

        Runs on a thread of its own until `close`, and sleeps while nothing waits.
        """
        pause_s = POLL_INTERVAL_S
        while not self._closed:
            with self._lock:
                self._asleep = not self._waiting
                asleep = self._asleep
            self._attention.wait(None if asleep else pause_s)
            self._attention.clear()
            began_s = time.monotonic()
            self._look()
            # A look at thousands of callers takes its time: never more than a tenth of it all.
            pause_s = max(POLL_INTERVAL_S, 10 * (time.monotonic() - began_s))

    def close(self) -> None:
        """End `watch`."""
        self._closed = True
        self._attention.set()

    def _look(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            waiting = list(self._waiting.values())
            interrupted = [
                (call, self._interrupted[call.unique])
                for call in waiting
                if call.unique in self._interrupted
            ]
        slow_reads = [
            call
            for call in waiting
            if call.opcode == protocol.Opcode.READ and now_s - call.since_s > SLOW_READ_S
        ]
        overdue = [
            call
            for call in waiting
            if self.deadline_s is not None and now_s - call.since_s > self.deadline_s
        ]
        for call, interrupted_s in interrupted:
            wish = caller_intent(call.pid)
            unseen = wish is CallerIntent.UNKNOWN and now_s - interrupted_s >= UNSEEN_S
            if wish is CallerIntent.STOP or unseen:
                self._end(call, errno.EINTR, force=False)
        for call in slow_reads:
            if caller_intent(call.pid) is CallerIntent.STOP:
                self._end(call, errno.EINTR, force=False)
        for call in overdue:
            if self._end(call, errno.ETIMEDOUT, force=True):
                _log.warning(
                    "%s of inode %d took longer than %.0f s and was given up",
                    protocol.OPERATIONS.get(call.opcode, str(call.opcode)),
                    call.nodeid,
                    self.deadline_s,
                )

    def keeps_locked(self, nodeid: int) -> bool:
        """Whether the kernel has this directory locked because a call about it is waiting."""
        with self._lock:
            return any(
                nodeid in (call.nodeid, call.target) and call.opcode in _LOCKING
                for call in self._waiting.values()
            )

    def waiting(self) -> int:
        """How many requests are not answered yet."""
        with self._lock:
            return len(self._waiting)

    def abandon_all(self) -> None:
        """The connection is gone: nobody waits for any of them."""
        with self._lock:
            calls = list(self._waiting.values())
        for call in calls:
            self._end(call, errno.EIO, force=True)

    def _end(self, call: Request, number: int, *, force: bool) -> bool:
        with self._lock:
            if self._waiting.get(call.unique) is not call:
                return False
            if not force and not call.manners.allow(call.begun_s):
                return False
            del self._waiting[call.unique]
            self._interrupted.pop(call.unique, None)
            abandon = call.abandon
        try:
            if abandon is not None:
                abandon()
        except BaseException:  # noqa: BLE001 - the answer must go out whatever a ticket does
            _log.exception("giving up a request failed")
        finally:
            call.refuse(number)
        return True
