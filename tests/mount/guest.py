"""Runs the command line in an interpreter that has nothing of what Linux alone has.

    python guest.py MOUNT_PROGRAM UMOUNT_PROGRAM WORDS…

The names that Python offers on Linux only are taken away, ``/proc`` and ``/sys`` cannot be opened,
and ``sys.platform`` says macOS. What comes from libfuse and the C library stays Linux's, since that
is what runs here, so macFUSE's own mount options are left out. MOUNT_PROGRAM lists mounts as macOS
does. Without WORDS every module is imported that a guest may import.
"""

from __future__ import annotations

import ctypes.util  # noqa: F401 - looks at sys.platform when it is imported
import errno
import fcntl
import importlib
import os
import pkgutil
import select
import signal
import socket
import sys
from typing import Any

import cachetools  # noqa: F401 - what others do when they are imported is not what is tried here
import click  # noqa: F401
import fuse  # noqa: F401
import requests  # noqa: F401
import rich.console
import rich.live
import rich.progress  # noqa: F401
import xxhash  # noqa: F401

ONLY_LINUX: dict[Any, str] = {
    os: """
        copy_file_range eventfd fdatasync getxattr listxattr removexattr setxattr memfd_create
        pidfd_open posix_fadvise posix_fallocate splice O_PATH O_TMPFILE O_DIRECT O_NOATIME
        O_LARGEFILE O_RSYNC POSIX_FADV_SEQUENTIAL POSIX_FADV_DONTNEED sched_getaffinity
        sched_setaffinity getrandom XATTR_CREATE XATTR_REPLACE
    """,
    signal: "pidfd_send_signal sigtimedwait sigwaitinfo SIGRTMIN SIGRTMAX SIGPOLL",
    select: "epoll EPOLLIN",
    fcntl: "F_OFD_SETLK F_OFD_SETLKW F_OFD_GETLK F_SETPIPE_SZ F_ADD_SEALS",
    socket: "TCP_QUICKACK TCP_USER_TIMEOUT TCP_KEEPIDLE SO_PEERCRED SOCK_CLOEXEC",
    errno: "EBADFD ENOMEDIUM EREMOTEIO EKEYEXPIRED ECOMM EBADE",
}


def become_a_guest() -> None:
    for module, names in ONLY_LINUX.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    sys.platform = "darwin"
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir") and arguments:
        path = arguments[0]
        if isinstance(path, str | bytes) and os.fsdecode(path).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(errno.ENOENT, "there is no such thing here", path)


def import_everything() -> None:
    import artifactfs

    for found in pkgutil.walk_packages(artifactfs.__path__, "artifactfs."):
        if not found.name.startswith("artifactfs.fuse.native") and "__main__" not in found.name:
            importlib.import_module(found.name)


def main() -> None:
    if not sys.argv[3:]:
        import aiohttp  # noqa: F401
        import boto3  # noqa: F401
        import fsspec  # noqa: F401
    become_a_guest()
    from artifactfs import system

    assert not system.LINUX
    system.MOUNT, system.UMOUNT = sys.argv[1:3]  # type: ignore[misc]
    system.macfuse_options = lambda subtype, source: {"fsname": f"{subtype}:{source}"}
    if not sys.argv[3:]:
        import_everything()
        return
    from artifactfs import cli

    sys.argv[:] = ["artifactfs", *sys.argv[3:]]
    cli.main()


if __name__ == "__main__":
    main()
