"""Contents by their SHA-256, in a directory.

    blobs/<first two digits>/<digest>     each content once, however many artifacts have it
    incoming/<random>                     what is being received; emptied at every start

What comes in is hashed on the way, written to ``incoming``, brought to the disk (fsync), renamed to
its place, and the directory brought to the disk too: a crash leaves the whole content or nothing.
A content has to be held (``guard``) from before it is here until an artifact that has it is listed;
what nobody holds and no artifact has may be let go at any time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from artifactfs.controller.guard import Guard, LocalGuard
from artifactfs.controller.receiving import Receiver, Sink
from artifactfs.controller.workers import Workers


@dataclass(frozen=True, slots=True)
class Received:
    """What has come in and lies in ``incoming``, on the disk."""

    path: Path
    sha256: str
    size_bytes: int


class Store:
    """The directory. `holding` and `alone` are the guard's; all that touches files may block."""

    def __init__(
        self, directory: Path, workers: Workers, *, sync: bool = True, guard: Guard | None = None
    ) -> None:
        self._blobs = directory / "blobs"
        self._incoming = directory / "incoming"
        self._workers = workers
        self._sync = sync
        self._guard = guard or LocalGuard()
        self.holding = self._guard.holding
        self.alone = self._guard.alone

    def prepare(self) -> None:
        """Make the directories, and throw away what a crash left half received."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        for path in (self._blobs, self._incoming):
            path.mkdir(mode=0o700, exist_ok=True)
        for number in range(256):
            (self._blobs / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        self.settle_directory(self._blobs)

    def path(self, sha256: str) -> Path:
        """Where a content lies, or would."""
        return self._blobs / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether the content is here."""
        return self.path(sha256).is_file()

    async def receive(self, receiver: Receiver, most_bytes: int) -> Received:
        """A request's body in ``incoming``; nothing stays of one that breaks off.

        Raises what `Receiver.receive` raises.
        """
        path = self._incoming / secrets.token_hex(16)
        sink = Sink(_creating(path), sync=self._sync, hashing=self._workers.pieces)

        def finish() -> Received:
            sink.settle()
            return Received(path, sink.sha256().hexdigest(), sink.size_bytes)

        try:
            return await receiver.receive(sink, most_bytes, finish)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            sink.close()

    def discard(self, received: Received) -> None:
        """Throw away what was received."""
        received.path.unlink(missing_ok=True)

    def keep(self, received: Received) -> None:
        """Give what was received its place."""
        target = self.path(received.sha256)
        received.path.replace(target)
        self.settle_directory(target.parent)

    def keep_linked(self, path: Path, sha256: str) -> None:
        """Give a file, whose content this is and which stays where it is, a place here too."""
        target = self.path(sha256)
        with contextlib.suppress(FileExistsError):
            os.link(path, target)
        self.settle_directory(target.parent)

    def keep_bytes(self, content: bytes, sha256: str) -> None:
        """Give a small content its place."""
        path = self._incoming / secrets.token_hex(16)
        with contextlib.closing(Sink(_creating(path), sync=self._sync)) as sink:
            sink.write(content)
            sink.settle()
        self.keep(Received(path, sha256, len(content)))

    def url(self, sha256: str, filename: str) -> str | None:
        """Where a content is read, if that is not here."""
        _ = sha256, filename
        return None

    def remove(self, sha256: str) -> None:
        """Let a content go. Downloads that have begun still get it whole."""
        self.path(sha256).unlink(missing_ok=True)

    def all(self) -> Iterator[str]:
        """Every content that is here. Looks through the whole directory."""
        for directory in self._blobs.iterdir():
            yield from (path.name for path in directory.iterdir())

    def settle_directory(self, directory: Path) -> None:
        """Bring the names in a directory to the disk."""
        if not self._sync:
            return
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _creating(path: Path) -> Callable[[], int]:
    return lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
