"""What all file systems of one process and one configuration share.

fsspec makes an instance for each thread. A cache, a listing and connections for each would be many
too many, so instances with the same settings have one `SharedClients`, which ends with the last of
them or with the process.

A fork takes none of this along: threads stay behind, locks may be held for ever, and two processes
must not speak through one connection. So the child forgets all of it, touches nothing of it, and
makes its own when it is first used.

A file that is never closed is collected by the interpreter at any place, perhaps inside the cache
with its lock held. `SharedClients.leave` takes such openings in, and the next `open` closes them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from artifactfs.assembly import Client
from artifactfs.byte_range import ByteRange
from artifactfs.cache import CachedFileHandle
from artifactfs.config import Config
from artifactfs.errors import (
    ArtifactfsError,
    TimedOut,
    Unreachable,
)
from artifactfs.fsspec.listing import Listing
from artifactfs.model import Artifact

PIECE_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A part of an artifact; `start` and `stop` count as in a slice."""

    artifact: Artifact
    start: int | None
    stop: int | None

    def span_of(self, content: CachedFileHandle) -> ByteRange:
        """The bytes that are meant."""
        start, stop, _ = slice(self.start, self.stop).indices(content.size_bytes or 0)
        return ByteRange(start, max(start, stop))


class SharedClients:
    """One client and one listing. `_lock` guards the cache's opening."""

    def __init__(self, config: Config) -> None:
        self.client = Client(config)
        self.listing = Listing(self.client.artifacts, config.list.ttl_s)
        self._lock = threading.Lock()
        self._left: deque[CachedFileHandle] = deque()
        self.close = weakref.finalize(self, _close, self.client, os.getpid())

    def open(self, artifact: Artifact) -> CachedFileHandle:
        """Open an artifact's content in the cache. Raises what the service says."""
        with self._lock:
            store = self.client.store
        while self._left:
            self._left.popleft().close()
        return store.open(artifact)

    def leave(self, content: CachedFileHandle) -> None:
        """Close an opening some time; safe wherever the interpreter is."""
        self._left.append(content)

    def read_spans(self, wanted: Sequence[ClientKey]) -> list[bytes | ArtifactfsError]:
        """The bytes of many spans, all asked for at once, or what kept them from coming.

        Once one has waited its time in vain, the others have had that time too: nothing more is
        waited for.
        """
        with contextlib.ExitStack() as closing:
            artifacts = {one.artifact.id: one.artifact for one in wanted}
            opened = {key: self._tried(one, closing) for key, one in artifacts.items()}
            asked = [_Asked(opened[one.artifact.id], one) for one in wanted]
            results: list[bytes | ArtifactfsError] = []
            in_vain: ArtifactfsError | None = None
            for span in asked:
                result = span.result(in_vain)
                if isinstance(result, TimedOut | Unreachable):
                    in_vain = result
                results.append(result)
            return results

    def _tried(
        self, artifact: Artifact, closing: contextlib.ExitStack
    ) -> CachedFileHandle | ArtifactfsError:
        try:
            content = self.open(artifact)
        except ArtifactfsError as error:
            return error
        closing.callback(content.close)
        return content


class _Asked:
    """One span of many, asked for when this is made."""

    def __init__(self, opened: CachedFileHandle | ArtifactfsError, wanted: ClientKey) -> None:
        self._opened = opened
        self._span = ByteRange(0, 0)
        if isinstance(opened, CachedFileHandle):
            self._span = wanted.span_of(opened)
            opened.request(self._span, _ignore)

    def result(self, in_vain: ArtifactfsError | None) -> bytes | ArtifactfsError:
        """Its bytes, waited for unless another has waited `in_vain`, or the error."""
        if not isinstance(self._opened, CachedFileHandle):
            return self._opened
        try:
            if in_vain is None:
                return read(self._opened, self._span)
            data = self._opened.try_read(self._span.start, self._span.stop)
        except ArtifactfsError as error:
            return error
        return in_vain if data is None else data


def read(content: CachedFileHandle, span: ByteRange) -> bytes:
    """The bytes of a span of any length: each piece has the read time-out for itself."""
    if len(span) <= PIECE_BYTES:
        return content.read(span.start, span.stop)
    return b"".join(
        content.read(start, min(start + PIECE_BYTES, span.stop))
        for start in range(span.start, span.stop, PIECE_BYTES)
    )


def _ignore(error: BaseException | None) -> None:
    """Whatever came: whoever reads it is told."""
    _ = error


def _close(client: Client, process: int) -> None:
    if os.getpid() == process:
        client.__exit__(None, None, None)


_lock = threading.Lock()
_all: weakref.WeakValueDictionary[tuple[object, ...], SharedClients] = weakref.WeakValueDictionary()


def shared_clients(config: Config) -> SharedClients:
    """The rooms of this process for this configuration."""
    key = (config.token.name, *config.values().values())
    with _lock:
        rooms = _all.get(key)
        if rooms is None or not rooms.close.alive:
            rooms = _all[key] = SharedClients(config)
        return rooms


def _forget() -> None:
    global _lock, _all
    _lock = threading.Lock()
    _all = weakref.WeakValueDictionary()


os.register_at_fork(after_in_child=_forget)
