"""One job's log or result, for the command line, without a mount."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from artifactfs.catalog.jobs import following
from artifactfs.catalog.jobs.following import JobFollower, begun
from artifactfs.catalog.jobs.weaving import Weaver
from artifactfs.errors import Cancelled
from artifactfs.model import Change

LOOK_S = 0.1
CLOSE_S = 2.0
RESULT_S = 10.0
RESULT_STEP_S = 0.5


class Source(following.Source, Protocol):
    """The service, as far as this needs it."""

    def result(self, job_id: str, *, deadline_s: float | None = None) -> bytes | None: ...


def read_log(source: Source, job_id: str, write: Callable[[str], None]) -> None:
    """Write the log as it is now. Raises what the service says."""
    change = begun(source, source.poll(job_id))
    write("".join(Weaver().take(change).live))


def follow_log(
    source: Source, job_id: str, write: Callable[[str], None], cancelled: threading.Event
) -> None:
    """Write the log until the job has ended.

    Raises what cannot be mended, and `Cancelled` once `cancelled` is set.
    """
    weaver = Weaver()

    def take(change: Change) -> None:
        woven = weaver.take(change)
        if woven.live:
            write("".join(woven.live))

    _follow(JobFollower(source, job_id, take), cancelled)


def read_result(
    source: Source, job_id: str, *, wait: bool, cancelled: threading.Event
) -> bytes | None:
    """The result's JSON, None if there is none; `wait` for the job's end before.

    Raises what the service says, and `Cancelled` once `cancelled` is set.
    """
    if not wait:
        found = source.result(job_id)
        if found is None:
            source.poll(job_id)  # which says so if there is no such job
        return found
    _follow(JobFollower(source, job_id, lambda _: None), cancelled)
    end_s = time.monotonic() + RESULT_S  # it may take a moment until it is there
    while (found := source.result(job_id)) is None and time.monotonic() < end_s:
        if cancelled.wait(RESULT_STEP_S):
            raise Cancelled("the waiting was stopped")
    return found


def _follow(follower: JobFollower, cancelled: threading.Event) -> None:
    failure: list[BaseException] = []

    def run() -> None:
        try:
            follower.run()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            failure.append(error)

    thread = threading.Thread(target=run, name="artifactfs-follow", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LOOK_S)
            if cancelled.is_set():
                raise Cancelled("the following was stopped")
    finally:
        follower.close()
        thread.join(CLOSE_S)
    if failure:
        raise failure[0]
