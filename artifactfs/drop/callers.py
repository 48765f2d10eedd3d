"""Whether the process that closes a file is being killed.

The kernel flushes the descriptors of a dying process too, and to the driver that looks like a
``close``. Linux says in ``/proc/<pid>/stat``, field 9, what a process is about: `PF_EXITING` and
`PF_SIGNALED` are both set while a signal ends it, only the first at an ordinary exit, neither at an
ordinary ``close`` (``include/linux/sched.h``). A process that is not visible (0, another namespace)
counts as one that closes.
"""

from __future__ import annotations

from pathlib import Path

PF_EXITING = 0x4
PF_SIGNALED = 0x400
_FLAGS_FIELD = 6  # after the command's name, which may hold anything and ends at the last ')'


def was_killed(pid: int) -> bool:
    """Whether a signal is ending process (or thread) `pid` right now."""
    if pid <= 0:
        return False
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        flags = int(text.rpartition(")")[2].split()[_FLAGS_FIELD])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & PF_EXITING and flags & PF_SIGNALED)
