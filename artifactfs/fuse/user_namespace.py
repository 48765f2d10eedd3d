"""A mount namespace of one's own, so that a mount needs no privilege and leaves nothing behind.

What is mounted in a mount namespace is seen by the processes in it and by nobody else, and is gone
with the last of them, however they end. The way in (unshare(2), user_namespaces(7)):

* Who has CAP_SYS_ADMIN takes a new mount namespace and stays who he is.
* Everybody else takes a user namespace with it, in which this process has every capability, and
  therefore may mount FUSE there. The user's own uid and gid are mapped to themselves and nothing
  else is: files that are made anywhere belong to the user, and the first program that is executed
  has lost the capabilities again. ``sudo`` and the like do not work inside: root is not there.

Mounts go one way: what the machine mounts later (an automounted home) appears inside, what is
mounted inside never appears outside.

Machines forbid it in several ways, each with its own errno, and one (Ubuntu's AppArmor) lets the
first step through and fails the second. Whichever it is, `OwnNamespace` says which and what else
works. It must be the first thing a process does: threads of a process cannot part.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from artifactfs import system
from artifactfs.errors import MountError
from artifactfs.fuse.unmount import can_mount, fusermount

_CLONE_NEWNS: Final = 0x0002_0000
_CLONE_NEWUSER: Final = 0x1000_0000
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 0x80000
_PROC_SYS: Final = Path("/proc/sys")
_FORBIDDING: Final = (
    ("kernel/unprivileged_userns_clone", "0"),
    ("user/max_user_namespaces", "0"),
    ("user/max_mnt_namespaces", "0"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1"),
)


def enter_own_namespace() -> bool:
    """Have this process, and what it starts from now on, in a mount namespace of its own.

    Whether it is in a user namespace of its own, too. Raises `MountError` where that is forbidden.
    """
    if not system.LINUX:
        raise MountError("only Linux has mount namespaces", remedy=_else_works())
    libc = ctypes.CDLL(None, use_errno=True)
    as_user = not can_mount()
    user, group = os.geteuid(), os.getegid()
    _call(libc.unshare, _CLONE_NEWNS | (_CLONE_NEWUSER if as_user else 0))
    if as_user:
        _map(user, group)
    _call(libc.mount, b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None)
    return as_user


def _call(function: ctypes._NamedFuncPointer, *arguments: object) -> None:
    if function(*arguments) != 0:
        raise _forbidden(ctypes.get_errno())


def _map(user: int, group: int) -> None:
    """Map one user and one group to themselves; the latter is only allowed without setgroups(2)."""
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        raise _forbidden(error.errno or errno.EPERM) from error


def _forbidden(number: int) -> MountError:
    return MountError(
        f"namespaces of one's own are forbidden here ({_reason(number)})", remedy=_else_works()
    )


def _reason(number: int) -> str:
    """Which setting forbids it, if one does; else what the kernel said."""
    for name, value in _FORBIDDING:
        try:
            found = (_PROC_SYS / name).read_text().strip()
        except OSError:
            continue
        if found == value:
            return f"{name.replace('/', '.')} is {value}"
    return os.strerror(number)


def _else_works() -> str:
    if fusermount() is not None:
        return "`artifactfs mount DIR` works, or artifact:// by fsspec and `artifactfs get`"
    return "`artifactfs get`, `artifactfs put` and artifact:// by fsspec work without a mount"
