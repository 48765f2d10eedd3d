"""Builds the rooms, introduces them to each other, and closes them in reverse.

The rooms never import their siblings: what one has to tell another goes through a callback that is
wired here and nowhere else.

    outbox ── an upload is complete ──▶ cache adopts the spool file, catalog lists the artifact
    outbox ── asks for a hash ────────▶ catalog's snapshot
    tree   ── asks what is there ─────▶ catalog, cache, outbox
    kernel ── drives ─────────────────▶ tree

There are two users. A `Mount` has every room and lives as long as its mount point. A `Client` has
what a single command needs (`ls`, `put`, `get`, `cache`, `watch`), and starts a thread only for
what it does. A read-only mount has no outbox: no ``drop/``, no slot of the spool, no journal.

Nothing here starts before `Mount.run` or `Client.__enter__`: a daemon forks first. A mount ends in
the order that loses nothing: the mount point goes (no new writes), pending uploads get their time,
the outbox closes (what is left stays in the spool for the next mount), the network is cut, then
what waited on it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import urlsplit

from artifactfs import __version__
from artifactfs.cache import CachedContent, DiskCache
from artifactfs.catalog import Catalog
from artifactfs.config import Config
from artifactfs.doctor import Check, doctor
from artifactfs.errors import (
    Cancelled,
    Conflict,
    Gone,
    RemoteError,
)
from artifactfs.fuse.binding import Binding, MountOptions
from artifactfs.fuse.mount_checks import (
    MountedFilesystem,
    abort,
    answers,
    check_fuse,
    check_mountpoint,
    clean_stale,
    find_mount,
    is_stale,
    kept_by,
    mounts,
    unmount,
)
from artifactfs.fuse.select import make as make_binding
from artifactfs.fuse.user_namespace import enter_own_namespace
from artifactfs.jobs import (
    JobRegistry,
    JobWatch,
    WatchedJob,
    follow_log,
    pretty,
    read_log,
    read_result,
)
from artifactfs.metrics import MetricsServer
from artifactfs.model import Artifact
from artifactfs.outbox import (
    EntryState,
    Outbox,
    Uploader,
    UploadLog,
    count_files,
    service_directory,
)
from artifactfs.remote import Service
from artifactfs.systemd import (
    NOBODY,
    SystemdNotifier,
    SystemdSession,
)
from artifactfs.vfs import ArtifactTree, names_of

__all__ = [
    "CachedContent",
    "Check",
    "Client",
    "Mount",
    "MountedFilesystem",
    "WatchedJob",
    "abort",
    "clean_stale",
    "doctor",
    "enter_own_namespace",
    "find_mount",
    "is_stale",
    "kept_by",
    "mounts",
    "names_of",
    "unmount",
]

_log = logging.getLogger(__name__)

_DIGITS = 8
_DRAIN_STEP_S = 0.5
_ENDING = (signal.SIGTERM, signal.SIGINT)
_PIECE_BYTES = 4 << 20
_STARTED_AT = datetime.now(UTC)
_CLOSE_S = 10.0
_NAMES_S = 3.0
_COLLECT_AT = (50_000, 20, 50)
"""A listing makes up to a million objects that all stay: looking through them for garbage again and
again, as `gc` does unless it is told otherwise, takes a third of the time."""


def _open_service(config: Config) -> Service:
    return Service(
        config.url,
        config.token,
        config.http,
        external_allow_private=config.external.allow_private,
        pool_size=config.read.connections + config.upload.connections + 16,
    )


def _open_store(config: Config, service: Service) -> DiskCache:
    return DiskCache(
        config.cache.directory,
        service.downloads,
        origin=service.origin,
        size_bytes=config.cache.size_bytes,
        min_free_bytes=config.cache.min_free_bytes,
        window_max_bytes=config.read.window_max_bytes,
        connections=config.read.connections,
        read_timeout_s=config.read.timeout_s,
    )


class Client:
    """The rooms that one command needs, without a mount.

    Use it in a ``with`` block: the cache starts when it is entered and everything ends when it is
    left, also after Ctrl-C.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._service = _open_service(config)
        self._store: DiskCache | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._service.close()
        if self._store is not None:
            self._store.close()

    @property
    def store(self) -> DiskCache:
        """The cache, opened when it is first needed."""
        if self._store is None:
            self._store = _open_store(self._config, self._service)
            self._store.start()
        return self._store

    def check(self) -> None:
        """Reach the service and have the token accepted, or raise what stands in the way."""
        self._service.check()

    def artifacts(self, deadline_s: float | None = None) -> list[Artifact]:
        """Every artifact, newest first; within so many seconds, or as long as requests may take."""
        listed = self._service.artifacts.list(deadline_s=deadline_s)
        return sorted(listed, key=lambda one: (one.created_at, one.id), reverse=True)

    def names(self) -> dict[str, Artifact]:
        """Every artifact by its name below ``artifacts/`` in a mount."""
        return names_of(self.artifacts())

    def find(self, what: str) -> Artifact:
        """The artifact of that name, id or SHA-256 (or at least eight of its first digits).

        Raises `Gone` with a suggestion if there is none, `Conflict` if several hashes begin so.
        """
        artifacts = self.artifacts()
        names = names_of(artifacts)
        if what in names:
            return names[what]
        digits = what.lower().removeprefix("sha256:")
        by_hash: dict[str, Artifact] = {}
        for artifact in artifacts:
            if artifact.id == what:
                return artifact
            if artifact.sha256 and len(digits) >= _DIGITS and artifact.sha256.startswith(digits):
                by_hash.setdefault(artifact.sha256, artifact)
        if len(by_hash) > 1:
            raise Conflict(f"{len(by_hash)} contents begin with {what}", remedy="give more digits")
        if by_hash:
            return by_hash.popitem()[1]
        close = difflib.get_close_matches(what, names, n=1)
        remedy = f"did you mean {close[0]}?" if close else "`artifactfs ls` shows what there is"
        raise Gone(f"there is no artifact {what}", remedy=remedy)

    def put(
        self,
        path: Path,
        name: str | None,
        *,
        progress: Callable[[int, int], None],
        cancelled: threading.Event,
    ) -> Artifact:
        """Upload one file as `name`, or under its own name, and wait until it is safe.

        `progress` gets the bytes sent and the bytes in all. Raises what the service or the disk
        said; `Cancelled` once `cancelled` is set.
        """
        uploader = Uploader(self._service.uploads, self._config.upload)
        return uploader.upload_file(path, name or path.name, progress=progress, cancelled=cancelled)

    def copy(self, artifact: Artifact, name: str) -> Artifact | None:
        """List an artifact's content under another name as well, without reading or sending it.

        None if the service has no such call or would list an older artifact, or there is no hash.
        """
        if artifact.sha256 is None or artifact.size_bytes is None:
            return None
        uploader = Uploader(self._service.uploads, self._config.upload)
        try:
            return uploader.list_again(artifact.sha256, artifact.size_bytes, name)
        finally:
            uploader.close()

    def put_external(
        self, url: str, name: str, *, sha256: str | None, size_bytes: int | None
    ) -> Artifact:
        """List a reference to `url` as an artifact; nothing is sent or read."""
        return self._service.artifacts.add_external(url, name, sha256=sha256, size_bytes=size_bytes)

    def get(
        self,
        artifact: Artifact,
        target: BinaryIO,
        *,
        progress: Callable[[int, int | None], None],
        cancelled: threading.Event,
    ) -> int:
        """Write an artifact's bytes to `target`, through the cache, and return how many.

        `progress` gets the bytes written and the bytes in all, None where unknown.
        """
        content = self.store.open(artifact)
        try:
            written = 0
            while piece := content.read(written, written + _PIECE_BYTES, cancelled=cancelled):
                if cancelled.is_set():
                    raise Cancelled(f"stopped while reading {artifact.filename}")
                target.write(piece)
                written += len(piece)
                progress(written, content.size_bytes)
            return written
        finally:
            content.close()

    def log(self, job_id: str, write: Callable[[str], None]) -> None:
        """Write what a job has printed so far. Raises `Gone`, `NotAllowed`."""
        read_log(self._service.jobs, job_id, write)

    def follow_log(
        self, job_id: str, write: Callable[[str], None], *, cancelled: threading.Event
    ) -> None:
        """Write what a job prints, until it has ended. Raises `Cancelled` once that is set."""
        follow_log(self._service.jobs, job_id, write, cancelled)

    def result(
        self, job_id: str, *, raw: bool, wait: bool, cancelled: threading.Event
    ) -> bytes | None:
        """A job's result as the service sent it, or set out for people; None if there is none."""
        found = read_result(self._service.jobs, job_id, wait=wait, cancelled=cancelled)
        return found if raw or found is None else pretty(found)

    def watch(
        self,
        job_ids: Sequence[str],
        project: str | None,
        tell: Callable[[WatchedJob], None],
        *,
        cancelled: threading.Event,
    ) -> list[WatchedJob]:
        """Tell of every change of these jobs, or of a project's, until all have ended."""
        return JobWatch(self._service.jobs, job_ids, project).run(tell, cancelled)

    def cached(self) -> tuple[list[CachedContent], dict[str, list[str]], RemoteError | None]:
        """What lies in the cache, the last used first, and the names of each by its key.

        The names are those that the service lists now; if it does not answer within seconds there
        are none, and the third is why.
        """
        contents = self.store.survey()
        names: dict[str, list[str]] = {}
        try:
            listed = self.artifacts(_NAMES_S) if contents else []
        except RemoteError as error:
            return contents, names, error
        for name, artifact in sorted(names_of(listed).items()):
            names.setdefault(self.store.key_of(artifact), []).append(name)
        return contents, names, None

    def cache_clear(self) -> int:
        """Remove every content that is not open or pinned; the bytes that became free."""
        return self.store.clear()

    def cache_verify(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Read everything that is cached and drop what is not what it should be."""
        return dataclasses.asdict(self.store.verify(progress))


class Mount:
    """One mount and all its rooms, from the check before it to the last upload after it."""

    def __init__(self, config: Config, mountpoint: Path) -> None:
        """Check all that can be checked before anything is mounted.

        Raises `MountError` for the mount point and FUSE, `RemoteError` for the service and the
        token, `OSError` and `CacheError` for the directories.
        """
        self._config = config
        self._binding: Binding = make_binding(config.fuse, config.cache.directory)
        check_fuse(self._binding.name, allow_other=config.allow_other)
        self.mountpoint = check_mountpoint(mountpoint)
        self._service = _open_service(config)
        self._ended = threading.Event()
        self._spool_facts: dict[str, object] = {}
        try:
            self._service.check()
        except BaseException:
            self._service.close()
            raise

    def run(self, on_ready: Callable[[], None], supervisor: SystemdNotifier = NOBODY) -> None:
        """Mount, call `on_ready` when the mount answers, serve, and return when all has ended.

        For the main thread. Ends at ``umount``, SIGTERM or SIGINT; pending uploads then get
        `unmount.timeout`, a second signal cuts that short, and what is left stays in the spool.
        `supervisor` hears of all that.
        """
        with contextlib.ExitStack() as closing:
            closing.callback(gc.set_threshold, *gc.get_threshold())
            gc.set_threshold(*_COLLECT_AT)
            closing.callback(self._service.close)
            store = _open_store(self._config, self._service)
            catalog = Catalog(self._service.artifacts.list, ttl_s=self._config.list.ttl_s)

            def uploaded(artifact: Artifact, spooled: Path | None) -> None:
                if spooled is not None:
                    store.adopt(artifact, spooled)
                catalog.add(artifact)

            outbox = None if self._config.mount.read_only else self._outbox(catalog, uploaded)
            jobs = JobRegistry(
                self._service.jobs,
                self._config.cache.directory,
                origin=self._service.origin,
                ttl_s=self._config.list.ttl_s,
            )
            tree = ArtifactTree(
                catalog,
                store,
                outbox,
                facts=self._facts,
                jobs=jobs,
                on_leave=self._leave_at_once,
            )
            store.start()
            closing.callback(store.close)
            catalog.start()
            closing.callback(catalog.close)
            jobs.start()
            closing.callback(jobs.close)
            if outbox is not None:
                outbox.start()
                closing.callback(outbox.close, _CLOSE_S)
            else:
                self._look_into_spool()
            closing.callback(self._service.close)  # first: nothing waits for an answer any more
            tree.start()
            closing.callback(tree.close)
            watch = SystemdSession(
                supervisor,
                answers=lambda: answers(self.mountpoint),
                says=lambda: _in_words(catalog, outbox),
            )
            closing.callback(watch.close)

            def ready() -> None:
                on_ready()
                watch.ready()

            options = MountOptions(
                source=urlsplit(self._config.url).netloc,
                uid=os.getuid(),
                gid=os.getgid(),
                allow_other=self._config.allow_other,
                read_only=self._config.mount.read_only,
                noexec=self._config.mount.noexec,
            )
            try:
                with self._exposed(tree):
                    self._binding.run(tree, self.mountpoint, options, ready)
            finally:
                self._drain(outbox, watch)

    def _outbox(
        self, catalog: Catalog, on_uploaded: Callable[[Artifact, Path | None], None]
    ) -> Outbox:
        return Outbox(
            self._config.spool_directory,
            self._service.uploads,
            origin=self._service.origin,
            upload=self._config.upload,
            drop=self._config.drop,
            spool=self._config.spool,
            known=lambda digest: catalog.snapshot.by_sha256.get(digest),
            on_uploaded=on_uploaded,
            audit=UploadLog(self._config.state.directory / "uploads.log"),
        )

    def _exposed(self, tree: ArtifactTree) -> contextlib.AbstractContextManager[object]:
        """Metrics over HTTP while it is mounted: the next mount may want the same port."""
        address = self._config.metrics.listen
        return MetricsServer(address, tree.metrics) if address else contextlib.nullcontext()

    def _leave_at_once(self, wanted: bool) -> None:
        if wanted:
            self._ended.set()
        else:
            self._ended.clear()

    def _drain(self, outbox: Outbox | None, watch: SystemdSession) -> None:
        """Give pending uploads their time; a signal cuts it short."""
        files, size_bytes = outbox.pending() if outbox is not None else (0, 0)
        if outbox is None or not files or outbox.trouble:
            watch.stopping("unmounted", _CLOSE_S)
            return
        watch.stopping(
            f"unmounted; {_files(files, 'is', 'are')} still being uploaded",
            self._config.unmount.timeout_s + 2 * _CLOSE_S,
        )
        _log.info(
            "unmounted; %s still being uploaded, %d bytes", _files(files, "is", "are"), size_bytes
        )
        deadline_s = time.monotonic() + self._config.unmount.timeout_s
        with _signals_set(self._ended):
            while not self._ended.is_set() and time.monotonic() < deadline_s:
                if not outbox.wait(timeout_s=_DRAIN_STEP_S):
                    return
        left = [entry for entry in outbox.entries() if entry.state is not EntryState.UPLOADED]
        for entry in left:
            _log.warning("%s is not uploaded (%s)", entry.path, entry.error or entry.state)
        if left:
            stay = _files(len(left), "stays", "stay")
            resume = "resumes" if len(left) == 1 else "resume"
            _log.warning("%s in %s and %s at the next mount", stay, outbox.directory, resume)

    def _look_into_spool(self) -> None:
        """Count, once, the files that a read-only mount leaves in the spool."""
        spool = service_directory(self._config.spool_directory, self._service.origin)
        files = count_files(spool)
        self._spool_facts = {"spool": str(spool), "spool_files": files}
        if files:
            stay = _files(files, "stays", "stay")
            _log.warning("%s in %s: a read-only mount uploads nothing", stay, spool)

    def _facts(self) -> dict[str, object]:
        return {
            "version": __version__,
            "url": self._config.url,
            "mountpoint": str(self.mountpoint),
            "pid": os.getpid(),
            "started_at": _STARTED_AT.isoformat().replace("+00:00", "Z"),
            "binding": {"name": self._binding.name, **self._binding.facts},
            "token": self._config.token.name,
            "read_only": self._config.mount.read_only,
            **self._spool_facts,
        }


def _in_words(catalog: Catalog, outbox: Outbox | None) -> str:
    """The mount in one line, for whoever looks at the service."""
    files, size_bytes = outbox.pending() if outbox is not None else (0, 0)
    pending = f", {_files(files)} ({size_bytes:,} bytes) to upload" if files else ""
    stale = ", the service does not answer" if catalog.snapshot.stale or catalog.overdue else ""
    count = len(catalog.snapshot.artifacts)
    return f"{count:,} {'artifact' if count == 1 else 'artifacts'}{pending}{stale}"


def _files(count: int, one_does: str = "", many_do: str = "") -> str:
    return (f"1 file {one_does}" if count == 1 else f"{count:,} files {many_do}").rstrip()


@contextlib.contextmanager
def _signals_set(event: threading.Event) -> Iterator[None]:
    """Have SIGTERM and SIGINT set `event` for as long as the block runs."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        _ = number, frame
        event.set()

    before = {number: signal.signal(number, on_signal) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
