"""The cache as a whole: which contents are open, and what is known of the others.

Everyone who reads opens a content here and closes it again. While it is open somewhere, there is
one `CachedFile` for it (`_open`); afterwards its state stays in a bounded LRU for a while
(`_known`), so that opening it again checks no grain a second time. A content that twice did not
have its SHA-256 is refused for ten minutes (`_refused`), so that a broken one is not downloaded
again and again. What ``ls -ls`` wants to know of contents that are not open comes from their
sidecars' first bytes, remembered for some seconds.

Two mounts can share a directory (``disk_format``): what one has fetched the other finds, and
eviction (``eviction``) respects what others have open.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from array import array
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cachetools import LRUCache, TTLCache

from artifactfs.byte_range import ByteRange
from artifactfs.cache import eviction_order
from artifactfs.cache.adoption import (
    Adoption,
    read_sums,
    temporary_name,
)
from artifactfs.cache.block_check import check_grains, header_of
from artifactfs.cache.cache_layout import CacheLayout, CachePaths
from artifactfs.cache.cached_file import CachedFile
from artifactfs.cache.cached_file_handle import CachedFileHandle
from artifactfs.cache.data_file import is_held, opening
from artifactfs.cache.disk_format import write_sidecar
from artifactfs.cache.disk_warning import DiskWarning
from artifactfs.cache.eviction import Evictor
from artifactfs.cache.fetcher import DownloadSource, Fetcher
from artifactfs.cache.memory_blocks import MemoryBlocks
from artifactfs.cache.readahead_budget import ReadaheadBudget
from artifactfs.cache.stats import (
    CachedContent,
    CacheStatistics,
    CacheUsage,
    Counters,
    VerifyReport,
)
from artifactfs.cache.verification import Verifier
from artifactfs.errors import (
    BadAnswer,
    CacheError,
    Cancelled,
    ContentChanged,
)
from artifactfs.model import Artifact
from artifactfs.system import make_private

KNOWN_BYTES = 32 << 20
ALLOWED_WINDOWS = 4
USAGES = 1 << 17
WHOLE_PIECE_BYTES = 1 << 18
USAGE_S = 30.0
REFUSED = 4096
REFUSED_S = 600.0
MISCONFIGURED = frozenset(
    {
        errno.EACCES, errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
        errno.ENOENT, errno.ENOTDIR, errno.EPERM,
    }
)  # fmt: skip
"""What the user has to mend: a file in the directory's place, another owner's, no permission."""

_log = logging.getLogger(__name__)


class _ToFile:
    """A sink that writes everything to a file, in the order in which it comes, and counts it.

    `descriptor` becomes -1 when the disk does not take it; `size_bytes` is counted all the same.
    """

    def __init__(
        self, descriptor: int, ended: threading.Event, on_failure: Callable[[OSError], None]
    ) -> None:
        self.size_bytes = 0
        self.descriptor = descriptor
        self._ended = ended
        self._on_failure = on_failure
        self._buffer = memoryview(bytearray(WHOLE_PIECE_BYTES))

    def version(self, _etag: str) -> None:
        return

    def room(self, offset: int) -> memoryview:
        if offset < self.size_bytes and self.descriptor >= 0:  # begins again, perhaps shorter
            os.ftruncate(self.descriptor, offset)
        self.size_bytes = offset
        return self._buffer

    def take(self, count: int, *, more: bool) -> bool:  # noqa: ARG002 - a sink's
        data = self._buffer[:count]
        offset = self.size_bytes
        self.size_bytes += count
        try:
            while data and self.descriptor >= 0:
                written = os.pwrite(self.descriptor, data, offset)
                offset += written
                data = data[written:]
        except OSError as error:
            self.descriptor = -1
            self._on_failure(error)
        return not self._ended.is_set()

    def pause(self) -> None:
        return


def _state_bytes(shared: CachedFile) -> int:
    return 512 + 2 * len(shared.table.flags)


class DiskCache:
    """The cache directory of one mount.

    `_lock` guards `_open`, `_known`, `_usages`, `_refused` and `_changed`; no I/O while it is held.
    `_taking_in` is held while a whole content takes its place.
    """

    def __init__(
        self,
        directory: Path,
        source: DownloadSource,
        *,
        origin: str,
        size_bytes: int,
        min_free_bytes: int,
        window_max_bytes: int,
        connections: int,
        read_timeout_s: float,
    ) -> None:
        self._places = CacheLayout(directory, origin)
        self._source = source
        self._window_max_bytes = window_max_bytes
        self._allowance = ReadaheadBudget(ALLOWED_WINDOWS * window_max_bytes)
        self._read_timeout_s = read_timeout_s
        self._counters = Counters()
        self._memory = MemoryBlocks()
        self._crew = Fetcher(source, connections, read_timeout_s)
        self._verifier = Verifier()
        self._lock = threading.Lock()
        self._taking_in = threading.Lock()
        self._open: dict[str, CachedFile] = {}
        self._known: LRUCache[str, CachedFile] = LRUCache(KNOWN_BYTES, _state_bytes)
        self._usages: TTLCache[str, CacheUsage] = TTLCache(USAGES, USAGE_S)
        self._refused: TTLCache[str, BaseException] = TTLCache(REFUSED, REFUSED_S)
        self._changed: dict[str, bool] = {}  # a change that the next opening is to be told of
        self._warning = DiskWarning(directory)
        self._ended = threading.Event()
        self._keeper = Evictor(
            self, self._places, eviction_order.Budget(size_bytes, min_free_bytes), self._counters
        )

    def start(self) -> None:
        """Make the directory and start the threads.

        Raises `CacheError` if the directory is none of ours. A disk that is full, read-only or
        broken is no such error: what it does not take is read without caching.
        """
        try:
            self._places.prepare()
        except OSError as error:
            if error.errno in MISCONFIGURED:
                raise CacheError(
                    f"the cache directory {self._places.root.parent} cannot be used: "
                    f"{error.strerror}",
                    remedy="choose another with --cache-dir or cache.dir",
                ) from error
            self._warning.tell("files are read without caching what is not cached yet", error)
        self._crew.open()
        self._verifier.open()
        self._keeper.open()

    def close(self) -> None:
        """End downloads and threads, and write what is not written yet."""
        self._ended.set()
        self._crew.close()
        self._verifier.close()
        self._keeper.close()
        for shared in self.all_open():
            shared.backing.save()

    # Contents

    def open(self, artifact: Artifact) -> CachedFileHandle:
        """Open an artifact's content. May probe for its size.

        Raises what the service says, and `BadAnswer` if the size stays unknown.
        """
        place = self._places.of(artifact)
        with self._lock:
            refused = self._refused.get(place.key)
            if refused is not None:
                raise refused.with_traceback(None)  # others may raise it too
            shared = self._open.get(place.key)
            if shared is not None and self._fits(shared, artifact):
                shared.opens += 1
                shared.backing.retain()
                return self._content(shared)
            known = self._known.pop(place.key, None)
        if known is not None and not self._fits(known, artifact):
            known = None
        fresh = known or self._load(artifact, place, self._size_of(artifact, place))
        fresh.backing.retain()
        fresh.backing.open()
        with self._lock:
            shared = self._open.setdefault(place.key, fresh)
            shared.opens += 1
            if shared is not fresh:
                shared.backing.retain()
            if shared.cancelled.is_set():
                shared.cancelled = threading.Event()
        if shared is not fresh:
            fresh.backing.release()
        else:
            with contextlib.suppress(OSError):
                os.utime(place.sidecar)
        if shared.proof.to_verify:
            self._verifier.follow(shared.proof)
        return self._content(shared)

    def _fits(self, shared: CachedFile, artifact: Artifact) -> bool:
        if artifact.size_bytes is not None and artifact.size_bytes != shared.size_bytes:
            raise BadAnswer(
                f"{artifact.filename!r} ({artifact.id}): the service says {artifact.size_bytes} "
                f"bytes, the content has {shared.size_bytes}"
            )
        return True

    def _content(self, shared: CachedFile) -> CachedFileHandle:
        ended = False

        def closed() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._close(shared)

        changed = shared.waiters.failed is None and self._changed.pop(shared.place.key, False)
        return CachedFileHandle(
            shared, self._read_timeout_s, self._counters, closed, is_as_before=not changed
        )

    def _close(self, shared: CachedFile) -> None:
        with self._lock:
            shared.opens -= 1
            last = not shared.opens
            if last:
                self._open.pop(shared.place.key, None)
                shared.cancelled.set()
                if isinstance(shared.waiters.failed, ContentChanged):
                    self._changed[shared.place.key] = True
                elif shared.waiters.failed is not None:
                    self._refused[shared.place.key] = shared.waiters.failed
        if last:
            shared.holes.closed_everywhere()
            shared.backing.save()
            usage = CacheUsage(shared.table.cached_bytes, shared.size_bytes, shared.table.verified)
            with self._lock:
                self._usages[shared.place.key] = usage
                if shared.place.key not in self._open and shared.waiters.failed is None:
                    with contextlib.suppress(ValueError):  # larger than all that is kept
                        self._known[shared.place.key] = shared
        shared.backing.release()

    def _size_of(self, artifact: Artifact, place: CachePaths) -> int:
        if artifact.size_bytes is not None:
            return artifact.size_bytes
        header = header_of(place)
        if header is not None:
            return header[0]
        size_bytes = self._source.probe(artifact).size_bytes
        if not isinstance(size_bytes, int):
            size_bytes = self._fetch_whole(artifact, place)
        return size_bytes

    def _fetch_whole(self, artifact: Artifact, place: CachePaths) -> int:
        """Fetch what has no size but an end; what is known afterwards is how long it was.

        If the disk does not take it, that is all: its bytes are fetched again by who reads them.
        """

        def on_failure(error: OSError) -> None:
            self._warning.tell(f"{artifact.id} is read without caching", error)

        temporary = temporary_name(place)
        descriptor = -1
        try:
            try:
                make_private(os.path.dirname(temporary))  # noqa: PTH120 - paths are text here
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                descriptor = os.open(temporary, flags, 0o600)
                is_held(descriptor)
            except OSError as error:
                on_failure(error)
            sink = _ToFile(descriptor, self._ended, on_failure)
            self._source.stream(artifact, ByteRange(0, 0), sink)
            if self._ended.is_set():
                raise Cancelled("the mount is ending")
            if sink.descriptor >= 0:
                try:
                    sums = read_sums(descriptor, lambda _: None, self._ended)
                    self._publish(place, temporary, descriptor, sums, verified=False)
                except OSError as error:
                    on_failure(error)
            return sink.size_bytes
        finally:
            if descriptor >= 0:
                os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108

    def _load(self, artifact: Artifact, place: CachePaths, size_bytes: int) -> CachedFile:
        return CachedFile(
            replace(artifact, size_bytes=size_bytes),  # so that every answer is compared with it
            place,
            size_bytes,
            window_max_bytes=self._window_max_bytes,
            allowance=self._allowance,
            memory=self._memory,
            flights=self._crew,
            verifier=self._verifier,
            counters=self._counters,
            warning=self._warning,
        )

    # What is known without opening

    def usage(self, artifact: Artifact) -> CacheUsage:
        """How much of it is cached. At once."""
        place = self._places.of(artifact)
        with self._lock:
            shared = self._open.get(place.key)
            known = self._usages.get(place.key)
        if shared is not None:
            table = shared.table
            return CacheUsage(table.cached_bytes, shared.size_bytes, table.verified)
        if known is None:
            header = header_of(place)
            if header is None:
                return CacheUsage(0, artifact.size_bytes, False)
            known = CacheUsage(header[1], header[0], header[2])
            with self._lock:
                self._usages[place.key] = known
        return known

    def space(self) -> tuple[int, int]:
        """What the cache may hold and how much of that is left, in bytes. At once."""
        return self._keeper.space()

    def statistics(self) -> CacheStatistics:
        """Counters since the start. At once."""
        counted = self._counters
        with self._lock:
            open_contents = len(self._open)
        return CacheStatistics(
            cached_bytes=self._keeper.used_bytes(),
            size_bytes=self._keeper.budget.size_bytes,
            open_contents=open_contents,
            hits=counted.hits,
            misses=counted.misses,
            read_bytes=counted.read_bytes,
            fetched_bytes=counted.fetched_bytes,
            evicted_bytes=counted.evicted_bytes,
            verified_bytes=counted.verified_bytes,
            mismatches=counted.mismatches,
            refetched_grains=counted.refetched_grains,
            uncached_grains=counted.uncached_grains,
        )

    # Taking in, pinning, removing

    def adopt(self, artifact: Artifact, path: Path) -> bool:
        """Make a local file with this artifact's content its cached content; see `stage`.

        The file stays as it is. False if it does not have this artifact's size and SHA-256, if
        that was not possible, or if there was no need; nothing is lost then.
        """
        staged = self.stage(artifact, path)
        return staged is not None and staged.finish()

    def stage(self, artifact: Artifact, path: Path) -> Adoption | None:
        """Link or open a local file that is to become this artifact's cached content.

        Does not read the file, nor wait for another thread. Call `finish` (slow: reads and hashes)
        or `discard` on what is returned. Once this has returned, a writer of the file must look at
        ``st_nlink`` before it writes, and write to a copy if it is more than 1. None if there is
        nothing to adopt.
        """
        place = self._places.of(artifact)
        if artifact.sha256 is None or artifact.size_bytes is None:
            return None

        def on_failure(error: OSError) -> None:
            if error.errno != errno.ENOENT:  # else its user has removed it
                what = f"{artifact.filename} is uploaded but not cached, reading it downloads it"
                self._warning.tell(what, error)

        try:
            return Adoption(
                artifact,
                place,
                str(path),
                publish=self._publish,
                is_wanted=lambda: not self.in_use(place.key),
                on_failure=on_failure,
                ended=self._ended,
            )
        except OSError as error:
            on_failure(error)
            return None

    def _publish(
        self, place: CachePaths, path: str, descriptor: int, sums: array[int], *, verified: bool
    ) -> None:
        """Make a whole file, open as `descriptor`, the content of a place. Raises `OSError`."""
        with opening(descriptor):
            is_held(descriptor)
            found = os.fstat(descriptor)
            with self._taking_in:  # two of one content, or their files would be mixed
                os.replace(path, place.path)  # noqa: PTH105 - paths are text here
                write_sidecar(place.sidecar, found.st_size, found.st_ino, sums, verified=verified)
        self.forget(place.key)
        self._keeper.came(found.st_size)

    def pin(self, artifact: Artifact) -> None:
        """Fetch it whole in the background and never evict it. Raises `OSError`."""
        place = self._places.of(artifact)
        content = self.open(artifact)
        try:
            make_private(os.path.dirname(place.pin))  # noqa: PTH120
            Path(place.pin).touch(mode=0o600)
        except OSError:
            content.close()
            raise

        def done(error: BaseException | None) -> None:
            if error is not None:
                _log.warning("%s is pinned but not wholly here: %s", artifact.id, error)
            content.close()

        content.request_all(done)

    def unpin(self, artifact: Artifact) -> None:
        """Let it be evicted again."""
        Path(self._places.of(artifact).pin).unlink(missing_ok=True)

    def key_of(self, artifact: Artifact) -> str:
        """The key of an artifact's content in `survey`."""
        return self._places.of(artifact).key

    def survey(self) -> list[CachedContent]:
        """Every content that is there, the last used first. Walks the directory."""
        contents = []
        for one in eviction_order.survey(self._places):
            header = header_of(one.place)
            if header is not None:
                size_bytes, cached_bytes, verified = header
                used_at = datetime.fromtimestamp(one.used_ns / 1e9, UTC)
                contents.append(
                    CachedContent(
                        one.place.key,
                        size_bytes,
                        cached_bytes,
                        one.disk_bytes,
                        verified,
                        one.pinned,
                        used_at,
                    )
                )
        return sorted(contents, key=lambda one: one.used_at, reverse=True)

    def clear(self) -> int:
        """Remove whatever is not open or pinned; the bytes that became free."""
        return self._keeper.clear()

    def in_use(self, key: str) -> bool:
        """Whether anybody has the content open."""
        with self._lock:
            return key in self._open

    def forget(self, key: str) -> None:
        """Its files are being removed: nothing is known of it any more."""
        with self._lock:
            self._known.pop(key, None)
            self._usages.pop(key, None)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Check every grain that is stored; what is wrong is dropped and fetched again when read.

        `progress` gets the contents checked and the contents in all.
        """
        places = list(self._places.all())
        grains = dropped = 0
        for number, place in enumerate(places, 1):
            if not self.in_use(place.key):
                checked, bad = check_grains(place)
                grains, dropped = grains + checked, dropped + bad
            if progress is not None:
                progress(number, len(places))
        return VerifyReport(len(places), grains, dropped)

    def all_open(self) -> list[CachedFile]:
        """The contents that somebody has open."""
        with self._lock:
            return list(self._open.values())
