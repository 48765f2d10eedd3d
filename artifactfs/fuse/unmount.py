"""Which file systems are mounted, and which of them are ours.

Read from ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)), which answers without asking any file
system, so it never hangs behind one that does not answer. A FUSE mount's device number is
``0:<connection>``: the same number names its directory in ``/sys/fs/fuse/connections``. Where there
is no ``/proc``, `system` lists them, and every number is 0.

Ending a mount from outside: unmount, detach, abort.

Three ways, from gentle to last resort:

* `unmount` waits for nobody and fails with EBUSY while a program uses the mount; the error names
  the programs. ``lazy`` takes the name away at once, and the mount ends with its last user.
* `abort` ends the connection between kernel and driver: everyone who waits on the mount gets an
  error now. For a driver that hangs.

Who has CAP_SYS_ADMIN in its own (user and) mount namespace calls umount2(2) itself; everybody else
asks ``fusermount3`` or ``fusermount``, which is setuid. The command line calls this; a binding only
to clean up after itself. Nothing here asks the mounted file system anything, so nothing hangs with
it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from artifactfs import system
from artifactfs.errors import MountError
from artifactfs.fuse.binding import FILESYSTEM_TYPE

MOUNT_TABLE = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountTableLine:
    """One mount of any file system. They stand in mounting order: the last at a path is on top."""

    mountpoint: Path
    kind: str
    source: str
    device_minor: int


@dataclass(frozen=True, slots=True)
class MountedFilesystem:
    """A mount of ours. `connection` is its number in ``/sys/fs/fuse/connections``."""

    mountpoint: Path
    source: str
    connection: int


def table(of: Path = MOUNT_TABLE) -> list[MountTableLine]:
    """Everything that is mounted in this mount namespace, or in that of another table."""
    if not system.LINUX:
        return [
            MountTableLine(Path(place), kind, source, 0) for place, kind, source in system.mounted()
        ]
    lines = (parse_line(line) for line in of.read_bytes().splitlines())
    return [line for line in lines if line is not None]


def mounts(of: Path = MOUNT_TABLE) -> list[MountedFilesystem]:
    """The mounts of ours, in mounting order."""
    return [_ours(line) for line in table(of) if line.kind == FILESYSTEM_TYPE]


def find_mount(path: Path | str) -> MountedFilesystem | None:
    """The mount of ours whose mount point is `path`, if it is the topmost there."""
    line = mounted_at(real_location(path))
    return _ours(line) if line is not None and line.kind == FILESYSTEM_TYPE else None


def mounted_at(location: Path) -> MountTableLine | None:
    """What is mounted on exactly `location`, topmost."""
    found = None
    for line in table():
        if line.mountpoint == location:
            found = line
    return found


def real_location(path: Path | str) -> Path:
    """`path` as the mount table would spell it.

    Links are followed, but no mount point of the table is asked for anything: a mount whose driver
    hangs would not answer.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - without following links
    points = {line.mountpoint for line in table()}
    location = _followed(absolute.parent, points) / absolute.name
    return location if location in points else _followed(location, points)


def _followed(path: Path, points: set[Path]) -> Path:
    if path in points:
        return path
    return Path(os.path.realpath(path))


def parse_line(line: bytes) -> MountTableLine | None:
    """One line of mountinfo, or None if it is not one."""
    before, separator, after = line.partition(b" - ")
    left, right = before.split(b" "), after.split(b" ")
    if not separator or len(left) < 6 or len(right) < 2:
        return None
    _, _, minor = left[2].partition(b":")
    return MountTableLine(
        mountpoint=Path(unescape(left[4])),
        kind=unescape(right[0]),
        source=unescape(right[1]),
        device_minor=int(minor),
    )


def unescape(field: bytes) -> str:
    """A field's text: space, tab, newline, backslash and ``#`` are written as ``\\ooo``."""
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field))


def _ours(line: MountTableLine) -> MountedFilesystem:
    return MountedFilesystem(line.mountpoint, line.source, line.device_minor)


CONNECTIONS = Path("/sys/fs/fuse/connections")
FUSERMOUNT_TIMEOUT_S = 10.0
SEARCH_S = 2.0
NAMED_AT_MOST = 5

_CAP_SYS_ADMIN = 21
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


def can_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN (capabilities(7)) where it is.

    Where there is no such thing (macOS), everybody mounts by a helper of the system.
    """
    if not system.LINUX:
        return True
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> _CAP_SYS_ADMIN & 1)
    return False


def fusermount(*, version_2: bool = False) -> str | None:
    """The path of the setuid program that mounts for others; libfuse 2 knows only the old name."""
    names = ("fusermount",) if version_2 else ("fusermount3", "fusermount")
    return next((found for name in names if (found := shutil.which(name))), None)


def unmount(path: Path | str, *, lazy: bool = False) -> None:
    """Unmount the mount of ours at `path`.

    Raises `MountError` if there is none, if this user may not, or, without `lazy`, if it is in use.
    """
    location = real_location(path)
    if find_mount(location) is None:
        other = mounted_at(location)
        what = f"a file system of type {other.kind}" if other is not None else "nothing"
        raise MountError(
            f"no artifactfs is mounted on {location}, but {what}",
            remedy="`artifactfs status` lists the mounts",
        )
    number, words = _unmounted(location, lazy)
    if number == 0 or find_mount(location) is None:
        return
    if number == errno.EBUSY:
        raise MountError(
            f"{location} is in use{_users_in_words(location)}",
            remedy="close them, leave it with cd, or `artifactfs unmount --force`",
        )
    raise MountError(f"{location} cannot be unmounted: {words}")


def _unmounted(location: Path, lazy: bool) -> tuple[int, str]:
    """An errno, 0 if it is done, and what there is to say."""
    if not system.LINUX:
        return system.unmount(location, force=lazy)
    number = _umount2(location, lazy) if can_mount() else errno.EPERM
    if number == errno.EPERM:
        return _by_fusermount(location, lazy)
    return number, os.strerror(number)


def _umount2(location: Path, lazy: bool) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if libc.umount2(os.fsencode(location), flags) == 0:
        return 0
    return ctypes.get_errno()


def _by_fusermount(location: Path, lazy: bool) -> tuple[int, str]:
    program = fusermount()
    if program is None:
        return errno.EPERM, "this user may not, and there is no fusermount to do it"
    command = [program, "-u", *(["-z"] if lazy else []), "--", os.fspath(location)]
    try:
        done = subprocess.run(  # noqa: S603 - the path is one argument, after --
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"LC_ALL": "C"},
            timeout=FUSERMOUNT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return errno.EIO, f"{program}: {error}"
    words = done.stderr.decode(errors="replace").strip()
    if done.returncode == 0:
        return 0, ""
    return (errno.EBUSY if "busy" in words else errno.EPERM), words or f"{program} failed"


def abort(mounted: MountedFilesystem) -> None:
    """Cut the connection of `mounted`: whoever waits on it gets an error at once.

    The mount point stays until it is unmounted: detach it afterwards, not before. What is not
    mounted any more is left alone, since its number may belong to another mount by now. Raises
    `MountError` where the kernel's control files are out of reach.
    """
    if find_mount(mounted.mountpoint) != mounted:
        return
    if not system.LINUX:
        raise MountError(
            f"{mounted.mountpoint} cannot be aborted on this system",
            remedy=f"kill its driver, then umount -f {mounted.mountpoint}",
        )
    switch = CONNECTIONS / str(mounted.connection) / "abort"
    try:
        if not switch.exists() and can_mount():
            _mount_control_files()
        switch.write_text("1")
    except FileNotFoundError as error:
        raise MountError(
            f"{mounted.mountpoint} cannot be aborted: there is no {switch}",
            remedy=f"mount -t fusectl none {CONNECTIONS}",
        ) from error
    except OSError as error:
        raise MountError(
            f"{mounted.mountpoint} cannot be aborted: {switch}: {error.strerror}",
            remedy="as root, or as the user who mounted",
        ) from error


def _mount_control_files() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # What fails here shows itself when the switch is not found.
    libc.mount(b"none", os.fsencode(CONNECTIONS), b"fusectl", 0, None)


def kept_by(mounted: MountedFilesystem, search_s: float = SEARCH_S) -> list[str]:
    """Who has a copy of `mounted`, in words, once it is unmounted here; as far as this user sees.

    A mount namespace that was made meanwhile (a container's, a service's, unshare(1)'s) has copies
    of all mounts, and a bind mount is one, too. The file system lives as long as any of them, and
    so does its driver, whether the copy is used or not. One process is named for each namespace:
    one that uses the copy, or else one of those that could.
    """
    deadline = time.monotonic() + search_s
    copies: dict[bytes, Path | None] = {}
    named: dict[bytes, tuple[str, bool]] = {}
    for process in processes():
        if time.monotonic() > deadline:
            break
        for namespace in _read_link(process / "ns/mnt"):
            if namespace not in copies:
                with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
                    copies[namespace] = _copy_seen_by(process, mounted)
            place = copies.get(namespace)
            _, is_used = named.get(namespace, ("", False))
            if place is None or is_used:
                continue
            uses = any(_lies_below(held, os.fsencode(place)) for held in _held_by(process))
            if uses or namespace not in named:
                words = f"{_name_of(process)} ({process.name}) at {place}"
                named[namespace] = words + ("" if uses else ", a copy that is not in use"), uses
    return [words for words, _ in named.values()]


def _copy_seen_by(process: Path, mounted: MountedFilesystem) -> Path | None:
    """Where the mount namespace of a process has a copy of `mounted`."""
    for one in mounts(process / "mountinfo"):
        if (one.connection, one.source) == (mounted.connection, mounted.source):
            return one.mountpoint
    return None


def _users_in_words(location: Path) -> str:
    found = [(pid, name) for pid, name in users_of(location) if pid != os.getpid()]
    if not found:
        return ""
    named = [f"{name} ({pid})" for pid, name in found[:NAMED_AT_MOST]]
    more = len(found) - len(named)
    return " by " + ", ".join(named) + (f" and {more} more" if more > 0 else "")


def users_of(location: Path, search_s: float = SEARCH_S) -> list[tuple[int, str]]:
    """Processes that hold something below `location`: (pid, name), as far as this user sees.

    Those of other mount namespaces are named only if none of this one holds anything: they may use
    a copy of the mount that does not keep it busy here, or, where the copy is unmounted together
    with it, one that does. Namespaces that have no copy of the mount are left out.

    The search in ``/proc`` ends after `search_s` seconds with what it has found by then.
    """
    deadline = time.monotonic() + search_s
    below, mounted = os.fsencode(location), find_mount(location)
    namespace = list(_read_link(Path("/proc/self/ns/mnt")))
    here, elsewhere = [], []
    for process in processes():
        if time.monotonic() > deadline:
            break
        if not any(_lies_below(held, below) for held in _held_by(process)):
            continue
        user = int(process.name), _name_of(process)
        if list(_read_link(process / "ns/mnt")) == namespace:
            here.append(user)
            continue
        with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
            if mounted is None or _copy_seen_by(process, mounted) is not None:
                elsewhere.append(user)
    return here or elsewhere


def processes() -> list[Path]:
    """The folders in ``/proc`` of all processes, by number; none where there is no such thing."""
    if not system.LINUX:
        return []
    return sorted(
        (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()),
        key=lambda entry: int(entry.name),
    )


def _held_by(process: Path) -> Iterator[bytes]:
    """What a process holds, as its links in /proc spell it; none of them is followed."""
    for name in ("cwd", "root", "exe"):
        yield from _read_link(process / name)
    for folder in ("fd", "map_files"):
        try:
            names = os.listdir(process / folder)  # noqa: PTH208 - names are enough
        except OSError:
            continue
        for name in names:
            yield from _read_link(process / folder / name)


def _read_link(link: Path) -> Iterator[bytes]:
    try:
        yield os.readlink(os.fsencode(link))  # noqa: PTH115 - as bytes
    except OSError:
        return


def _lies_below(held: bytes, location: bytes) -> bool:
    return held == location or held.startswith(location.rstrip(b"/") + b"/")


def _name_of(process: Path) -> str:
    try:
        name = (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
    return "".join(letter for letter in name if letter.isprintable()) or "?"
