"""JSON set out for people, and otherwise untouched. Pure.

Parsing and writing anew would change what it says: a number of many digits, ``1.10``, a key that
comes twice. So only the blanks between the tokens are replaced; every string, number and word stays
as the service wrote it.

What the service says of a job, document by document, and for how long that may be believed.

There are four: the job, its tasks, its result and its output. Whoever wants one that is not here,
or is too old, sends an *errand*: a few threads ask the service, one errand for all who want the
same, and who waits does so for a bounded time. What is here already is answered from memory.

A job that has ended never changes again. What was asked for after that is *final*: it stays in
memory while there is room, and on disk (``log_store``). Of a job that goes on, a document is
believed for `RUNNING_S`, or for five times as long as the service took to give it. That a job has
no result is believed for as long; so is a refusal, so that a name that nobody knows does not cost a
request each time a program looks for it.

A service that has not answered is not waited for again within `TROUBLE_S`, unless it answers
meanwhile: what was known is shown.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from enum import StrEnum
from queue import SimpleQueue
from typing import Any, Protocol

from cachetools import LRUCache, TTLCache

from artifactfs.clock import Clock
from artifactfs.errors import (
    Cancelled,
    RemoteError,
    TimedOut,
    Unreachable,
)
from artifactfs.jobs.log_store import LogStore
from artifactfs.model import Job, Task
from artifactfs.remote import ResultVerdict

_TOKEN = re.compile(rb'[ \t\r\n]+|"(?:[^"\\]|\\.)*+"|[{}\[\],:]|[^ \t\r\n"{}\[\],:]+', re.DOTALL)
_STEP = b"  "


def pretty(document: bytes) -> bytes:
    """`document`, which is JSON, with a value a line; a line end at its end."""
    out: list[bytes] = []
    depth = 0
    empty = False  # whether what was opened last has nothing in it yet
    for matched in _TOKEN.finditer(document):
        token = matched[0]
        first = token[:1]
        if first in b" \t\r\n":
            continue
        if first in b"}]":
            depth -= 1
            if not empty:
                out.append(b"\n" + _STEP * depth)
            out.append(token)
            empty = False
            continue
        if empty:
            out.append(b"\n" + _STEP * depth)
            empty = False
        out.append(token)
        if first in b"{[":
            depth += 1
            empty = True
        elif first == b",":
            out.append(b"\n" + _STEP * depth)
        elif first == b":":
            out.append(b" ")
    out.append(b"\n")
    return b"".join(out)


RUNNING_S = 1.0
TROUBLE_S = 5.0
ASK_S = 20.0
THREADS = 8
MEMORY_BYTES = 96 << 20
REFUSALS = 4096
CLOSE_S = 5.0

_log = logging.getLogger(__name__)


class Document(StrEnum):
    """Which one; the value is its name on disk."""

    JOB = "job.json"
    TASKS = "tasks.json"
    RESULT = "result.json"
    OUTPUT = "output"


class DocumentSource(Protocol):
    """The service, as far as documents need it."""

    def job(self, job_id: str, *, deadline_s: float | None = None) -> bytes: ...
    def tasks(self, job_id: str, *, deadline_s: float | None = None) -> bytes: ...
    def result(self, job_id: str, *, deadline_s: float | None = None) -> bytes | None: ...
    def output(self, job_id: str, *, deadline_s: float | None = None) -> bytes | None: ...
    def read_job(self, job_id: str, document: bytes) -> Job: ...
    def read_tasks(self, job_id: str, document: bytes) -> Sequence[tuple[Task, Any]]: ...
    def read_verdict(self, document: bytes) -> ResultVerdict: ...


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """One document as it was told. `data` is None where there is none; `shown` is set out.

    `read` is what it says: a `Job`, the tasks with their JSON, or a `Verdict`.
    """

    data: bytes | None
    shown: bytes
    read: Any
    changed_ns: int
    until_s: float
    final: bool

    @property
    def size_bytes(self) -> int:
        """How much memory it takes, roughly."""
        told = self.data or b""
        return 500 + len(told) + (0 if self.shown is told else 2 * len(self.shown))


Key = tuple[str, Document]


class Documents:
    """All documents of all jobs. `_lock` guards what is in memory, refused and on its way.

    `on_page` is told of each that was asked for, on the thread that did.
    """

    def __init__(
        self,
        source: DocumentSource,
        shelf: LogStore,
        has_ended: Callable[[str], bool],
        on_page: Callable[[str, Document, DocumentPage], None],
        clock: Clock,
    ) -> None:
        self._source = source
        self._shelf = shelf
        self._has_ended = has_ended
        self._on_page = on_page
        self._clock = clock
        self._lock = threading.Lock()
        self._pages: LRUCache[Key, DocumentPage] = LRUCache(
            MEMORY_BYTES, lambda page: page.size_bytes
        )
        self._refused: TTLCache[Key, RemoteError] = TTLCache(REFUSALS, RUNNING_S, clock.monotonic_s)
        self._flights: dict[Key, Future[DocumentPage]] = {}
        self._trouble_until_s = float("-inf")
        self._errands: SimpleQueue[Key | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def start(self) -> None:
        """Start the threads."""
        for _ in range(THREADS):
            thread = threading.Thread(target=self._run, name="artifactfs-errand", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End the threads; one that is stuck is left behind."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._errands.put(None)
        deadline_s = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    # At once

    def peek(self, job_id: str, which: Document) -> DocumentPage | None:
        """What is known of it, however old. At once."""
        with self._lock:
            page: DocumentPage | None = self._pages.get((job_id, which))
            return page

    def is_fresh(self, job_id: str, which: Document) -> bool:
        """Whether that may still be believed. At once."""
        page = self.peek(job_id, which)
        return page is not None and self._is_fresh(page)

    @property
    def in_trouble(self) -> bool:
        """Whether the service has just not answered. At once."""
        return self._clock.monotonic_s() < self._trouble_until_s

    def order(self, job_id: str, which: Document) -> None:
        """Have it asked for, without waiting. At once."""
        if not self.in_trouble:
            self._flight((job_id, which))

    # May wait

    def get(self, job_id: str, which: Document, wait_s: float) -> DocumentPage:
        """The document, at most as old as promised; what was known if the service is in trouble.

        Raises what the service refuses with, and `TimedOut` or `Unreachable` where nothing is
        known and it does not answer.
        """
        return self.get_all(job_id, [which], wait_s)[0]

    def get_all(self, job_id: str, which: Sequence[Document], wait_s: float) -> list[DocumentPage]:
        """Several at the same time; see `get`."""
        end_s = self._clock.monotonic_s() + wait_s
        flights = [self._flight((job_id, one)) for one in which]
        return [
            self._landed(job_id, one, flight, end_s)
            for one, flight in zip(which, flights, strict=True)
        ]

    def _landed(
        self, job_id: str, which: Document, flight: Future[DocumentPage], end_s: float
    ) -> DocumentPage:
        try:
            return flight.result(max(0.0, end_s - self._clock.monotonic_s()))
        except FutureTimeoutError:
            if which is not Document.OUTPUT:  # that may be long
                self._trouble_until_s = self._clock.monotonic_s() + TROUBLE_S
            error: RemoteError = TimedOut(f"{which} of the job {job_id}: no answer in time")
        except (Unreachable, TimedOut, Cancelled) as failure:
            error = failure
        page = self.peek(job_id, which)
        if page is None:
            raise error
        return page

    def forget(self, job_id: str) -> None:
        """The job has ended just now: what was told before is not the last word."""
        with self._lock:
            for which in Document:
                page = self._pages.get((job_id, which))
                if page is not None and not page.final:
                    del self._pages[job_id, which]

    # Errands

    def _is_fresh(self, page: DocumentPage) -> bool:
        return page.final or self._clock.monotonic_s() < page.until_s

    def _flight(self, key: Key) -> Future[DocumentPage]:
        done: Future[DocumentPage] = Future()
        with self._lock:
            page = self._pages.get(key)
            if page is not None and self._is_fresh(page):
                done.set_result(page)
                return done
            refused = self._refused.get(key)
            if refused is not None:
                done.set_exception(refused.with_traceback(None))
                return done
            if self._closed or not self._threads:
                done.set_exception(Cancelled("the mount is ending"))
                return done
            if self.in_trouble:
                done.set_exception(Unreachable("the service does not answer now"))
                return done
            flight = self._flights.get(key)
            if flight is not None:
                return flight
            self._flights[key] = done
        self._errands.put(key)
        return done

    def _run(self) -> None:
        while (key := self._errands.get()) is not None:
            page: DocumentPage | None = None
            failure: BaseException | None = None
            try:
                page = self._fetched(key)
            except BaseException as error:  # noqa: BLE001 - told to who waits
                failure = error
            with self._lock:
                flight = self._flights.pop(key)
                if page is not None:
                    self._trouble_until_s = float("-inf")
                    if page.size_bytes <= MEMORY_BYTES:
                        self._pages[key] = page
                elif isinstance(failure, Unreachable | TimedOut):
                    self._trouble_until_s = self._clock.monotonic_s() + TROUBLE_S
                elif isinstance(failure, RemoteError):
                    self._refused[key] = failure
            if page is not None:
                self._tell(key, page)
                flight.set_result(page)
            else:
                assert failure is not None
                flight.set_exception(failure)

    def _tell(self, key: Key, page: DocumentPage) -> None:
        try:
            self._on_page(*key, page)
        except Exception:  # noqa: BLE001 - the document is right nevertheless
            _log.exception("what %s of the job %s says could not be taken in", key[1], key[0])

    def _fetched(self, key: Key) -> DocumentPage:
        job_id, which = key
        kept = self._shelf.read(job_id, which)
        if kept is not None:
            try:
                return self._page(job_id, which, kept[0], kept[1], final=True)
            except RemoteError as error:
                _log.warning("%s of the job %s is broken on disk: %s", which, job_id, error)
        ended = self._has_ended(job_id)
        began_s = self._clock.monotonic_s()
        ask = {
            Document.JOB: self._source.job,
            Document.TASKS: self._source.tasks,
            Document.RESULT: self._source.result,
            Document.OUTPUT: self._source.output,
        }[which]
        data = ask(job_id, deadline_s=ASK_S)
        took_s = self._clock.monotonic_s() - began_s
        if which is Document.JOB and data is not None:
            ended = self._source.read_job(job_id, data).ended
        before = self.peek(job_id, which)
        changed_ns = int(self._clock.now().timestamp() * 1e9)
        if before is not None and before.data == data:
            changed_ns = before.changed_ns
        final = ended and data is not None
        page = self._page(job_id, which, data, changed_ns, final=final, took_s=took_s)
        if final and data is not None:
            self._shelf.write(job_id, which, data, changed_ns)
        return page

    def _page(
        self,
        job_id: str,
        which: Document,
        data: bytes | None,
        changed_ns: int,
        *,
        final: bool,
        took_s: float = 0.0,
    ) -> DocumentPage:
        shown = data or b""
        read: Any = None
        if data is not None and which is not Document.OUTPUT:
            if which is Document.JOB:
                read = self._source.read_job(job_id, data)
            elif which is Document.TASKS:
                read = self._source.read_tasks(job_id, data)
            else:
                read = self._source.read_verdict(data)
            shown = pretty(data)
        until_s = self._clock.monotonic_s() + max(RUNNING_S, 5 * took_s)
        return DocumentPage(data, shown, read, changed_ns, until_s, final)
