"""Whether the process that wrote last to a file was killed.

The kernel flushes the descriptors of a dying process too, and to the driver that looks like a
``close``. Linux says in ``/proc/<pid>/stat``, field 9, what a process is about: `PF_EXITING` and
`PF_SIGNALED` are both set while a signal ends it, only the first at an ordinary exit, neither at an
ordinary ``close`` (``include/linux/sched.h``). A process that is not visible (0, another namespace)
counts as one that closes.

One ordinary end looks the same: when a thread calls ``exit``, the kernel ends the others as if by a
signal, and the last of them closes the files. But they all die of the code that was given to
``exit``, which is the last field, and its low seven bits are the number of the signal: 0 means that
there was none. It is shown to those who may trace the process only (root, and its own user while it
has given up its memory, as here); everyone else reads 0, so that 0 proves something only for them.

What counts is the process that wrote last (`LastWriter`), not the one that closes last.
``timeout``, a shell or the parent of a worker holds the same open file, and ends in an ordinary
way. A process is identified by its number and its start time, because numbers are used again.
The process that made the file, or emptied it by opening it, counts as one that wrote: a program
that is killed while its first bytes are still in its own memory leaves an empty file, which is
partial too. Where no process is known to have written (the file was only changed through a mapping,
or cut by its path), the process that closes is judged instead, and one that closes properly makes
good what a killed one has left.

A program may map a file, close its descriptor and go on writing to the mapping. If it is killed
then, no FLUSH comes; but the kernel writes its changed pages back while the process ends, and that
is when it is judged (`LastWriter.wrote_back`).

Whether a caller wants its request to be given up, as far as its signals tell.

The kernel interrupts a request (FUSE_INTERRUPT) for *any* signal that makes its caller look up,
stop signals, a freezer and a debugger included, and it does so once. What is then answered with
EINTR fails in the caller's hands: ``open`` of a regular file with EINTR, a page fault with SIGBUS.
On a local disk none of this fails, and few programs expect it. But the kernel waits for our answer
in any case once it has sent us the request, also for a caller that is being killed.

So an INTERRUPT only means "look at the caller". ``/proc/<tid>/status`` tells which signals are
pending, and a request ends with EINTR only where one of them ends the process:

* SIGKILL. That covers most: a fatal signal without a handler becomes a SIGKILL pending in each
  thread of the process, and so does the end of the process by another thread;
* a signal without a handler whose default action is to end the process (SIGQUIT, SIGSEGV ...: those
  that write a core are not turned into SIGKILL before they are taken);
* a caught SIGINT, SIGTERM, SIGHUP or SIGQUIT: by these a user, a terminal or a service manager asks
  a program to end, and programs that handle them (any Python) expect to be able to while the
  network hangs. They see EINTR.

All else goes on, and the caller is looked at again while its request waits: stop signals (Ctrl-Z,
SIGSTOP, a batch system's suspend), which take effect when the answer is there, SIGCONT, and every
other signal that has a handler (timers, SIGCHLD, SIGWINCH, SIGUSR1, Go's SIGURG). Nothing pending
at all counts the same: a debugger, a freezer, or a signal that another thread has taken.

Where the caller cannot be seen (pid 0: it is in another pid namespace) nothing of that is known.
Its interrupted request goes on for `UNSEEN_S` and is given up then: most answers are there by that
time, and a process that cannot be killed is worse than one that sees EINTR.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

PF_EXITING = 0x4
PF_SIGNALED = 0x400
SIGNAL_BITS = 0x7F
_FLAGS_FIELD = 6  # after the command's name, which may hold anything and ends at the last ')'
_EXIT_CODE_FIELD = 49
_STARTED_FIELD = 19


def was_killed(pid: int) -> bool:
    """Whether a signal is ending process (or thread) `pid` right now. Does not block."""
    if pid <= 0 or not _is_exiting(pid):
        return False
    path = Path(f"/proc/{pid}/stat")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        owner = path.stat().st_uid
        fields = text.rpartition(")")[2].split()
        flags, exit_code = int(fields[_FLAGS_FIELD]), int(fields[_EXIT_CODE_FIELD])
    except (OSError, ValueError, IndexError):
        return False
    if not (flags & PF_EXITING and flags & PF_SIGNALED):
        return False
    return bool(exit_code & SIGNAL_BITS) or (exit_code == 0 and not _may_see(owner))


def _is_exiting(pid: int) -> bool:
    """Whether a thread has given up its memory, as it does before it closes its files.

    This has to be known before ``/proc/<pid>/stat`` is read. A program that is being started closes
    descriptors too (those with O_CLOEXEC), and meanwhile holds the kernel's lock that readers of
    ``stat`` wait for: it would wait for the answer to its FLUSH, and the driver for it. Readers of
    ``status`` do not take that lock.
    """
    try:
        return "\nVmSize:" not in _status_of(pid)
    except OSError:
        return False


def _status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")


def group_of(thread: int) -> int:
    """The process (thread group) that a thread belongs to; 0 if it is not visible or gone."""
    if thread <= 0:
        return 0
    try:
        lines = _status_of(thread).splitlines()
        return next(int(line[5:]) for line in lines if line.startswith("Tgid:"))
    except (OSError, ValueError, StopIteration):
        return 0


class Process(NamedTuple):
    """A process, all its threads together. `started` is in clock ticks since the machine began."""

    pid: int
    started: int


NOT_VISIBLE = Process(0, 0)


def process_of(thread: int) -> Process:
    """The process that a thread belongs to; `NOT_VISIBLE` for 0, or if it is gone.

    Blocks if the process is just being started (`_is_exiting`). A thread that waits for the answer
    to its write is not.
    """
    pid = group_of(thread)
    if not pid:
        return NOT_VISIBLE
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return Process(pid, int(text.rpartition(")")[2].split()[_STARTED_FIELD]))
    except (OSError, ValueError, IndexError):
        return NOT_VISIBLE


class LastWriter:
    """Which process wrote last to one open file, and whether it was killed.

    A process that dies closes its descriptors, and is judged then. Not thread-safe: the file's own
    lock guards it.
    """

    def __init__(self, was_killed: Callable[[int], bool]) -> None:
        self._was_killed = was_killed
        self._threads: dict[int, Process] = {}
        self._last: Process | None = None
        self._killed: set[Process] = set()
        self._openers: set[Process] = set()
        self._changed = False
        self._closed_by_killed = False

    @property
    def was_killed(self) -> bool:
        """Whether the process that wrote last is known to have been killed."""
        return self._closed_by_killed if self._last is None else self._last in self._killed

    def wrote(self, thread: int) -> None:
        """Note whose change comes next. /proc is read once for each thread."""
        process = self._threads.get(thread)
        if process is None:
            process = self._threads[thread] = process_of(thread)
        self._last = process

    def opened(self, thread: int) -> None:
        """Note who has the file open for writing, and may change it through a mapping alone."""
        self._openers.add(process_of(thread))

    def wrote_back(self) -> None:
        """Judge who may have changed the pages of a mapping that are written back now.

        That is the process that wrote last; where none has, those that opened the file.
        """
        last = self._last
        if last is None:
            if any(self._is_being_killed(one) for one in self._openers):
                self._closed_by_killed = True
        elif last not in self._killed and self._is_being_killed(last):
            self._killed.add(last)

    def _is_being_killed(self, process: Process) -> bool:
        return self._was_killed(process.pid) and process_of(process.pid) == process

    def changed(self) -> None:
        """Note a change, also one of pages that are written back, which has no caller."""
        self._changed = True

    def forget(self) -> None:
        """Note that the file was cut by its path, or as it was opened."""
        self._last = None

    def closes(self, thread: int) -> bool:
        """Judge the process that closes a descriptor now. Returns `was_killed`."""
        killed = self._was_killed(thread)
        group = group_of(thread)
        self._threads = {
            number: one
            for number, one in self._threads.items()
            if one.pid != group and number != thread
        }
        process = process_of(thread) if killed else NOT_VISIBLE
        if process != NOT_VISIBLE:
            self._killed.add(process)
        if not killed:
            self._closed_by_killed = False
        elif self._changed:
            self._closed_by_killed = True
        self._changed = False
        return self.was_killed


def _may_see(owner: int) -> bool:
    return os.geteuid() in (0, owner)


UNSEEN_S: Final = 1.0

_PROC: Final = Path("/proc")


def _mask(numbers: Iterable[int]) -> int:
    return sum(1 << (number - 1) for number in numbers)


_KILL: Final = _mask((signal.SIGKILL,))
_ASKS_TO_END: Final = _mask((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))
# What signal(7) has as default action "Stop", "Cont" or "Ign".
_ENDS_NOTHING: Final = _mask(
    (
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGCONT,
        signal.SIGCHLD,
        signal.SIGURG,
        signal.SIGWINCH,
    )
)


class CallerIntent(Enum):
    """What a caller wants."""

    STOP = "a signal is pending that ends it"
    GO_ON = "none is"
    UNKNOWN = "it cannot be seen"


def caller_intent(pid: int, proc: Path = _PROC) -> CallerIntent:
    """What the thread `pid` wants. Does not block."""
    if pid == 0:
        return CallerIntent.UNKNOWN
    try:
        text = (proc / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
        masks = {
            name: int(value, 16)
            for name, _, value in (line.partition(":") for line in text.splitlines())
            if name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
        }
        pending = (masks["SigPnd"] | masks["ShdPnd"]) & ~masks["SigBlk"] & ~masks["SigIgn"]
        caught = masks["SigCgt"]
    except (OSError, ValueError, KeyError):
        return CallerIntent.UNKNOWN
    ends = pending & (_KILL | caught & _ASKS_TO_END | ~caught & ~_ENDS_NOTHING)
    return CallerIntent.STOP if ends else CallerIntent.GO_ON
