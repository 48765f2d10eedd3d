"""Whether a caller wants its request to be given up, as far as its signals tell.

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

import signal
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Final

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


class Wish(Enum):
    """What a caller wants."""

    STOP = "a signal is pending that ends it"
    GO_ON = "none is"
    UNKNOWN = "it cannot be seen"


def wish_of(pid: int, proc: Path = _PROC) -> Wish:
    """What the thread `pid` wants. Does not block."""
    if pid == 0:
        return Wish.UNKNOWN
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
        return Wish.UNKNOWN
    ends = pending & (_KILL | caught & _ASKS_TO_END | ~caught & ~_ENDS_NOTHING)
    return Wish.STOP if ends else Wish.GO_ON
