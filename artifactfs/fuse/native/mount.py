"""Getting a mounted ``/dev/fuse``: three ways, and nothing half-mounted when they fail.

* **mount(2)**, where this process has CAP_SYS_ADMIN in its user namespace: root, and "root" inside
  ``unshare -Urm`` or a rootless container. Needs no program and no library.
* **fusermount3** (or ``fusermount``), setuid, for everybody else. It mounts and hands the
  descriptor over a socket whose number it finds in ``_FUSE_COMMFD``.
* **/dev/fd/N** as the mount point: a descriptor that someone privileged has mounted and passed on.
  The flags of such a mount (``ro``, ``noexec``) are those of the process that mounted it.

``default_permissions`` (the kernel checks modes) only goes with ``allow_other``: where nobody but
the owner gets in, he shall see EROFS for what is read-only, not EACCES, and may set attributes that
are commands on nodes without a write bit.

`MountedDevice` is the result; who has it must `unmount_device` it.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from artifactfs.errors import MountError
from artifactfs.fuse.binding import (
    FILESYSTEM_TYPE,
    SUBTYPE,
    MountOptions,
)
from artifactfs.fuse.mount_checks import (
    FUSE_DEVICE,
    check_fuse,
    descriptor_of,
)
from artifactfs.fuse.unmount import (
    can_mount,
    find_mount,
    fusermount,
    unmount,
)

FUSERMOUNT_TIMEOUT_S: Final = 20.0

_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_NOEXEC: Final = 8
_MNT_DETACH: Final = 2
_FUSE_NUMBER: Final = os.makedev(10, 229)
_ALL_USERS: Final = (1 << 32) - 1
_STACKED: Final = frozenset({"overlay", "aufs", "ecryptfs"})


@dataclass(frozen=True, slots=True)
class MountedDevice:
    """A mounted descriptor. `mountpoint` is None for one that was handed in: it is not ours."""

    fd: int
    mountpoint: Path | None
    way: str
    connection: int | None


def mount_device(mountpoint: Path, options: MountOptions) -> MountedDevice:
    """Mount, or take what is mounted. Raises `MountError` with the remedy; then nothing is left."""
    handed_in = descriptor_of(mountpoint)
    if handed_in is not None:
        return MountedDevice(_take(handed_in), None, "descriptor", None)
    with suppress(OSError):  # without /proc nothing can be known beforehand
        check_fuse("native", allow_other=options.allow_other)
    if may_mount():
        fd, number = _mount(mountpoint, options)
        if number == 0:
            return _mounted_device(fd, mountpoint, "mount(2)")
        if number != errno.EPERM or fusermount() is None:
            raise _refused(mountpoint, number)
    return _mounted_device(_by_fusermount(mountpoint, options), mountpoint, "fusermount")


def _mounted_device(fd: int, mountpoint: Path, way: str) -> MountedDevice:
    mounted = None
    with suppress(OSError):
        mounted = find_mount(mountpoint)
    return MountedDevice(fd, mountpoint, way, mounted.connection if mounted else None)


def is_mounted(attached: MountedDevice) -> bool:
    """Return whether the device is still mounted; True where /proc cannot tell."""
    if attached.mountpoint is None:
        return False
    try:
        mounted = find_mount(attached.mountpoint)
    except OSError:
        return True
    return mounted is not None and mounted.connection == attached.connection


def unmount_device(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount. Raises `MountError`: in use, without `lazy`."""
    try:
        unmount(mountpoint, lazy=lazy)
    except OSError as error:  # no /proc, so no mount table
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(mountpoint), _MNT_DETACH if lazy else 0) != 0:
            number = ctypes.get_errno()
            raise MountError(f"{mountpoint} cannot be unmounted: {os.strerror(number)}") from error


def may_mount() -> bool:
    """Whether mount(2) is worth a try."""
    try:
        return can_mount()
    except OSError:  # no /proc
        return os.geteuid() == 0


def is_privileged() -> bool:
    """Whether this process has CAP_SYS_ADMIN over the whole machine, not just in a user namespace
    of its own."""
    try:
        everybody = Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(_ALL_USERS)]
    except OSError:  # no /proc, or a kernel without user namespaces
        everybody = True
    return everybody and may_mount()


def _mount(mountpoint: Path, options: MountOptions) -> tuple[int, int]:
    """A mounted descriptor and 0, or -1 and the errno."""
    try:
        fd = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(mountpoint, error.errno or errno.EIO) from error
    try:
        data = f"fd={fd},rootmode={stat.S_IFDIR:o},user_id={os.getuid()},group_id={os.getgid()}"
        if options.allow_other:
            data += ",allow_other,default_permissions"
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mount(
            os.fsencode(_one_line(options.source)),
            os.fsencode(mountpoint),
            FILESYSTEM_TYPE.encode(),
            ctypes.c_ulong(_mount_flags(options)),
            data.encode(),
        )
    except BaseException:
        os.close(fd)
        raise
    if not failed:
        return fd, 0
    number = ctypes.get_errno()
    os.close(fd)
    return -1, number


def _mount_flags(options: MountOptions) -> int:
    flags = _MS_NOSUID | _MS_NODEV
    if options.read_only:
        flags |= _MS_RDONLY
    if options.noexec:
        flags |= _MS_NOEXEC
    return flags


def _refused(mountpoint: Path, number: int) -> MountError:
    remedies = {
        errno.EPERM: "in a container: --cap-add SYS_ADMIN --device /dev/fuse, "
        "and no AppArmor or seccomp profile that forbids mount",
        errno.ENODEV: "modprobe fuse",
        errno.EINVAL: "in a user namespace: it must also own its mount namespace (unshare -Urm)",
        errno.ENOENT: f"mkdir -p {mountpoint}",
        errno.ENOTDIR: "choose an empty directory",
    }
    return MountError(
        f"{mountpoint} cannot be mounted: {os.strerror(number)}", remedy=remedies.get(number)
    )


def _by_fusermount(mountpoint: Path, options: MountOptions) -> int:
    """A mounted descriptor. Raises `MountError` in fusermount's own words."""
    program = fusermount()
    if program is None:
        raise MountError(
            "this user may not mount, and there is no fusermount to do it",
            remedy="apt-get install fuse3",
        )
    words = [f"fsname={_escaped(options.source)}", f"subtype={SUBTYPE}", "nosuid", "nodev"]
    if options.allow_other:
        words += ["allow_other", "default_permissions"]
    if options.read_only:
        words.append("ro")
    if options.noexec:
        words.append("noexec")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        child = subprocess.Popen(  # noqa: S603 - the path is one argument, after --
            [program, "-o", ",".join(words), "--", os.fspath(mountpoint)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env={"LC_ALL": "C", "_FUSE_COMMFD": str(theirs.fileno())},
        )
        theirs.close()
        ours.settimeout(FUSERMOUNT_TIMEOUT_S)
        fd = _received(ours)
        try:
            _, said = child.communicate(timeout=FUSERMOUNT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            _, said = child.communicate()
    if fd is not None and child.returncode == 0:
        return fd
    if fd is not None:
        os.close(fd)
    text = " ".join(said.decode(errors="replace").split()) or f"{program} failed"
    remedy = None
    if "user_allow_other" in text:
        remedy = "add user_allow_other to /etc/fuse.conf, or mount without --allow-other"
    elif "not permitted" in text:
        remedy = f"{program} must be setuid root (chmod u+s); in a container: --cap-add SYS_ADMIN"
    raise MountError(f"{mountpoint} cannot be mounted: {text}", remedy=remedy)


def _received(connection: socket.socket) -> int | None:
    """The descriptor that comes over `connection`; None if it is closed without one."""
    room = socket.CMSG_SPACE(array.array("i").itemsize)
    try:
        _, messages, _, _ = connection.recvmsg(1, room)
    except OSError:
        return None
    for level, kind, data in messages:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(data[: numbers.itemsize])
            os.set_inheritable(numbers[0], False)
            return numbers[0]
    return None


def _take(fd: int) -> int:
    """The handed-in descriptor, once it is known to be one of /dev/fuse."""
    try:
        found = os.fstat(fd)
    except OSError as error:
        raise MountError(
            f"there is no descriptor {fd}: {error.strerror}",
            remedy="whoever starts artifactfs must pass it on (pass_fds, not close-on-exec)",
        ) from error
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _FUSE_NUMBER:
        raise MountError(
            f"descriptor {fd} is not one of {FUSE_DEVICE}",
            remedy=f"open {FUSE_DEVICE}, mount it with fd=N, and pass the same descriptor on",
        )
    os.set_inheritable(fd, False)
    return fd


def raise_readahead(connection: int, kilobytes: int) -> int | None:
    """Have the kernel read ahead further in this mount; what it is then, in KiB, if known.

    Only root may; INIT cannot raise it above the kernel's default of 128 KiB.
    """
    setting = Path(f"/sys/class/bdi/0:{connection}/read_ahead_kb")
    with suppress(OSError):
        setting.write_text(str(kilobytes))
    try:
        return int(setting.read_text())
    except (OSError, ValueError):
        return None


def is_stacked(directory: Path) -> bool:
    """Whether `directory` lies on a file system that is itself laid over others."""
    try:
        device = directory.stat().st_dev
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [number] and after.split()[:1]:
            return after.split()[0] in _STACKED
    return False


def _escaped(source: str) -> str:
    """As the value of an option: commas part options, backslashes escape."""
    return _one_line(source).replace("\\", "\\\\").replace(",", "\\,")


def _one_line(source: str) -> str:
    return "".join(letter for letter in source if letter.isprintable()) or SUBTYPE
