"""Which way into the kernel is taken.

``auto`` is the native binding where it works, else fusepy, with the reason in its facts and in the
log. Bindings are imported when they are asked for: fusepy loads libfuse at import, and a machine
that has only one of the two still mounts.
"""

from __future__ import annotations

import logging
from pathlib import Path

from artifactfs.errors import MountError
from artifactfs.fuse.binding import Binding
from artifactfs.fuse.mount_checks import check_fuse

NAMES = ("auto", "native", "fusepy")

_log = logging.getLogger(__name__)


def make(name: str, backing_directory: Path | None = None) -> Binding:
    """The binding called `name`: ``native``, ``fusepy`` or ``auto``.

    `backing_directory` is where cached files lie: what file system that is decides how the kernel
    can read them past the driver. Raises `MountError`, with the remedy, where it cannot work on
    this machine.
    """
    if name == "native":
        return _native(backing_directory)
    if name == "fusepy":
        return _fusepy()
    if name != "auto":
        raise MountError(f"no binding is called {name}", remedy=f"one of {', '.join(NAMES)}")
    try:
        check_fuse("native")
        return _native(backing_directory)
    except MountError as error:
        _log.info("fusepy instead of the native binding: %s", error)
        return _fusepy(instead_of=str(error))


def _native(backing_directory: Path | None) -> Binding:
    try:
        from artifactfs.fuse.native import NativeBinding
    except ImportError as error:
        raise MountError(f"the native binding cannot be loaded: {error}") from error
    binding: Binding = NativeBinding(backing_directory=backing_directory)
    return binding


def _fusepy(instead_of: str | None = None) -> Binding:
    from artifactfs.fuse.libfuse.binding import FusepyBinding

    return FusepyBinding(instead_of=instead_of)
