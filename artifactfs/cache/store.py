"""The cache as a whole: which contents are open, what is known of the others, how much there is.

Everyone who reads opens a content here and closes it again. While it is open somewhere, there is
one `Shared` for it (`_open`); afterwards its state stays in a bounded LRU for a while (`_known`),
so that opening it again checks no grain a second time. A content that twice did not have its
SHA-256 is refused for ten minutes (`_refused`), so that a broken one is not downloaded again and
again. What ``ls -ls`` wants to know of contents that are not open comes from their sidecars' first
bytes, remembered for some seconds.

One thread, the *keeper*, brings those first bytes up to date once a second, ends waits that are
overdue, and surveys and evicts (``evict``). Two mounts can share a directory (``sidecar``): what
one has fetched the other finds, and eviction respects what others have open.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cachetools import LRUCache, TTLCache

from artifactfs.artifact import Artifact
from artifactfs.cache import evict
from artifactfs.cache.allowance import Allowance
from artifactfs.cache.content import Content, Counters, Shared, is_held
from artifactfs.cache.flights import FlightCrew, Source
from artifactfs.cache.grains import (
    GRAIN_BYTES,
    GrainTable,
    checksum,
    grain_count,
    span_of,
)
from artifactfs.cache.places import Place, Places
from artifactfs.cache.sidecar import HEADER_BYTES, Sidecar, peek, write_sidecar
from artifactfs.cache.verifier import Verifier
from artifactfs.errors import BadAnswer, CacheError, Cancelled, ContentChanged
from artifactfs.spans import Span

KNOWN_BYTES = 32 << 20
ALLOWED_WINDOWS = 4
MEMORY_BYTES = 64 << 20
USAGES = 1 << 17
WHOLE_PIECE_BYTES = 1 << 18
USAGE_S = 30.0
REFUSED = 4096
REFUSED_S = 600.0
KEEP_S = 1.0
FIRST_SURVEY_S = 5.0
_JOIN_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a content is cached; `size_bytes` is None while nobody knows."""

    cached_bytes: int
    size_bytes: int | None
    verified: bool


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What a store holds and has done since it started. `cached_bytes` is the last survey's."""

    cached_bytes: int
    size_bytes: int
    open_contents: int
    hits: int
    misses: int
    read_bytes: int
    fetched_bytes: int
    evicted_bytes: int
    verified_bytes: int
    mismatches: int
    refetched_grains: int
    uncached_grains: int


@dataclass(frozen=True, slots=True)
class CachedContent:
    """One content of the cache directory. `key` is its SHA-256, or what `Store.key_of` says."""

    key: str
    size_bytes: int
    cached_bytes: int
    disk_bytes: int
    verified: bool
    pinned: bool
    used_at: datetime


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What checking every cached grain has shown."""

    contents: int
    grains: int
    dropped_grains: int


class GrainMemory:
    """Grains that the disk did not take, the latest 64 MiB of them. Guarded by `_lock`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grains: LRUCache[tuple[str, int], bytes] = LRUCache(MEMORY_BYTES, len)

    def put(self, key: str, grain: int, data: bytes) -> None:
        """Keep a grain."""
        with self._lock:
            self._grains[key, grain] = data

    def get(self, key: str, grain: int) -> bytes | None:
        """A grain, if it is still here."""
        with self._lock:
            return self._grains.get((key, grain))


class _ToFile:
    """A sink that writes everything to a file, in the order in which it comes."""

    def __init__(self, descriptor: int, ended: threading.Event) -> None:
        self._descriptor = descriptor
        self._ended = ended
        self._buffer = memoryview(bytearray(WHOLE_PIECE_BYTES))
        self._offset = 0

    def version(self, _etag: str) -> None:
        return

    def room(self, offset: int) -> memoryview:
        if offset < self._offset:  # it begins anew, and may be shorter now
            os.ftruncate(self._descriptor, offset)
        self._offset = offset
        return self._buffer

    def take(self, count: int, *, more: bool) -> bool:  # noqa: ARG002 - a sink's
        data = self._buffer[:count]
        while data:
            written = os.pwrite(self._descriptor, data, self._offset)
            self._offset += written
            data = data[written:]
        return not self._ended.is_set()

    def pause(self) -> None:
        return


def _table_bytes(shared: Shared) -> int:
    return 512 + 2 * len(shared.table.flags)


class Store:
    """The cache directory of one mount.

    `_lock` guards `_open`, `_known`, `_usages`, `_refused` and `_changed`; no I/O while it is held.
    """

    def __init__(
        self,
        directory: Path,
        source: Source,
        *,
        origin: str,
        size_bytes: int,
        min_free_bytes: int,
        window_max_bytes: int,
        connections: int,
        read_timeout_s: float,
    ) -> None:
        self._places = Places(directory, origin)
        self._source = source
        self._budget = evict.Budget(size_bytes, min_free_bytes)
        self._window_max_bytes = window_max_bytes
        self._allowance = Allowance(ALLOWED_WINDOWS * window_max_bytes)
        self._read_timeout_s = read_timeout_s
        self._counters = Counters()
        self._memory = GrainMemory()
        self._crew = FlightCrew(source, connections, read_timeout_s)
        self._verifier = Verifier()
        self._lock = threading.Lock()
        self._open: dict[str, Shared] = {}
        self._known: LRUCache[str, Shared] = LRUCache(KNOWN_BYTES, _table_bytes)
        self._usages: TTLCache[str, Usage] = TTLCache(USAGES, USAGE_S)
        self._refused: TTLCache[str, BaseException] = TTLCache(REFUSED, REFUSED_S)
        self._changed: dict[str, bool] = {}  # a change that the next opening is to be told of
        self._surveyed_bytes = 0
        self._fetched_at_survey = 0
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="cache", daemon=True)

    def start(self) -> None:
        """Make the directory and start the threads. Raises `CacheError`."""
        try:
            self._places.prepare()
        except OSError as error:
            raise CacheError(
                f"the cache directory {self._places.root.parent} cannot be used: {error.strerror}",
                remedy="choose another with --cache-dir or cache.dir",
            ) from error
        self._crew.open()
        self._verifier.open()
        self._keeper.start()

    def close(self) -> None:
        """End downloads and threads, and write what is not written yet."""
        self._ended.set()
        self._crew.close()
        self._verifier.close()
        if self._keeper.ident is not None:
            self._keeper.join(_JOIN_S)
        for shared in self._all_open():
            shared.save()

    # Contents

    def open(self, artifact: Artifact) -> Content:
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
                shared.retain()
                return self._content(shared)
            known = self._known.pop(place.key, None)
        if known is not None and not self._fits(known, artifact):
            known = None
        fresh = known or self._load(artifact, place, self._size_of(artifact, place))
        fresh.retain()
        fresh.open_file()
        with self._lock:
            shared = self._open.setdefault(place.key, fresh)
            shared.opens += 1
            if shared is not fresh:
                shared.retain()
            if shared.cancelled.is_set():
                shared.cancelled = threading.Event()
        if shared is not fresh:
            fresh.release()
        else:
            with contextlib.suppress(OSError):
                os.utime(place.sidecar)
        if shared.to_verify:
            self._verifier.follow(shared)
        return self._content(shared)

    def _fits(self, shared: Shared, artifact: Artifact) -> bool:
        if artifact.size_bytes is not None and artifact.size_bytes != shared.size_bytes:
            raise BadAnswer(
                f"{artifact.filename!r} ({artifact.id}): the service says {artifact.size_bytes} "
                f"bytes, the content has {shared.size_bytes}"
            )
        return True

    def _content(self, shared: Shared) -> Content:
        ended = False

        def closed() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._close(shared)

        changed = shared.failed is None and self._changed.pop(shared.place.key, False)
        return Content(
            shared, self._read_timeout_s, self._counters, closed, is_as_before=not changed
        )

    def _close(self, shared: Shared) -> None:
        with self._lock:
            shared.opens -= 1
            last = not shared.opens
            if last:
                self._open.pop(shared.place.key, None)
                shared.cancelled.set()
                if isinstance(shared.failed, ContentChanged):
                    self._changed[shared.place.key] = True
                elif shared.failed is not None:
                    self._refused[shared.place.key] = shared.failed
        if last:
            shared.closed_everywhere()
            shared.save()
            usage = Usage(shared.table.cached_bytes, shared.size_bytes, shared.table.verified)
            with self._lock:
                self._usages[shared.place.key] = usage
                if shared.place.key not in self._open and shared.failed is None:
                    with contextlib.suppress(ValueError):  # larger than all that is kept
                        self._known[shared.place.key] = shared
        shared.release()

    def _size_of(self, artifact: Artifact, place: Place) -> int:
        if artifact.size_bytes is not None:
            return artifact.size_bytes
        header = self._header(place)
        if header is not None:
            return header[0]
        size_bytes = self._source.probe(artifact).size_bytes
        if not isinstance(size_bytes, int):
            size_bytes = self._fetch_whole(artifact, place)
        return size_bytes

    def _fetch_whole(self, artifact: Artifact, place: Place) -> int:
        """Fetch what has no size but an end; what is known afterwards is how long it was."""
        directory = Path(place.path).parent
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = directory / f"{secrets.token_hex(8)}.new"
        try:
            with temporary.open("xb", buffering=0) as file:
                is_held(file.fileno())
                self._source.stream(artifact, Span(0, 0), _ToFile(file.fileno(), self._ended))
                if self._ended.is_set():
                    raise Cancelled("the mount is ending")
                size_bytes = os.fstat(file.fileno()).st_size
            self._take_in(temporary, place, size_bytes, verified=False)
            return size_bytes
        finally:
            temporary.unlink(missing_ok=True)

    def _load(self, artifact: Artifact, place: Place, size_bytes: int) -> Shared:
        return Shared(
            replace(artifact, size_bytes=size_bytes),  # so that every answer is compared with it
            place,
            size_bytes,
            GrainTable.empty(size_bytes),
            window_max_bytes=self._window_max_bytes,
            allowance=self._allowance,
            memory=self._memory,
            flights=self._crew,
            verifier=self._verifier,
            counters=self._counters,
        )

    # What is known without opening

    def usage(self, artifact: Artifact) -> Usage:
        """How much of it is cached. At once."""
        place = self._places.of(artifact)
        with self._lock:
            shared = self._open.get(place.key)
            known = self._usages.get(place.key)
        if shared is not None:
            table = shared.table
            return Usage(table.cached_bytes, shared.size_bytes, table.verified)
        if known is None:
            header = self._header(place)
            if header is None:
                return Usage(0, artifact.size_bytes, False)
            known = Usage(header[1], header[0], header[2])
            with self._lock:
                self._usages[place.key] = known
        return known

    @staticmethod
    def _header(place: Place) -> tuple[int, int, bool] | None:
        try:
            descriptor = os.open(place.sidecar, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return peek(os.read(descriptor, HEADER_BYTES))
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def space(self) -> tuple[int, int]:
        """What the cache may hold and how much of that is left, in bytes. At once."""
        used_bytes = self._used_bytes()
        try:
            disk = os.statvfs(self._places.root)
            free_bytes = disk.f_bavail * disk.f_frsize - self._budget.min_free_bytes
        except OSError:
            free_bytes = 0
        left_bytes = min(self._budget.size_bytes - used_bytes, free_bytes)
        return self._budget.size_bytes, max(0, left_bytes)

    def _used_bytes(self) -> int:
        since_bytes = self._counters.fetched_bytes - self._fetched_at_survey
        return self._surveyed_bytes + max(0, since_bytes)

    def statistics(self) -> CacheStatistics:
        """Counters since the start. At once."""
        counted = self._counters
        with self._lock:
            open_contents = len(self._open)
        return CacheStatistics(
            cached_bytes=self._used_bytes(),
            size_bytes=self._budget.size_bytes,
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
        """Make a local file with this artifact's content its cached content.

        The file stays as it is: it is shared by a link where that is possible, else copied. False
        if that was not possible or there was no need; nothing is lost then.
        """
        place = self._places.of(artifact)
        if artifact.sha256 is None or artifact.size_bytes is None:
            return False
        with self._lock:
            if place.key in self._open:
                return False
            self._known.pop(place.key, None)
        try:
            self._take_in(path, place, artifact.size_bytes, verified=True)
        except OSError as error:
            _log.info("%s stays uncached: %s", artifact.id, error.strerror)
            return False
        finally:
            with self._lock:
                self._usages.pop(place.key, None)
        return True

    def _take_in(self, path: Path, place: Place, size_bytes: int, *, verified: bool) -> None:
        directory = Path(place.path).parent
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = directory / f"{secrets.token_hex(8)}.new"
        try:
            try:
                os.link(path, temporary)
            except OSError:
                shutil.copyfile(path, temporary)
                temporary.chmod(0o600)
            with temporary.open("rb", buffering=0) as file:
                is_held(file.fileno())
                if os.fstat(file.fileno()).st_size != size_bytes:
                    raise OSError(errno.EINVAL, "it has another size")
                sums = [
                    checksum(os.pread(file.fileno(), GRAIN_BYTES, start))
                    for start in range(0, size_bytes, GRAIN_BYTES)
                ]
            Path(place.sidecar).unlink(missing_ok=True)
            temporary.replace(place.path)
            write_sidecar(place.sidecar, size_bytes, sums, verified=verified)
        finally:
            temporary.unlink(missing_ok=True)
        self._surveyed_bytes += size_bytes

    def pin(self, artifact: Artifact) -> None:
        """Fetch it whole in the background and never evict it. Raises `OSError`."""
        place = self._places.of(artifact)
        content = self.open(artifact)
        try:
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
        for one in evict.survey(self._places):
            header = self._header(one.place)
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
        found = [one for one in evict.survey(self._places) if not one.pinned]
        return self._remove([one for one in found if not self._in_use(one.place.key)])

    def _in_use(self, key: str) -> bool:
        with self._lock:
            return key in self._open

    def _remove(self, victims: list[evict.Found]) -> int:
        freed_bytes = 0
        for victim in victims:
            with self._lock:
                self._known.pop(victim.place.key, None)
                self._usages.pop(victim.place.key, None)
            if evict.remove(victim.place):
                freed_bytes += victim.disk_bytes
        self._counters.evicted_bytes += freed_bytes
        self._surveyed_bytes = max(0, self._surveyed_bytes - freed_bytes)
        return freed_bytes

    def verify(self, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Check every grain that is stored; what is wrong is dropped and fetched again when read.

        `progress` gets the contents checked and the contents in all.
        """
        places = list(self._places.all())
        grains = dropped = 0
        for number, place in enumerate(places, 1):
            if not self._in_use(place.key):
                checked, bad = self._verify_one(place)
                grains, dropped = grains + checked, dropped + bad
            if progress is not None:
                progress(number, len(places))
        return VerifyReport(len(places), grains, dropped)

    def _verify_one(self, place: Place) -> tuple[int, int]:
        header = self._header(place)
        if header is None:
            evict.remove(place)
            return 0, 0
        size_bytes = header[0]
        checked = bad = right_bytes = 0
        with contextlib.suppress(OSError), contextlib.ExitStack() as files:
            sidecar = Sidecar(place.sidecar, size_bytes)
            files.callback(sidecar.close)
            file = files.enter_context(Path(place.path).open("rb", buffering=0))
            sums = sidecar.sums(0, grain_count(size_bytes))
            for grain, total in enumerate(sums):
                if not total:
                    continue
                checked += 1
                span = span_of(grain, grain + 1, size_bytes)
                data = os.pread(file.fileno(), len(span), span.start)
                if len(data) != len(span) or checksum(data) != total:
                    sidecar.forget(grain, grain + 1)
                    bad += 1
                else:
                    right_bytes += len(span)
            if bad:
                sidecar.describe(right_bytes, verified=False)
        return checked, bad

    # The keeper

    def _all_open(self) -> list[Shared]:
        with self._lock:
            return list(self._open.values())

    def _keep(self) -> None:
        survey_at_s = time.monotonic() + FIRST_SURVEY_S
        while not self._ended.wait(KEEP_S):
            now_s = time.monotonic()
            try:
                for shared in self._all_open():
                    shared.overdue(now_s)
                    shared.save()
                fetched_bytes = self._counters.fetched_bytes - self._fetched_at_survey
                due = survey_at_s is not None and now_s >= survey_at_s
                if due or fetched_bytes > self._budget.size_bytes // 16 or self._is_tight():
                    if due or fetched_bytes > 0:
                        self._survey()
                    survey_at_s = float("inf")
            except Exception:  # noqa: BLE001 - without its keeper the cache would grow for ever
                _log.exception("the cache could not be kept in order")

    def _is_tight(self) -> bool:
        return self._used_bytes() > self._budget.size_bytes or self._free_bytes() < (
            self._budget.min_free_bytes
        )

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._places.root).free
        except OSError:
            return 1 << 62

    def _survey(self) -> None:
        fetched_bytes = self._counters.fetched_bytes
        found = list(evict.survey(self._places))
        self._surveyed_bytes = sum(one.disk_bytes for one in found)
        self._fetched_at_survey = fetched_bytes
        self._places.remove_older()
        excess = evict.excess_bytes(self._surveyed_bytes, self._free_bytes(), self._budget)
        if excess:
            excess -= self._remove(evict.choose(found, excess, self._in_use))
            for shared in self._all_open():
                if excess > 0:
                    excess -= self._punch(shared, excess)

    def _punch(self, shared: Shared, wanted_bytes: int) -> int:
        freed_bytes = shared.punch(wanted_bytes)
        self._counters.evicted_bytes += freed_bytes
        self._surveyed_bytes = max(0, self._surveyed_bytes - freed_bytes)
        return freed_bytes
