"""One content in this process: its file, its grains, and the readers who wait for some of them.

A read of one opening (``content``) goes like this:

* `try_read`: if every grain that it touches is CHECKED, one ``pread``. Grains that are only STORED
  are checked against their sums first, and refetched if they are not right.
* `request`: tells the window where reading goes on, claims what is neither here nor on its way,
  hands that to the flights (``flights``), and waits without a thread: when the last grain that it
  needs arrives, its callback is called by the flight that brought it.

Flights bring pieces in rising order (``arrival`` writes and sums them); `note` takes down which
grains are whole and lets the readers go whose last grain it was. Readers never wait for the end of
a flight. What the disk does not take is kept in memory for a while, so that reading goes on
uncached. The whole is hashed behind the bytes as they come (``verifier``).

A file that is larger than all the cache may hold gives back what was used least recently while it
is open (`punch`): a hole in the file, and its grains are absent again.

Other mounts may use the same files. Before a flight begins it is reserved (`reserve`), and what
another mount has fetched meanwhile is taken over instead (``sidecar``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import xxhash

from artifactfs.artifact import Artifact
from artifactfs.cache.allowance import Allowance
from artifactfs.cache.figures import Counters
from artifactfs.cache.files import OPENING_S, open_held, wait_until
from artifactfs.cache.grains import (
    ABSENT,
    CHECKED,
    GRAIN_BYTES,
    IN_MEMORY,
    STORED,
    GrainTable,
    checksum,
    grains_of,
    runs,
    span_of,
)
from artifactfs.cache.places import Place
from artifactfs.cache.sidecar import Sidecar
from artifactfs.cache.window import Window
from artifactfs.errors import Cancelled, ContentChanged, ContentMismatch, TimedOut
from artifactfs.fallocate import KEEP_SIZE, PUNCH_HOLE, fallocate
from artifactfs.spans import Span

Done = Callable[[BaseException | None], None]

MOST_ATTEMPTS = 2
STRETCH_BYTES = 4 << 20
SPARED_S = 5

_log = logging.getLogger(__name__)


class Memory(Protocol):
    """Where grains are kept that the disk does not take."""

    def put(self, key: str, grain: int, data: bytes) -> None: ...
    def get(self, key: str, grain: int) -> bytes | None: ...


class Flights(Protocol):
    """Who fetches."""

    def start(self, shared: Shared, span: Span, *, urgent: bool) -> None: ...


class Verifying(Protocol):
    """Who hashes the whole."""

    def follow(self, shared: Shared) -> None: ...


@dataclass(slots=True, eq=False)
class Waiter:
    """A reader who waits for the grains [first, stop)."""

    shared: Shared
    first: int
    stop: int
    done: Done
    deadline_s: float

    def cancel(self) -> None:
        """Stop waiting; the callback is not called afterwards, or has been already."""
        self.shared.forget(self)


@dataclass(slots=True)
class Following:
    """How far a content is hashed, from its beginning; of the bytes of one epoch."""

    digest: Any
    position: int
    epoch: int


class Shared:
    """One content in this process.

    `lock` guards the grain table, the claims, the window, the waiters and who uses the file; no I/O
    is done while it is held.
    """

    def __init__(
        self,
        artifact: Artifact,
        place: Place,
        size_bytes: int,
        table: GrainTable,
        *,
        window_max_bytes: int,
        memory: Memory,
        flights: Flights,
        verifier: Verifying,
        counters: Counters,
        allowance: Allowance,
    ) -> None:
        self.artifact = artifact
        self.place = place
        self.size_bytes = size_bytes
        self.table = table
        self.lock = threading.Lock()
        self.opens = 0
        self.unsaved = False
        self.checked_whole = False
        self.cancelled = threading.Event()
        self.failed: BaseException | None = None
        self.following: Following | None = None  # the verifying thread's
        self.epoch = 0
        self._attempts = 0
        self._claims = bytearray(len(table.flags))
        self._window = Window(window_max_bytes, allowance)
        self._waiters: list[Waiter] = []
        self._memory = memory
        self._flights = flights
        self._verifier = verifier
        self._counters = counters
        self._descriptor = -1
        self._sidecar: Sidecar | None = None
        self._generation: int | None = None
        self._version = 0
        self._users = 0
        self._is_passed_through = False
        self._used_s = array("Q", bytes(8 * -(-size_bytes // STRETCH_BYTES)))
        self._told_of_disk = False

    # The file

    def open_file(self) -> None:
        """Open the content's file, made sparse at its full size, and its sidecar. Never raises."""
        if self._descriptor >= 0:
            return
        try:
            self._descriptor = open_held(self.place.path)
            self._open_sidecar(os.fstat(self._descriptor).st_size == self.size_bytes)
        except OSError as error:
            with self.lock:
                self._clear()
                descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)
            self.tell_of_disk(error)

    def _open_sidecar(self, has_its_size: bool) -> None:
        sidecar = Sidecar(self.place.sidecar, self.size_bytes)
        try:
            end_s = time.monotonic() + OPENING_S
            while not sidecar.share():
                wait_until(end_s, "another mount gives back parts of it")
            if not has_its_size:
                sidecar.renew()
                os.ftruncate(self._descriptor, self.size_bytes)
            flags, version = sidecar.flags(), sidecar.version()
        except BaseException:
            sidecar.close()
            raise
        with self.lock:
            if sidecar.generation == self._generation:
                self._take_over_known(flags)
            else:
                self._clear()
                self.table.flags[:] = flags
                self.table.verified = sidecar.is_verified and self.table.complete
            self._generation = sidecar.generation
            self._version = version
            self._sidecar = sidecar

    def _take_over_known(self, flags: bytearray) -> None:
        """The files are those that were closed before; others may have changed. `lock` is held."""
        known = self.table.flags
        for start, stop in runs(flags, ABSENT, 0, len(flags)):
            if known.find(CHECKED, start, stop) >= 0:
                self.checked_whole = False
                self.epoch += 1
            known[start:stop] = bytes(stop - start)
        for start, stop in list(runs(known, ABSENT, 0, len(flags))):
            known[start:stop] = flags[start:stop]

    def pass_through(self) -> int | None:
        """The descriptor, for the kernel to read by itself, if every byte is here and right."""
        with self.lock:
            if not self.checked_whole or not self.table.on_disk or self._descriptor < 0:
                return None
            self._is_passed_through = True
            return self._descriptor

    def closed_everywhere(self) -> None:
        """The last opening is over, and so is the kernel's reading."""
        with self.lock:
            self._is_passed_through = False

    def punch(self, wanted_bytes: int) -> int:
        """Give back disk space, least recently used first; how many bytes.

        Not of what the kernel reads by itself, nor while another mount has the file open (there
        nobody would know that the bytes have gone), nor of a file that the outbox still has too.
        """
        descriptor, sidecar = self._descriptor, self._sidecar
        if descriptor < 0 or sidecar is None:
            return 0
        freed_bytes = 0
        try:
            if os.fstat(descriptor).st_nlink > 1 or not sidecar.own():
                return 0
            for first, stop in self._give_up(wanted_bytes):
                span = span_of(first, stop, self.size_bytes)
                sidecar.forget(first, stop)
                fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, span.start, len(span))
                freed_bytes += len(span)
        except OSError as error:
            _log.debug("no holes in %s: %s", self.artifact.id, error.strerror)
        finally:
            sidecar.share()
        return freed_bytes

    def _give_up(self, wanted_bytes: int) -> list[tuple[int, int]]:
        """Make grains absent; which. Readers that looked before see it by the epoch."""
        each = STRETCH_BYTES // GRAIN_BYTES
        spared_from_s = int(time.monotonic()) - SPARED_S
        gone: list[tuple[int, int]] = []
        with self.lock:
            if self._is_passed_through:
                return []
            flags = self.table.flags
            for stretch in sorted(range(len(self._used_s)), key=self._used_s.__getitem__):
                if wanted_bytes <= 0 or self._used_s[stretch] >= spared_from_s:
                    break
                first, stop = stretch * each, min((stretch + 1) * each, len(flags))
                if any(self._claims[first:stop]) or any(
                    waiter.first < stop and first < waiter.stop for waiter in self._waiters
                ):
                    continue
                for flag in (STORED, CHECKED):
                    for start, end in list(runs(flags, flag, first, stop)):
                        flags[start:end] = bytes(end - start)
                        gone.append((start, end))
                        wanted_bytes -= (end - start) * GRAIN_BYTES
            if gone:
                self.table.verified = self.checked_whole = False
                self.epoch += 1
                self.unsaved = True
        return gone

    def _clear(self) -> None:
        """Nothing is here from now on. `lock` is held."""
        self.table.clear()
        self.checked_whole = False
        self.epoch += 1

    def retain(self) -> None:
        """Keep the file open: for an opening, a flight, a verification."""
        with self.lock:
            self._users += 1

    def release(self) -> None:
        """The opposite of `retain`. The last one closes the file; it can be opened again.

        Bytes and grain table belong to one open file: as long as anything may still write to it or
        note what it wrote, neither the descriptor nor the table may become another file's.
        """
        with self.lock:
            self._users -= 1
            if self._users:
                return
            descriptor, self._descriptor = self._descriptor, -1
            sidecar, self._sidecar = self._sidecar, None
            self._window.forget()
        if sidecar is not None:
            sidecar.close()
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def descriptor(self) -> int:
        """The open file, or -1."""
        return self._descriptor

    def save(self) -> None:
        """Write down what may be known of it without opening it. Never raises."""
        with self.lock:
            if not self.unsaved or self._sidecar is None:
                return
            self.unsaved = False
            sidecar, table = self._sidecar, self.table
        self._write_down(lambda: sidecar.describe(table.cached_bytes, verified=table.verified))

    def _write_down(self, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            self.tell_of_disk(error)

    def tell_of_disk(self, error: OSError) -> None:
        """Say once that the disk does not take what is read."""
        if not self._told_of_disk:
            self._told_of_disk = True
            _log.warning(
                "%s is read without caching: %s (%s)",
                self.artifact.id,
                error.strerror,
                error.filename,
            )

    # Reading

    def try_read(self, start: int, stop: int) -> bytes | None:
        """The bytes if they are here."""
        stop = min(stop, self.size_bytes)
        if start >= stop:
            return b""
        flags = self.table.flags
        epoch = self.epoch
        first, last = start // GRAIN_BYTES, (stop - 1) // GRAIN_BYTES + 1
        if flags.count(CHECKED, first, last) != last - first:
            if flags.find(ABSENT, first, last) >= 0:
                return None
            if not self._check(first, last):
                return None
            if flags.find(IN_MEMORY, first, last) >= 0:
                data = self._from_memory(start, stop, first, last)
                return data if epoch == self.epoch else None
        try:
            data = os.pread(self._descriptor, stop - start, start)
        except OSError as error:
            self._lose(first, last, str(error))
            return None
        if len(data) != stop - start:
            self._lose(first, last, "the file is too short")
            return None
        if epoch != self.epoch:
            return None  # grains were given up meanwhile, perhaps these
        self._used_s[start // STRETCH_BYTES] = int(time.monotonic())
        self._counters.read_bytes += len(data)
        return data

    def _check(self, first: int, last: int) -> bool:
        """See whether grains that an earlier mount stored are right."""
        for grain in range(first, last):
            if self.table.flags[grain] != STORED:
                continue
            span = span_of(grain, grain + 1, self.size_bytes)
            try:
                data = os.pread(self._descriptor, len(span), span.start)
            except OSError:
                data = b""
            if len(data) != len(span) or checksum(data) != self._sum(grain):
                self._lose(grain, grain + 1, "its checksum is wrong")
                return False
            with self.lock:
                if self.table.flags[grain] == STORED:
                    self.table.flags[grain] = CHECKED
        return True

    def stored_right(self, position: int, data: memoryview) -> bool:
        """Whether bytes read from the file at `position`, a grain's start, have their checksums."""
        for grain in range(*grains_of(Span(position, position + len(data)))):
            if self.table.flags[grain] == STORED:
                start = grain * GRAIN_BYTES - position
                if checksum(data[start : start + GRAIN_BYTES]) != self._sum(grain):
                    self._lose(grain, grain + 1, "its checksum is wrong")
                    return False
        return True

    def _sum(self, grain: int) -> int:
        """The sum written down for a grain, or 0."""
        sidecar = self._sidecar
        if sidecar is None:
            return 0
        try:
            return sidecar.sums(grain, grain + 1)[0]
        except OSError:
            return 0

    def _lose(self, first: int, last: int, why: str) -> None:
        sidecar = self._sidecar
        if sidecar is not None:
            self._write_down(lambda: sidecar.forget(first, last))
        with self.lock:
            for grain in range(first, last):
                if self.table.flags[grain] != IN_MEMORY:
                    self.table.flags[grain] = ABSENT
            # Who has changed the file here may have done so elsewhere: all is looked at anew.
            self.table.flags[:] = self.table.flags.replace(bytes([CHECKED]), bytes([STORED]))
            self.table.verified = False
            self.checked_whole = False
            self.epoch += 1
            self.unsaved = True
        self._counters.refetched_grains += last - first
        _log.warning(
            "%s: cached bytes [%d, %d) are fetched again: %s",
            self.artifact.id, first * GRAIN_BYTES, last * GRAIN_BYTES, why,
        )  # fmt: skip

    def _from_memory(self, start: int, stop: int, first: int, last: int) -> bytes | None:
        pieces = []
        for grain in range(first, last):
            span = span_of(grain, grain + 1, self.size_bytes)
            if self.table.flags[grain] == IN_MEMORY:
                data = self._memory.get(self.place.key, grain)
                if data is None:
                    with self.lock:
                        self.table.flags[grain] = ABSENT
                    return None
            else:
                try:
                    data = os.pread(self._descriptor, len(span), span.start)
                except OSError:
                    data = b""
                if len(data) != len(span):
                    self._lose(grain, grain + 1, "the file is too short")
                    return None
            pieces.append(data[max(0, start - span.start) : stop - span.start])
        return b"".join(pieces)

    def advance(self, read: Span) -> None:
        """Tell the window of a read that was answered, so that readahead goes on."""
        if not self.table.complete:
            self._fetch(read, None)

    def request(self, span: Span, done: Done, deadline_s: float) -> Waiter:
        """Have `done` called when all of `span` is here, or cannot be."""
        span = span.clip(self.size_bytes)
        first, stop = grains_of(span)
        waiter = Waiter(self, first, stop, done, deadline_s)
        self._fetch(span, waiter)
        return waiter

    def _fetch(self, span: Span, waiter: Waiter | None) -> None:
        wanted: list[tuple[Span, bool]] = []
        error: BaseException | None = None
        with self.lock:
            if waiter is not None:
                error = self.failed
                if error is None and self._missing(waiter):
                    self._waiters.append(waiter)
                    waiter = None
            if error is None:
                wanted += [(one, True) for one in self._claim(*grains_of(span))]
                for ahead in self._window.plan(span, self.size_bytes, lost=bool(wanted)):
                    wanted += [(one, False) for one in self._claim(*grains_of(ahead))]
        for one, urgent in wanted:
            self._flights.start(self, one, urgent=urgent)
        if waiter is not None:
            waiter.done(error)

    def _missing(self, waiter: Waiter) -> bool:
        return self.table.flags.find(ABSENT, waiter.first, waiter.stop) >= 0

    def _claim(self, first: int, stop: int) -> list[Span]:
        """What is neither here nor on its way is on its way from now on."""
        spans = []
        for start, end in list(runs(self.table.flags, ABSENT, first, stop)):
            for free_start, free_end in list(runs(self._claims, 0, start, end)):
                self._claims[free_start:free_end] = b"\1" * (free_end - free_start)
                spans.append(span_of(free_start, free_end, self.size_bytes))
        return spans

    def forget(self, waiter: Waiter) -> None:
        """Do not call this waiter."""
        with self.lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    @property
    def wanted(self) -> bool:
        """Whether anybody has it open or waits for it."""
        return self.opens > 0 or bool(self._waiters)

    def overdue(self, now_s: float) -> None:
        """End the waiting of those whose time is over."""
        with self.lock:
            late = [waiter for waiter in self._waiters if waiter.deadline_s <= now_s]
            self._waiters = [waiter for waiter in self._waiters if waiter.deadline_s > now_s]
        for waiter in late:
            waiter.done(TimedOut(f"{self.artifact.id}: its bytes did not come in time"))

    # Arrival

    def comes_as(self, etag: str) -> None:
        """Bytes are about to come with this ETag.

        Of a content without a SHA-256 nothing else tells whether all of it is of one version. If
        they are of another than what is here, this content has failed for whoever has it open, and
        its files are removed, so that an opening after the last of those begins anew. Raises
        `ContentChanged`.
        """
        if self.artifact.sha256 is not None:
            return
        version = xxhash.xxh3_64_intdigest(etag.encode()) or 1
        sidecar = self._sidecar
        known = self._version
        if not known and sidecar is not None:
            with contextlib.suppress(OSError):
                known = sidecar.version()
        with self.lock:
            self._version = self._version or known or version
            if self._version == version:
                error = None
            else:
                error = self.failed = ContentChanged(
                    f"{self.artifact.filename!r} ({self.artifact.id}) is not what it was: "
                    "the service changed the content of an id"
                )
        if error is not None:
            _log.error("%s", error)
            for path in (self.place.path, self.place.sidecar):
                with contextlib.suppress(OSError):
                    os.unlink(path)  # noqa: PTH108 - paths are text here
            raise error
        if not known and sidecar is not None:
            self._write_down(lambda: sidecar.set_version(version))

    def note(
        self, first: int, sums: list[int], kept: list[bytes] | None, arrived_bytes: int
    ) -> None:
        """Grains have come, from `first` on; `kept` holds them if the disk did not take them."""
        self._counters.fetched_bytes += arrived_bytes
        sidecar = self._sidecar
        if kept is not None:
            for number, data in enumerate(kept, first):
                self._memory.put(self.place.key, number, data)
            self._counters.uncached_grains += len(kept)
        elif sidecar is not None:
            self._write_down(lambda: sidecar.record(first, sums))
        state = CHECKED if kept is None else IN_MEMORY
        stop = first + len(sums)
        self._used_s[first * GRAIN_BYTES // STRETCH_BYTES] = int(time.monotonic())
        with self.lock:
            flags = self.table.flags
            if flags.count(CHECKED, first, stop) == 0:
                flags[first:stop] = bytes([state]) * len(sums)
            else:
                for grain in range(first, stop):
                    flags[grain] = CHECKED if flags[grain] == CHECKED else state
            self._claims[first:stop] = bytes(stop - first)
            self.unsaved = True
            ready = self._contented()
        for waiter in ready:
            waiter.done(None)
        if self.to_verify:
            self._verifier.follow(self)

    def _contented(self) -> list[Waiter]:
        """Who waits for nothing any more, taken from those who wait. `lock` is held."""
        ready = [waiter for waiter in self._waiters if not self._missing(waiter)]
        if ready:
            self._waiters = [waiter for waiter in self._waiters if self._missing(waiter)]
        return ready

    def reserve(self, span: Span, *, insist: bool) -> list[Span] | None:
        """What of `span` to fetch now; None: another mount is fetching some of it.

        With `insist` it is fetched none the less. `free` it afterwards unless it was None.
        """
        sidecar = self._sidecar
        if sidecar is None:
            return [span]
        first, stop = grains_of(span)
        is_ours = sidecar.reserve(first, stop)
        self._take_over(sidecar, first, stop)
        if not is_ours and not insist:
            return None
        with self.lock:
            missing = list(runs(self.table.flags, ABSENT, first, stop))
        return [span_of(start, end, self.size_bytes) for start, end in missing]

    def claim_more(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Which of these grains, that came unasked, nobody else has or fetches.

        They are claimed and reserved; `free` each run of them afterwards.
        """
        with self.lock:
            spans = self._claim(first, stop)
        ours: list[tuple[int, int]] = []
        for span in spans:
            missing = self.reserve(span, insist=False)
            if missing is None:
                start, end = grains_of(span)
                with self.lock:
                    self._claims[start:end] = bytes(end - start)
                continue
            position = span.start
            for one in (*missing, Span(span.stop, span.stop)):
                self.free(Span(position, one.start))  # another mount has it already
                position = one.stop
            ours += map(grains_of, missing)
        return ours

    def free(self, span: Span) -> None:
        """The opposite of `reserve`."""
        sidecar = self._sidecar
        if sidecar is not None:
            sidecar.free(*grains_of(span))

    def _take_over(self, sidecar: Sidecar, first: int, stop: int) -> None:
        """What another mount has fetched meanwhile is here."""
        try:
            sums = sidecar.sums(first, stop)
        except OSError:
            return
        if not any(sums):
            return
        with self.lock:
            flags = self.table.flags
            for grain, one in enumerate(sums, first):
                if one and flags[grain] == ABSENT:
                    flags[grain] = STORED
                    self._claims[grain] = 0
            ready = self._contented()
        for waiter in ready:
            waiter.done(None)
        if self.to_verify:
            self._verifier.follow(self)

    def landed(self, span: Span, error: BaseException | None, *, final: bool = False) -> None:
        """A flight is over: what it has not brought is free again; who waited for it is told.

        One that was cut off because nobody had the content open is no error to who has opened it
        since: unless it is `final`, it is flown again.
        """
        if isinstance(error, Cancelled) and not final:
            error = None
        first, stop = grains_of(span)
        told: list[Waiter] = []
        again: list[tuple[Span, bool]] = []
        with self.lock:
            self._claims[first:stop] = bytes(stop - first)
            for waiter in list(self._waiters):
                if waiter.first < stop and first < waiter.stop and self._missing(waiter):
                    if error is not None:
                        self._waiters.remove(waiter)
                        told.append(waiter)
                    else:
                        again += [(one, True) for one in self._claim(waiter.first, waiter.stop)]
        for one, urgent in again:
            self._flights.start(self, one, urgent=urgent)
        for waiter in told:
            waiter.done(error)

    def verified(self, right: bool) -> None:
        """The SHA-256 of the whole has been compared."""
        sidecar = self._sidecar
        if not right and sidecar is not None:
            # First, or whoever asks for a grain as soon as it is absent would take it over again.
            self._write_down(lambda: sidecar.forget(0, len(self.table.flags)))
        with self.lock:
            if right:
                self.table.verified = self.checked_whole = self.unsaved = True
                self._attempts = 0
                self._counters.verified_bytes += self.size_bytes
                return
            self._counters.mismatches += 1
            self._attempts += 1
            self._clear()
            self.unsaved = True
            final = self._attempts >= MOST_ATTEMPTS
            waiters: list[Waiter] = []
            if final:
                self.failed = ContentMismatch(
                    f"{self.artifact.filename!r} ({self.artifact.id}) does not have its SHA-256"
                )
                waiters, self._waiters = self._waiters, []
        _log.error(
            "%s: the cached content does not have its SHA-256 and was dropped%s",
            self.artifact.id, "" if final else "; it is fetched again",
        )  # fmt: skip
        for waiter in waiters:
            waiter.done(self.failed)

    def all_checked(self) -> None:
        """The whole was read and is right, so every grain that was stored is."""
        with self.lock:
            if self.table.complete:
                self.table.flags[:] = bytes(
                    CHECKED if flag == STORED else flag for flag in self.table.flags
                )

    @property
    def to_verify(self) -> bool:
        """Whether there is something to hash for the comparison with its SHA-256."""
        if self.artifact.sha256 is None or self.checked_whole:
            return False
        if self.table.stored_whole:
            return True
        following = self.following
        begun = following is not None and following.epoch == self.epoch
        position = following.position if following is not None and begun else 0
        first = position // GRAIN_BYTES
        return self.table.flags[first : first + 1] == bytes([CHECKED])

    def hashable(self, position: int, most_bytes: int) -> int:
        """Up to where the bytes from `position` on, a grain's start, can be hashed now."""
        if self.table.stored_whole:
            return min(position + most_bytes, self.size_bytes)
        flags = self.table.flags
        stop = first = position // GRAIN_BYTES
        most = min(first + most_bytes // GRAIN_BYTES, len(flags))
        while stop < most and flags[stop] == CHECKED:
            stop += 1
        return span_of(first, stop, self.size_bytes).stop if stop > first else position
