"""The files that ``get`` writes.

`GetTarget.of` looks at what stands at a path and decides how it is written, as cp(1) and curl(1)
do:

    nothing, or a regular file   a temporary file beside it takes its place at the end, with the
                                 mode, owner and access list of the file that it replaces
    a symbolic link              the file that it leads to is written; the link stays
    a FIFO, a device, a pipe     is written into, and never replaced
    a directory                  the file goes into it

A replaced file's other hard links keep the old content: a reader of any name sees either the old
content or the new, whole. A name that was chosen by the service, not typed by the user, follows no
link and opens no device: it makes a file in the directory that the user named, or fails.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

from artifactfs import system
from artifactfs.cli.standard_streams import write_all
from artifactfs.errors import ArtifactfsError

MAX_NAME_CHARS: Final = 50
_POLL_S: Final = 0.05
_ACCESS_LIST: Final = "system.posix_acl_access"
_NO_LINKS: Final = (errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS)


class GetTargetError(ArtifactfsError):
    """A file that cannot be written here, or not without ``-f``."""


@dataclass(frozen=True, slots=True)
class GetTarget:
    """A place for one file.

    `path` has no symbolic link as its last part where `is_replaced`; `before` is the regular file
    that stands there.
    """

    path: Path
    is_replaced: bool
    before: os.stat_result | None = None

    @classmethod
    def of(cls, path: Path, *, force: bool, follow: bool = True) -> Self:
        """Look at what stands at `path`. Raises `GetTargetError`.

        `force` allows to write over data that is there; `follow` to go through a symbolic link, and
        to open what is no regular file.
        """
        found = _stat(path, follow=follow)
        if found is None:
            return cls._missing(path, force=force)
        if stat.S_ISLNK(found.st_mode):
            _allow(path, force=force)
            return cls(path, is_replaced=True)
        if stat.S_ISDIR(found.st_mode):
            raise GetTargetError(f"{path} is a directory")
        if not stat.S_ISREG(found.st_mode):
            if not follow:
                raise GetTargetError(
                    f"{path} is not a regular file", remedy="choose another: -o FILE"
                )
            if stat.S_ISBLK(found.st_mode):
                _allow(path, force=force)
            return cls(path, is_replaced=False)
        _allow(path, force=force)
        real = Path(os.path.realpath(path)) if follow else path
        there = _stat(real, follow=False)
        if there is None or not os.path.samestat(there, found):
            return cls(path, is_replaced=False)  # an open file without a name: /dev/stdout
        return cls(real, is_replaced=True, before=found)

    @classmethod
    def _missing(cls, path: Path, *, force: bool) -> Self:
        if not path.is_symlink():
            return cls(path, is_replaced=True)
        if not force:
            raise GetTargetError(
                f"{path} is a symbolic link to a file that does not exist",
                remedy="-f makes that file",
            )
        return cls(Path(os.path.realpath(path)), is_replaced=True)

    @contextlib.contextmanager
    def open(self, *, force: bool, is_stopped: Callable[[], bool]) -> Iterator[BinaryIO]:
        """Write the file in the block; a replaced one appears at its end, or not at all.

        Without `force`, a file that appeared meanwhile is not replaced. `is_stopped` ends waiting
        for a FIFO's reader. Raises `GetTargetError`, `OSError`.
        """
        if self.is_replaced:
            with self._temporary(force=force) as file:
                yield file
            return
        descriptor = self._open_in_place(is_stopped)
        try:
            yield cast(BinaryIO, _InPlace(descriptor, self.path, is_stopped))
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _temporary(self, *, force: bool) -> Iterator[BinaryIO]:
        # Of a form that drop/ knows as temporary, should the target lie there.
        temporary = self.path.with_name(
            f".{self.path.name[:MAX_NAME_CHARS]}.{secrets.token_hex(3)}"
        )
        mode = 0o666 if self.before is None else 0o600  # less the umask; the old one at the end
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                if self.before is not None:
                    _take_over(descriptor, self.path, self.before)
                os.fsync(descriptor)
            if force:
                temporary.replace(self.path)
            else:
                _rename_to_new(temporary, self.path)
        except OSError as error:
            if error.filename in (None, temporary, os.fspath(temporary)):
                error.filename = os.fspath(self.path)  # the name that the user knows
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def _open_in_place(self, is_stopped: Callable[[], bool]) -> int:
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK
        if stat.S_ISREG(self.path.stat().st_mode):
            flags |= os.O_TRUNC
        while True:
            try:
                return os.open(self.path, flags)
            except OSError as error:  # a FIFO that has no reader yet
                if error.errno != errno.ENXIO or not self.path.is_fifo() or is_stopped():
                    raise
            time.sleep(_POLL_S)


class _InPlace(io.RawIOBase):
    """Writer to what is not replaced; errors name `path`."""

    def __init__(self, descriptor: int, path: Path, is_stopped: Callable[[], bool]) -> None:
        super().__init__()
        self._descriptor, self._path, self._is_stopped = descriptor, path, is_stopped

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`. Raises `OSError`."""
        try:
            write_all(self._descriptor, data, self._is_stopped)
        except OSError as error:
            error.filename = os.fspath(self._path)
            raise
        return memoryview(data).nbytes


def _stat(path: Path, *, follow: bool) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=follow)
    except FileNotFoundError:
        return None


def _allow(path: Path, *, force: bool) -> None:
    if not force:
        raise GetTargetError(f"{path} exists already", remedy="-f writes over it")


def _take_over(descriptor: int, path: Path, before: os.stat_result) -> None:
    """Give a file the owner, mode and access list of the one that it will replace.

    Without the privilege to give the file away, it keeps the owner that may write it. The set-id
    bits are not taken over: writing into the file would clear them too.
    """
    for owner, group in ((before.st_uid, -1), (-1, before.st_gid)):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, owner, group)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode) & 0o777)
    with contextlib.suppress(OSError):
        system.copy_attribute(path, descriptor, _ACCESS_LIST)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Name the file `path`, which must not exist. Raises `GetTargetError` if it does."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        _allow(path, force=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            _allow(path, force=False)
        temporary.replace(path)
