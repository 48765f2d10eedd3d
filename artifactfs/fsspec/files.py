"""A file that is read, and a file that is written.

A `ArtifactReader` has no buffer of its own: the cache below it reads ahead as far as its window
says, for all readers of the content in this process together. It belongs to one artifact, whatever
has its name meanwhile, and opens that one again in another process.

A `ArtifactWriter` keeps what is written in an unlinked file of the state directory and uploads it
when it is closed: when `close` returns, it is on the service. A ``with`` block that ends by an
exception, and a file that nobody closes, upload nothing.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile

from artifactfs.byte_range import ByteRange
from artifactfs.cache import CachedFileHandle
from artifactfs.fsspec.shared_client import SharedClients, read
from artifactfs.model import Artifact

if TYPE_CHECKING:
    from artifactfs.fsspec.filesystem import ArtifactFileSystem

OPEN_FILES = Path("/proc/self/fd")

_log = logging.getLogger(__name__)


class ArtifactReader(AbstractBufferedFile):
    """An artifact, open for reading."""

    def __init__(
        self, fs: ArtifactFileSystem, path: str, artifact: Artifact, block_size: int | None
    ) -> None:
        self._artifact = artifact
        self._rooms, self._content = self._opened(fs)
        super().__init__(
            fs, path, "rb", block_size, cache_type="none", size=self._content.size_bytes
        )

    def _opened(self, fs: ArtifactFileSystem) -> tuple[SharedClients, CachedFileHandle]:
        self._process = os.getpid()
        rooms = fs.rooms
        with fs.os_errors(self._artifact.filename):
            return rooms, rooms.open(self._artifact)

    def _fetch_range(self, start: int, end: int) -> bytes:
        if os.getpid() != self._process:  # a fork has taken the file along, but not the cache
            self._rooms, self._content = self._opened(self.fs)
        span = ByteRange(start, max(start, end)).clip(self.size)
        with self.fs.os_errors(self.path):
            return read(self._content, span)

    def close(self) -> None:
        """Close it."""
        if not self.closed and os.getpid() == self._process:
            self._content.close()
        super().close()

    def __del__(self) -> None:
        if not self.closed and os.getpid() == self._process:
            self._rooms.leave(self._content)

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.fs, self.path, self._artifact, self.blocksize, self.loc)


def _opened_again(
    fs: ArtifactFileSystem, path: str, artifact: Artifact, block_size: int, position: int
) -> ArtifactReader:
    reader = ArtifactReader(fs, path, artifact, block_size)
    reader.seek(position)
    return reader


class ArtifactWriter(AbstractBufferedFile):
    """A new artifact, until it is closed. `send` uploads a local file."""

    closed: bool

    def __init__(
        self,
        fs: ArtifactFileSystem,
        path: str,
        mode: str,
        block_size: int | None,
        *,
        autocommit: bool,
        directory: Path,
        send: Callable[[Path], Artifact],
    ) -> None:
        self._directory = directory
        self._send = send
        self._file: IO[bytes] | None = None
        super().__init__(fs, path, mode, block_size, autocommit=autocommit)

    def _initiate_upload(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if OPEN_FILES.is_dir():
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - commit's
        else:  # not Linux: an unlinked file cannot be opened again by its descriptor
            self._file = tempfile.NamedTemporaryFile(dir=self._directory)  # noqa: SIM115

    def _upload_chunk(self, final: bool = False) -> bool:
        assert self._file is not None
        try:
            self._file.write(self.buffer.getbuffer())
        except OSError:
            self.discard()
            raise
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Upload it. Raises `OSError`; then there is no artifact."""
        file, self._file = self._file, None
        assert file is not None
        with file:
            file.flush()
            path = OPEN_FILES / str(file.fileno()) if OPEN_FILES.is_dir() else Path(file.name)
            self._send(path)

    def discard(self) -> None:
        """Forget what was written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Upload it, unless that was done or is left to a transaction. Raises `OSError`."""
        if self.closed:
            return
        try:
            if not self.forced:
                self.flush(force=True)
        finally:
            self.closed = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.discard()
            self.closed = True
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            _log.warning("%s was never closed, and is not uploaded", self.path)
            self.discard()
            self.closed = True
