"""Following what happens: to one job, or in a project, until it is over or nobody wants to know.

A job is asked about once, which tells what it has printed already; then its stream says what is
new. Where the service has no stream, or none that works, asking goes on: as often as
`POLL_S` says, or more seldom if an answer takes long. A stream that ends without the job's end, or
brings nothing any more, is asked about in between, so that nobody waits for an event that never
comes. When the job has ended it is asked about once more: tasks show their last words then.
Tasks show the end of what they have printed. If there is one only, and it had printed more before
anybody followed (`from_start`), the job's whole output is asked for once.

What cannot be mended (the job is gone, or is not ours) ends it, and is raised. A service that does
not answer does not: it is tried for as long as anybody follows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from artifactfs.errors import (
    Cancelled,
    TimedOut,
    TooLarge,
    Unreachable,
    Unsupported,
)
from artifactfs.model import (
    Change,
    StreamEvent,
    lacks_beginning,
    with_beginning,
)
from artifactfs.remote import EventStream, TooLargeEvent

POLL_S = 0.5
POLL_PART = 5.0  # of the time between two polls, at most a fifth is spent in them
TROUBLE_S = 5.0
ASK_S = 10.0

_log = logging.getLogger(__name__)


class StreamSource(Protocol):
    """The service, as far as following needs it."""

    def poll(self, job_id: str, *, deadline_s: float | None = None) -> Change: ...
    def output(self, job_id: str, *, deadline_s: float | None = None) -> bytes | None: ...
    def stream(self, job_id: str, *, last_id: str = "") -> EventStream: ...
    def project_stream(self, project: str, *, last_id: str = "") -> EventStream: ...
    def read_event(self, event: StreamEvent, job_id: str | None = None) -> Change | None: ...


def begun(source: StreamSource, change: Change) -> Change:
    """`change`, with the beginning of the output if that is missing and can be had."""
    if not lacks_beginning(change):
        return change
    try:
        said = source.output(change.job_id, deadline_s=ASK_S) or b""
    except TooLarge:
        return change
    return with_beginning(change, said.decode("utf-8", "replace"))


class JobFollower:
    """Follows one job. `run` on a thread of its own, `close` from any."""

    def __init__(
        self,
        source: StreamSource,
        job_id: str,
        take: Callable[[Change], None],
        *,
        from_start: bool = True,
        poll_s: float = POLL_S,
    ) -> None:
        self._source = source
        self._job_id = job_id
        self._take = take
        self._from_start = from_start
        self._poll_s = poll_s
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._stream: EventStream | None = None

    def run(self) -> None:
        """Return when the job has ended or `close` was called. Raises what cannot be mended."""
        streams = True
        told = False
        while not self._closed.is_set():
            began_s = time.monotonic()
            try:
                change = self._source.poll(self._job_id, deadline_s=ASK_S)
                if self._from_start:
                    change = begun(self._source, change)
                self._from_start = told = False
                self._take(change)
                if change.job is not None and change.job.ended:
                    return
                if streams:
                    asked_s = time.monotonic()
                    self._follow_stream()
                    if time.monotonic() - asked_s > self._poll_s:
                        continue
            except (Unsupported, TooLargeEvent) as reason:
                streams = False
                _log.debug("no stream of the job %s: %r", self._job_id, reason)
            except (Unreachable, TimedOut) as error:
                if not told and not self._closed.is_set():
                    _log.warning("the job %s cannot be followed now: %s", self._job_id, error)
                told = True
                self._closed.wait(TROUBLE_S)
                continue
            except Cancelled:
                return
            took_s = time.monotonic() - began_s
            self._closed.wait(max(self._poll_s, POLL_PART * took_s))

    def close(self) -> None:
        """Have `run` return soon."""
        self._closed.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()

    def _follow_stream(self) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            self._stream = self._source.stream(self._job_id)
        try:
            self._stream.follow(self._taken)
        except (Unreachable, TimedOut):
            return  # a stream that says nothing: ask, then try again
        finally:
            with self._lock:
                self._stream = None

    def _taken(self, event: StreamEvent) -> bool:
        change = self._source.read_event(event, self._job_id)
        if change is None or change.job_id != self._job_id:
            return True
        ended = change.job is not None and change.job.ended
        if not ended:  # how it has ended is asked for, with the tasks' last words
            self._take(change)
        return not ended


class ProjectFollower:
    """Follows a project's events. `run` on a thread of its own, `close` from any."""

    def __init__(
        self,
        source: StreamSource,
        project: str,
        take: Callable[[StreamEvent], None],
        last_id: str = "",
    ) -> None:
        self._project = project
        self._take = take
        self._closed = threading.Event()
        self._stream = source.project_stream(project, last_id=last_id)

    def run(self) -> None:
        """Return when `close` was called. Raises what cannot be mended, `Unsupported` as well."""
        while not self._closed.is_set():
            try:
                self._stream.follow(self._taken)
            except Cancelled:
                return
            except TooLargeEvent:
                _log.warning("an event of the project %s is too large", self._project)
            except (Unreachable, TimedOut):
                self._closed.wait(TROUBLE_S)

    def close(self) -> None:
        """Have `run` return soon."""
        self._closed.set()
        self._stream.close()

    def _taken(self, event: StreamEvent) -> bool:
        self._take(event)
        return True
