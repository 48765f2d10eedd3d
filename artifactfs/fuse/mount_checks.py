"""Before a mount: is there a FUSE, and is this a directory to mount on?

Each check raises a `MountError` of one line that says what is wrong and what to do, before anything
is mounted: libfuse's own words for these are ``fuse: failed to exec fusermount`` and worse.

A driver that crashed leaves its mount point behind: every access answers ENOTCONN, "Transport
endpoint is not connected", until someone unmounts it. `check_mountpoint` does, for mounts of ours.
A driver that was killed and cannot end (``mount_checks``) leaves one, too, that answers nothing at
all. Whether a mount point is in one of these states is asked by a child process (`is_stale`): a
driver that hangs instead would hold whoever asks, and a thread of ours that is held can keep the
process from ending.

This module is also the front door: it passes on what `mount_table` and `unmounting` offer.

Drivers that were killed and cannot end.

When a driver is killed, the kernel closes its device with its last thread, and with that every
request is answered by an error. One thread may be in the way: to drop a name (``native.notify``)
the kernel waits, uninterruptibly, for the lock of the name's directory; that is held by a program
which waits for an answer; and that would have come from the driver. Such a driver is a zombie in
whose process a thread lives on. It holds its locks (of a slot of the spool, for instance), its
mount answers nobody, and no signal changes that. Only aborting the connection does.

A driver in that state is recognised by its process, in which the first thread has died and another
one has the device of the connection open still. Linux only; nothing else hangs like that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from pathlib import Path

from artifactfs import system
from artifactfs.errors import MountError
from artifactfs.fuse.unmount import (
    MountedFilesystem,
    abort,
    can_mount,
    find_mount,
    fusermount,
    kept_by,
    mounted_at,
    mounts,
    processes,
    real_location,
    unmount,
)

__all__ = [
    "MountedFilesystem",
    "abort",
    "answers",
    "can_mount",
    "check_fuse",
    "check_mountpoint",
    "clean_stale",
    "descriptor_of",
    "find_mount",
    "fusermount",
    "is_stale",
    "kept_by",
    "load_library",
    "mounts",
    "others_are_allowed",
    "unmount",
]

FUSE_DEVICE = Path("/dev/fuse")
AUTOMOUNT = "autofs"
FUSE_CONF = Path("/etc/fuse.conf")
_DESCRIPTOR = re.compile(r"/dev/fd/([0-9]+)")
ASK_TIMEOUT_S = 5.0
END_WITHIN_S = 5.0

_ASK = """\
import os, sys
try:
    os.statvfs(sys.argv[1])  # stat may be answered from the kernel's memory
except OSError as error:
    sys.exit(min(error.errno or 1, 255))
"""

_log = logging.getLogger(__name__)


def is_stale(path: Path | str, timeout_s: float = ASK_TIMEOUT_S) -> bool:
    """Whether `path` is a mount point of ours whose driver is gone. Never hangs.

    A driver that is there and does not answer within `timeout_s` is not stale.
    """
    mounted = find_mount(path)
    if mounted is None:
        return False
    said = _errno_of_statvfs(mounted.mountpoint, timeout_s)
    return said in system.DRIVER_GONE or (said is None and is_undead(mounted))


def answers(path: Path | str, timeout_s: float = ASK_TIMEOUT_S) -> bool:
    """Whether the mount of ours at `path` answers in time. Never hangs."""
    mounted = find_mount(path)
    return mounted is not None and _errno_of_statvfs(mounted.mountpoint, timeout_s) == 0


def _errno_of_statvfs(path: Path, timeout_s: float) -> int | None:
    """What statvfs(3) of `path` answers: 0, an errno, or None if nothing in time."""
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-I", "-S", "-c", _ASK, os.fspath(path)], {}
    )
    return system.exit_code_of(pid, timeout_s)


def check_mountpoint(path: Path | str) -> Path:
    """The absolute, link-free location of `path`, which can be mounted on.

    It exists, is an empty directory, and nothing is mounted on it but an automounter's trap, which
    waits for just this mount: to look inside would wait for it as well. What a crashed driver of
    ours left there is unmounted first. A descriptor (`descriptor_of`) is checked when it is taken.
    Raises `MountError` otherwise.
    """
    if descriptor_of(path) is not None:
        return Path(path)
    location = real_location(path)
    _check_not_mounted(location)
    for mounted in mounts():
        if mounted.mountpoint in location.parents:
            raise MountError(
                f"{location} lies inside the mount {mounted.mountpoint}",
                remedy="choose a directory outside of it",
            )
    if mounted_at(location) is not None:  # the trap
        return location
    try:
        with os.scandir(location) as entries:
            first = next(entries, None)
    except FileNotFoundError as error:
        raise MountError(f"{location} does not exist", remedy=f"mkdir -p {location}") from error
    except NotADirectoryError as error:
        raise MountError(
            f"{location} is not a directory", remedy="choose an empty directory"
        ) from error
    except PermissionError as error:
        raise MountError(
            f"{location} may not be entered by this user",
            remedy="choose a directory of your own",
        ) from error
    except OSError as error:
        raise MountError(f"{location} cannot be read: {error.strerror}") from error
    if first is not None:
        raise MountError(
            f"{location} is not empty: it holds {first.name}", remedy="choose an empty directory"
        )
    if not can_mount() and not os.access(location, os.W_OK):
        raise MountError(
            f"{location} is not writable for this user, and fusermount asks for that",
            remedy="choose a directory of your own",
        )
    return location


def descriptor_of(path: Path | str) -> int | None:
    """Return N of a mount point ``/dev/fd/N``, which another process has mounted; else None."""
    found = _DESCRIPTOR.fullmatch(os.fspath(path))
    return int(found[1]) if found else None


def clean_stale(path: Path | str) -> bool:
    """Unmount what a driver of ours that is gone left at `path`; False if there is no such thing.

    Takes as long as asking it does. Raises `MountError` if this user may not.
    """
    cleaned = False
    while is_stale(path):  # crashed twice: two mounts, one over the other
        _log.warning("%s was left behind by a driver that is gone: unmounting it", path)
        _let_it_die(path)
        unmount(path, lazy=True)
        cleaned = True
    return cleaned


def _let_it_die(path: Path | str) -> None:
    """Have a driver that was killed and cannot end come to its end, and with it what it locks."""
    mounted = find_mount(path)
    if mounted is None or not is_undead(mounted):
        return
    abort(mounted)
    deadline_s = time.monotonic() + END_WITHIN_S
    while is_undead(mounted) and time.monotonic() < deadline_s:
        time.sleep(0.01)


def _check_not_mounted(location: Path) -> None:
    clean_stale(location)
    mounted = find_mount(location)
    if mounted is not None:
        raise MountError(
            f"{location} is mounted already ({mounted.source})",
            remedy=f"artifactfs unmount {location}",
        )
    other = mounted_at(location)
    if other is not None and other.kind != AUTOMOUNT:
        raise MountError(
            f"another file system ({other.kind}) is mounted on {location}",
            remedy="choose a directory of its own, one level below for instance",
        )


def check_fuse(binding: str, *, allow_other: bool = False) -> None:
    """Raise `MountError` if this machine or this user cannot mount by `binding`.

    `binding` is ``native`` or ``fusepy``.
    """
    if not system.LINUX:
        if binding == "native":
            raise MountError(
                "the native binding speaks with Linux only", remedy="mount with --fuse fusepy"
            )
        load_library()
        return
    _check_device()
    if binding == "fusepy":
        load_library()
    if can_mount():
        return
    program = fusermount(version_2=binding == "fusepy")
    if program is None:
        raise MountError(
            "this user may not mount, and there is no fusermount to do it",
            remedy="apt-get install fuse3",
        )
    if _is_held_down():
        raise MountError(
            f"this process may not gain privileges, so {program} cannot mount for it",
            remedy="systemd: NoNewPrivileges=no; in a container: --cap-add SYS_ADMIN",
        )
    if allow_other and not others_are_allowed():
        raise MountError(
            f"{FUSE_CONF} does not let users open their mounts to others",
            remedy=f"add the line user_allow_other to {FUSE_CONF}, or mount without --allow-other",
        )


def _check_device() -> None:
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError as error:
        raise MountError(
            f"there is no {FUSE_DEVICE}",
            remedy="modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN",
        ) from error
    except PermissionError as error:
        raise MountError(
            f"{FUSE_DEVICE} is not open to this user",
            remedy=f"chmod 666 {FUSE_DEVICE}; in a container: --device /dev/fuse",
        ) from error
    except OSError as error:
        raise MountError(
            f"{FUSE_DEVICE} cannot be opened: {error.strerror}", remedy="modprobe fuse"
        ) from error


def load_library() -> None:
    """Load fusepy, and libfuse by it. Raises `MountError` where one of them is missing."""
    try:
        import fuse  # noqa: F401 - it loads libfuse at import
    except ImportError as error:
        raise MountError(
            f"fusepy cannot be imported: {error}", remedy="pip install fusepy"
        ) from error
    except (OSError, AttributeError) as error:
        raise MountError(
            f"fusepy finds no libfuse 2: {error}",
            remedy=system.LIBFUSE,
        ) from error


def _is_held_down() -> bool:
    """Whether setuid programs have no effect (prctl(2), PR_SET_NO_NEW_PRIVS)."""
    return "\nNoNewPrivs:\t1\n" in Path("/proc/self/status").read_text()


def others_are_allowed() -> bool:
    """Whether this machine lets users open their mounts to others."""
    try:
        lines = FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


_DEVICE = "/dev/fuse"
_CONNECTION = "fuse_connection:"


def is_undead(mounted: MountedFilesystem) -> bool:
    """Whether the driver of `mounted` was killed and hangs in the kernel, as far as is seen."""
    for process in processes():
        if not system.is_running(int(process.name)):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if any(_serves(task, mounted) for task in (process / "task").iterdir()):
                    return True
    return False


def _serves(task: Path, mounted: MountedFilesystem) -> bool:
    """Whether this thread has the device open; which connection's, newer kernels tell."""
    with contextlib.suppress(OSError):
        for descriptor in (task / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) == _DEVICE:
                    said = (task / "fdinfo" / descriptor.name).read_text()
                    if _CONNECTION not in said or mounted.connection in _connections(said):
                        return True
    return False


def _connections(said: str) -> list[int]:
    lines = (line for line in said.splitlines() if line.startswith(_CONNECTION))
    return [int(line.removeprefix(_CONNECTION)) for line in lines]
