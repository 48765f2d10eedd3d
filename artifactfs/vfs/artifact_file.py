"""One artifact as a read-only file, and an open one.

A file node knows the artifact it was made for and looks up its present record each time, so that
nodes which the kernel keeps for hours never show what was.

**Lifetimes.** Content, size and times of an artifact never change, and a name that changes its
meaning is told with `EntryChanged`. What does change untold is how much of it is cached
(``st_blocks``; a user follows it with ``ls -s`` and ``du``) and how many names it has. So the
kernel may remember attributes for a second until the file is cached as a whole, then for a minute:
an eviction shows within that.

**Unknown size.** A reference to an external URL may have no size before it is opened. It shows as
empty until then; opening it probes, and that handle goes past the kernel's page cache (direct I/O),
which would not read beyond the size it was told.

**Gone.** When an open file's bytes are asked for and the artifact has expired, the reader gets
ESTALE (`ContentGone`): the name was right when it was opened. Only opening says ENOENT. Either way
the catalog is asked to look, so that the name leaves too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from artifactfs.byte_range import ByteRange
from artifactfs.errors import ContentGone, Gone
from artifactfs.model import Artifact
from artifactfs.vfs import xattrs
from artifactfs.vfs.inode_numbers import NumberedThing, SameByNumber
from artifactfs.vfs.interfaces import ContentView, UsageView
from artifactfs.vfs.node import (
    Attributes,
    Done,
    File,
    Handle,
    Kind,
    PendingRead,
    read_only,
)

if TYPE_CHECKING:
    from artifactfs.vfs.artifact_dirs import ArtifactIndex

PARTLY_CACHED_LIFETIME_S = 1.0
WHOLLY_CACHED_LIFETIME_S = 60.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BLOCK_BYTES = 512


class ArtifactFile(SameByNumber, File):
    """One artifact, whichever of its names led here."""

    __slots__ = ("_all", "_artifact", "ino")

    ino: int

    def __init__(self, all_: ArtifactIndex, artifact: Artifact) -> None:
        self._all = all_
        self._artifact = artifact
        self.ino = all_.inodes.of(NumberedThing.ARTIFACT, artifact.id)

    @property
    def lifetime_s(self) -> float:
        artifact = self._all.current(self._artifact)
        usage = self._all.store.usage(artifact)
        size_bytes = _size_of(artifact, usage)
        if size_bytes is None:
            return 0.0
        whole = usage.cached_bytes >= size_bytes
        return WHOLLY_CACHED_LIFETIME_S if whole else PARTLY_CACHED_LIFETIME_S

    def attributes(self) -> Attributes:
        artifact = self._all.current(self._artifact)
        usage = self._all.store.usage(artifact)
        created_ns = nanoseconds(artifact.created_at)
        return Attributes(
            self.ino,
            Kind.FILE,
            0o444,
            _size_of(artifact, usage) or 0,
            self._all.count_names(artifact),
            created_ns,
            created_ns,
            -(-usage.cached_bytes // _BLOCK_BYTES),
        )

    def xattrs(self) -> Mapping[str, bytes]:
        artifact = self._all.current(self._artifact)
        return xattrs.of_artifact(artifact, self._all.store.usage(artifact))

    def set_xattr(self, name: str, value: bytes) -> None:
        artifact = self._all.current(self._artifact)
        self._all.commands.pin_or_refuse(artifact, name, value)

    def open(self, flags: int) -> Handle:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            read_only()
        artifact = self._all.current(self._artifact)
        size_was_shown = _size_of(artifact, self._all.store.usage(artifact)) is not None
        try:
            content = self._all.store.open(artifact)
        except Gone:
            self._all.catalog.ask(0.0)
            raise
        return ArtifactHandle(self._all, artifact, content, size_was_shown=size_was_shown)


class ArtifactHandle(Handle):
    """An open artifact."""

    __slots__ = ("_all", "_artifact", "_content", "_size_was_shown")

    def __init__(
        self, all_: ArtifactIndex, artifact: Artifact, content: ContentView, *, size_was_shown: bool
    ) -> None:
        self._all = all_
        self._artifact = artifact
        self._content = content
        self._size_was_shown = size_was_shown

    @property
    def direct_io(self) -> bool:
        return not self._size_was_shown

    @property
    def keep_cache(self) -> bool:
        return self._size_was_shown and self._content.is_as_before

    def try_read(self, start: int, stop: int) -> bytes | None:
        return self._content.try_read(start, stop)

    def request(self, span: ByteRange, done: Done) -> PendingRead | None:
        def told(error: BaseException | None) -> None:
            done(self._stale(error) if isinstance(error, Gone) else error)

        return self._content.request(span, told)

    def read(self, start: int, stop: int) -> bytes:
        try:
            return self._content.read(start, stop)
        except Gone as error:
            raise self._stale(error) from error

    def backing_fd(self) -> int | None:
        return self._content.backing_fd()

    def release(self) -> None:
        self._content.close()

    def _stale(self, error: Gone) -> ContentGone:
        self._all.catalog.ask(0.0)
        return ContentGone(
            f"{self._artifact.filename!r} ({self._artifact.id}) has left the service while it was "
            f"open, and not all of it is cached: {error.message}",
            remedy=error.remedy,
        )


def nanoseconds(moment: datetime) -> int:
    """Nanoseconds since the epoch, exact to the microsecond."""
    return (moment - _EPOCH) // _MICROSECOND * 1000


def _size_of(artifact: Artifact, usage: UsageView) -> int | None:
    """The size, from whoever knows it: the service, or the cache that has probed."""
    return artifact.size_bytes if artifact.size_bytes is not None else usage.size_bytes
