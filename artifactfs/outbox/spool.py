"""The spool: a directory per service, in it slots, in each the files of one outbox.

    <spool>/<host>-<digest of the origin>/<slot>/journal.sqlite
    <spool>/<host>-<digest of the origin>/<slot>/files/<a name unlike any other>

One process at a time works in a slot; it holds a flock on the slot's ``lock``, which ends with the
process however that ends. A mount takes the first free slot, so that two mounts of one service do
not meet. What lies in other slots that nobody holds belongs to mounts that are gone: it is moved
over (``takeover``), so that nothing is stranded, whichever mount point comes next.

A slot keeps some of the disk back in a file called ``ballast``. Should others have filled the disk
when a mount starts, it is let go, so that the journal can be written, what waits be uploaded, and
the disk be emptied by that.

A file also carries its entry's path, as an extended attribute where the file system keeps such:
should the journal be lost, its files still know their names.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from artifactfs import system
from artifactfs.errors import DropError
from artifactfs.outbox.durability import (
    GroupSync,
    make_directory,
    sync_directory,
)

MOST_SLOTS = 1000
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors of a disk that is full, write-protected or failing: they may pass."""
SPARED_BYTES = 16 << 20
BALLAST_BYTES = 2 << 20
_PATH_XATTR = "user.artifactfs.path"


class SpoolSlot:
    """One locked slot. `close` frees it."""

    def __init__(self, directory: Path, lock_descriptor: int) -> None:
        self.directory = directory
        self.files = directory / "files"
        make_directory(self.files)
        self._ballast = directory / "ballast"
        self._lock_descriptor = lock_descriptor
        self._names = GroupSync(lambda: sync_directory(self.files))

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.directory / "journal.sqlite"

    def path(self, file: str) -> Path:
        """Where the bytes of this name are."""
        return self.files / file

    @staticmethod
    def new_file() -> str:
        """A name for the bytes of a new entry, unlike any other in any slot."""
        return secrets.token_hex(10)

    def link(self, file: str) -> Path:
        """Give a file one more name, which the next start removes. Raises `OSError`.

        As long as a file has two names its bytes do not change: a writer makes a copy first.
        """
        linked = self.files / f"{file}.{secrets.token_hex(4)}"
        os.link(self.path(file), linked)
        return linked

    def left_bytes(self) -> int:
        """What the disk has left for files, without what is spared for the journal."""
        disk = os.statvfs(self.directory)
        spared_bytes = min(SPARED_BYTES, disk.f_blocks * disk.f_frsize // 4)
        return disk.f_bavail * disk.f_frsize - spared_bytes

    def names_reach_disk(self) -> None:
        """Return when the names in ``files/`` are on the disk. Raises `OSError`."""
        self._names.reach()

    def remember_path(self, file: str, path: str) -> None:
        """Have a file know its entry's path, should the journal be lost."""
        with contextlib.suppress(OSError):
            system.set_attribute(self.path(file), _PATH_XATTR, os.fsencode(path))

    def remembered_path(self, file: str) -> str | None:
        """What `remember_path` was told of a file."""
        with contextlib.suppress(OSError):
            return os.fsdecode(system.get_attribute(self.path(file), _PATH_XATTR)) or None
        return None

    def take_ballast(self) -> None:
        """Keep some of the disk back, if there is enough of it."""
        with contextlib.suppress(OSError):
            if self._ballast.exists() or self.left_bytes() < self._ballast_bytes():
                return
            with self._ballast.open("xb") as file:
                system.allocate(file.fileno(), self._ballast_bytes())

    def drop_ballast(self) -> bool:
        """Let go what was kept back; whether there was any."""
        there = self._ballast.exists()
        self._ballast.unlink(missing_ok=True)
        return there

    def _ballast_bytes(self) -> int:
        disk = os.statvfs(self.directory)
        return min(BALLAST_BYTES, disk.f_blocks * disk.f_frsize // 16)

    def close(self) -> None:
        """Release the slot."""
        descriptor, self._lock_descriptor = self._lock_descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def free_slots(directory: Path) -> list[Path]:
    """The slots in a service's directory that no process works in. Writes nothing, never fails."""
    free: list[Path] = []
    with contextlib.suppress(OSError):
        numbered = sorted((one for one in directory.iterdir() if one.name.isdigit()), key=_number)
        for path in numbered:
            with contextlib.suppress(OSError):
                descriptor = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    free.append(path)
                finally:
                    os.close(descriptor)
    return free


def _number(path: Path) -> int:
    return int(path.name)


def service_directory(spool: Path, origin: str) -> Path:
    """Return where the slots of a service are."""
    host = re.sub(r"[^a-z0-9.-]", "_", (urlsplit(origin).hostname or "service").lower())
    digest = hashlib.sha256(origin.encode()).hexdigest()[:8]
    return spool / f"{host}-{digest}"


def count_files(directory: Path) -> int:
    """Return how many files the slots of a service hold, those of running mounts included.

    `directory` is its `service_directory`. Changes nothing, locks nothing and opens no journal; a
    directory that cannot be read counts as empty.
    """
    count = 0
    with contextlib.suppress(OSError):
        for path in directory.glob("*/files/*"):
            count += "." not in path.name  # with a dot: a second name (`SpoolSlot.link`)
    return count


def claim(spool: Path, origin: str) -> tuple[SpoolSlot, list[SpoolSlot]]:
    """The first free slot of a service's spool, and all others that nobody holds.

    Raises `OSError` with one of `DISK_ERRORS`, `DropError` if the directory cannot be used for
    another reason. No slot stays locked then.
    """
    directory = service_directory(spool, origin)
    own: SpoolSlot | None = None
    others: list[SpoolSlot] = []
    try:
        make_directory(directory)
        spool.chmod(0o700)
        for number in range(MOST_SLOTS):
            path = directory / str(number)
            if own is not None and not path.exists():
                if not any(_numbered_after(directory, number)):
                    break
                continue
            slot = _lock(path)
            if slot is not None and own is None:
                own = slot
            elif slot is not None:
                others.append(slot)
    except OSError as error:
        for slot in (own, *others):
            if slot is not None:
                slot.close()
        if error.errno in DISK_ERRORS:
            raise
        raise DropError(
            f"the spool {directory} cannot be used: {error.strerror}",
            remedy="set spool.dir or state.dir to a directory that can be written",
        ) from error
    if own is None:
        for slot in others:
            slot.close()
        raise DropError(f"every slot of the spool {directory} is in use")
    return own, others


def _numbered_after(directory: Path, number: int) -> Iterator[int]:
    for path in directory.iterdir():
        if path.name.isdigit() and int(path.name) > number:
            yield int(path.name)


def _lock(path: Path) -> SpoolSlot | None:
    make_directory(path)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    try:
        return SpoolSlot(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def remove_slot(slot: SpoolSlot) -> None:
    """Remove an emptied slot that is held, and let it go; one that is not empty stays."""
    with contextlib.suppress(OSError):
        slot.files.rmdir()
        for path in slot.directory.iterdir():
            if ".broken-" not in path.name:
                path.unlink()
        slot.directory.rmdir()
    slot.close()
