"""Whether the process that closes a file is being killed.

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
"""

from __future__ import annotations

import os
from pathlib import Path

PF_EXITING = 0x4
PF_SIGNALED = 0x400
SIGNAL_BITS = 0x7F
_FLAGS_FIELD = 6  # after the command's name, which may hold anything and ends at the last ')'
_EXIT_CODE_FIELD = 49


def was_killed(pid: int) -> bool:
    """Whether a signal is ending process (or thread) `pid` right now."""
    if pid <= 0:
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


def _may_see(owner: int) -> bool:
    return os.geteuid() in (0, owner)
