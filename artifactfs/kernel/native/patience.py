"""Whether a caller wants its request to be given up, as far as its signals tell.

The kernel interrupts a request for *any* signal that its caller does not block or ignore, and what
is answered with EINTR fails in the caller's hands: ``open`` of a regular file with EINTR, a page
fault with SIGBUS. For Ctrl-C and for a signal that ends the process that is just right. For a
profiler's timer (SIGPROF), a child that exits, a resized terminal, Go's preemption (SIGURG) it
would break programs that run well on a local disk.

So ``/proc/<pid>/status`` is asked: if everything that is pending has a handler and is one of the
signals that say nothing about stopping, the request goes on. Nothing pending at all counts the
same: a debugger that attaches, or a signal that another thread has taken. Where the caller cannot
be seen (pid 0: another pid namespace; or it is gone) its wish is unknown, and whoever asks decides:
an interrupted call is given up then, because a process that cannot be killed is worse than one that
sees EINTR.
"""

from __future__ import annotations

import signal
from enum import Enum
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_HARMLESS: Final = sum(
    1 << (number - 1)
    for number in (
        signal.SIGALRM,
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGIO,
        signal.SIGPROF,
        signal.SIGURG,
        signal.SIGVTALRM,
        signal.SIGWINCH,
    )
)


class Wish(Enum):
    """What a caller wants."""

    STOP = "a signal is pending that means it"
    GO_ON = "none is"
    UNKNOWN = "it cannot be seen"


def wish_of(pid: int, proc: Path = _PROC) -> Wish:
    """What the thread `pid` wants. At once."""
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
        handled = masks["SigCgt"]
    except (OSError, ValueError, KeyError):
        return Wish.UNKNOWN
    return Wish.STOP if pending & ~(handled & _HARMLESS) else Wish.GO_ON
