"""What a way into the kernel is.

A binding takes a `Tree` and a mount point and serves it until it is unmounted: by ``umount``, by
``fusermount -u``, by SIGTERM or SIGINT, or by `Binding.stop` from another thread. It knows nodes
and handles, never artifacts. Both bindings behave alike; what one of them cannot do is written down
in its own module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from artifactfs.vfs.node import Tree

FILESYSTEM_TYPE = "fuse.artifactfs"
SUBTYPE = "artifactfs"


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How to mount.

    `source` is what the mount table shows in its first column: the service's host, never a token.
    `uid` and `gid` own every file. Without `allow_other` no other user, root included, sees
    anything but the mount point. `read_only` and `noexec` are flags of mount(2), and are not set on
    a descriptor that was mounted by another process. Every mount is ``nosuid`` and ``nodev``.
    """

    source: str
    uid: int
    gid: int
    allow_other: bool = False
    read_only: bool = False
    noexec: bool = False


class Binding(Protocol):
    """One way into the kernel."""

    @property
    def name(self) -> str:
        """``native`` or ``fusepy``."""
        ...

    @property
    def facts(self) -> dict[str, object]:
        """What ``status`` shows of it: protocol version, passthrough or why not."""
        ...

    def without_passthrough(self) -> str | None:
        """Why the kernel will not read cached files past the driver, in words; None if it will.

        As far as that can be known before the mount: `facts` has it from the kernel itself.
        """
        ...

    def run(
        self, tree: Tree, mountpoint: Path, options: MountOptions, on_ready: Callable[[], None]
    ) -> None:
        """Mount, call `on_ready` once the kernel's first request is answered, serve, unmount.

        Runs on the main thread and returns after the unmount. Raises `MountError` if it cannot
        mount, with nothing left half-mounted.
        """
        ...

    def stop(self) -> None:
        """Have `run` unmount and return; from any thread or a signal handler."""
        ...
