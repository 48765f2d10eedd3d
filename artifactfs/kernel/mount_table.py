"""Which file systems are mounted, and which of them are ours.

Read from ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)), which answers without asking any file
system, so it never hangs behind one that does not answer. A FUSE mount's device number is
``0:<connection>``: the same number names its directory in ``/sys/fs/fuse/connections``. Where there
is no ``/proc``, `system` lists them, and every number is 0.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from artifactfs import system
from artifactfs.kernel.binding import FILESYSTEM_TYPE

MOUNT_TABLE = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class TableLine:
    """One mount of any file system. They stand in mounting order: the last at a path is on top."""

    mountpoint: Path
    kind: str
    source: str
    device_minor: int


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount of ours. `connection` is its number in ``/sys/fs/fuse/connections``."""

    mountpoint: Path
    source: str
    connection: int


def table(of: Path = MOUNT_TABLE) -> list[TableLine]:
    """Everything that is mounted in this mount namespace, or in that of another table."""
    if not system.LINUX:
        return [TableLine(Path(place), kind, source, 0) for place, kind, source in system.mounted()]
    lines = (parse_line(line) for line in of.read_bytes().splitlines())
    return [line for line in lines if line is not None]


def mounts(of: Path = MOUNT_TABLE) -> list[Mounted]:
    """The mounts of ours, in mounting order."""
    return [_ours(line) for line in table(of) if line.kind == FILESYSTEM_TYPE]


def find_mount(path: Path | str) -> Mounted | None:
    """The mount of ours whose mount point is `path`, if it is the topmost there."""
    line = mounted_at(real_location(path))
    return _ours(line) if line is not None and line.kind == FILESYSTEM_TYPE else None


def mounted_at(location: Path) -> TableLine | None:
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


def parse_line(line: bytes) -> TableLine | None:
    """One line of mountinfo, or None if it is not one."""
    before, separator, after = line.partition(b" - ")
    left, right = before.split(b" "), after.split(b" ")
    if not separator or len(left) < 6 or len(right) < 2:
        return None
    _, _, minor = left[2].partition(b":")
    return TableLine(
        mountpoint=Path(unescape(left[4])),
        kind=unescape(right[0]),
        source=unescape(right[1]),
        device_minor=int(minor),
    )


def unescape(field: bytes) -> str:
    """A field's text: space, tab, newline, backslash and ``#`` are written as ``\\ooo``."""
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field))


def _ours(line: TableLine) -> Mounted:
    return Mounted(line.mountpoint, line.source, line.device_minor)
