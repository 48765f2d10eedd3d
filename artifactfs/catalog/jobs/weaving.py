"""What a job's tasks print, woven into one log.

A `Weaver` is fed with what becomes known of a job (`Change`: events, or answers to polls) and says
what is to be appended: to the log of each task, and to the job's own, ``live.log``. A job of one
task has the same text in both. Where there are several, ``live.log`` has whole lines, each with its
task in front (``[3] epoch 7``); a line that is not complete is held back until it is.

What this project adds is a line of its own that begins with ``--- artifactfs:``. It says

* that output may be missing here (``tails`` says when);
* that an attempt failed and a new one began; what the failed one had printed stays above. A new
  attempt is known by its number, by a task that had ended and goes on, or by a tail that is empty
  again;
* that what follows was said by the platform before the command started: the output of a task that
  failed without an exit code and without having printed anything;
* how the job ended, unless it was completed.

While a job is retried, the service goes on to show the failed attempt's ``output``. So a task's
``output`` counts only where it agrees with its tail, or where there are no tails.

Pure; `state` is all of it as JSON, for a log that is taken up again later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from artifactfs.catalog.jobs.tails import Tail
from artifactfs.model import (
    OUTPUT_BYTES,
    Change,
    Job,
    Task,
)

MARK = "--- artifactfs: "
MISSING = "output may be missing here"
NEW_ATTEMPT = "a new attempt began"
PREFLIGHT = "what follows is from before the command started"
BEFORE = "what follows is of the attempt before, which failed"

SAVED_CHARS = 4096
TAIL_BYTES = 4_000  # a tail that long may have been cut
MOST_PARTIAL_CHARS = 8192


@dataclass(slots=True)
class Woven:
    """What is to be appended to ``live.log``, and to the log of each task by its index."""

    live: list[str] = field(default_factory=list)
    tasks: dict[int, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Seen:
    """What is known of a task. `before` is the end of what its last attempt had printed."""

    tail: Tail = field(default_factory=Tail)
    before: str = ""
    attempt: int | None = None
    ended: bool = False
    error: str | None = None
    exit_code: int | None = None
    partial: str = ""
    at_start: bool = True


class Weaver:
    """One job's. For one thread at a time."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._seen: dict[int, _Seen] = {}
        self._ids: dict[str, int] = {}
        self._several = False
        self._at_start = True
        self._told_end = False
        if state is not None:
            self._restore(state)

    @property
    def indexes(self) -> list[int]:
        """The tasks that are known."""
        return sorted(self._seen)

    def take(self, change: Change) -> Woven:
        """Take in what has become known."""
        woven = Woven()
        placed = [(self._index(task), task) for task in change.tasks]
        if not self._several and len(self._seen) > 1:
            self._several = True
            self._end_live_line(woven)
        for index, task in placed:
            if index is not None:
                self._task(woven, index, task)
        if change.job is not None and change.job.ended:
            self._end(woven, change.job)
        return woven

    def _index(self, task: Task) -> int | None:
        index = task.index
        if index is None and task.id is not None:
            index = self._ids.get(task.id)
        if index is None or index < 0:
            return None
        if task.id is not None:
            self._ids[task.id] = index
        self._seen.setdefault(index, _Seen())
        return index

    def _task(self, woven: Woven, index: int, task: Task) -> None:
        seen = self._seen[index]
        if _begins_again(seen, task):
            self._mark(woven, index, f"{_how_failed(seen)}{NEW_ATTEMPT}")
            seen.before = seen.tail.known[-SAVED_CHARS:] or seen.before
            seen.tail = Tail()
            seen.ended, seen.error, seen.exit_code = False, None, None
            self._told_end = False
        if task.attempt is not None:
            seen.attempt = task.attempt
        if task.status is not None:
            seen.ended = task.ended
        seen.error = task.error or seen.error
        seen.exit_code = seen.exit_code if task.exit_code is None else task.exit_code
        self._printed(woven, index, seen, task)
        if seen.ended:
            self._end_partial(woven, index, seen)

    def _printed(self, woven: Woven, index: int, seen: _Seen, task: Task) -> None:
        tail, output = task.output_tail, task.output or ""
        first = not seen.tail.known
        if tail:
            longer = len(output) > len(tail) and output.endswith(tail)
            self._glimpse(woven, index, seen, output if longer else tail, longer=longer)
        elif not output or (first and seen.before and output.endswith(seen.before)):
            return
        elif first and tail == "" and not task.ended:
            if not seen.before:
                self._mark(woven, index, BEFORE)
                self._glimpse(woven, index, seen, output, longer=True)
                self._mark(woven, index, NEW_ATTEMPT)
                seen.before, seen.tail = output[-SAVED_CHARS:], Tail()
        elif tail is None or task.ended:
            if first and task.status == "failed" and task.exit_code is None:
                self._mark(woven, index, PREFLIGHT)
            whole = bool(task.from_start)
            self._glimpse(woven, index, seen, output, longer=True, whole=whole)

    def _glimpse(
        self,
        woven: Woven,
        index: int,
        seen: _Seen,
        text: str,
        *,
        longer: bool,
        whole: bool = False,
    ) -> None:
        first = not seen.tail.known
        joined = seen.tail.join(text)
        most_bytes = OUTPUT_BYTES if longer else TAIL_BYTES
        cut = first and not whole and len(text.encode("utf-8", "replace")) >= most_bytes
        if cut:
            seen.tail.whole = False
        if joined.gap or cut:
            self._mark(woven, index, MISSING)
        if joined.text:
            self._append(woven, index, seen, joined.text)

    def _append(self, woven: Woven, index: int, seen: _Seen, text: str) -> None:
        woven.tasks.setdefault(index, []).append(text)
        seen.at_start = text.endswith("\n")
        if not self._several:
            woven.live.append(text)
            self._at_start = seen.at_start
            return
        *lines, rest = (seen.partial + text).split("\n")
        woven.live += [f"[{index}] {line}\n" for line in lines]
        seen.partial = rest
        if len(rest) > MOST_PARTIAL_CHARS:
            self._end_partial(woven, index, seen)

    def _mark(self, woven: Woven, index: int, words: str) -> None:
        """A line of our own in a task's log and in the job's."""
        seen = self._seen[index]
        line = f"{MARK}{words} ---\n"
        woven.tasks.setdefault(index, []).append(line if seen.at_start else f"\n{line}")
        seen.at_start = True
        if self._several:
            self._end_partial(woven, index, seen)
            woven.live.append(f"[{index}] {line}")
        else:
            self._end_live_line(woven)
            woven.live.append(line)

    def _end_partial(self, woven: Woven, index: int, seen: _Seen) -> None:
        if seen.partial:
            woven.live.append(f"[{index}] {seen.partial}\n")
            seen.partial = ""

    def _end_live_line(self, woven: Woven) -> None:
        if not self._at_start:
            woven.live.append("\n")
            self._at_start = True

    def _end(self, woven: Woven, job: Job) -> None:
        for index, seen in self._seen.items():
            self._end_partial(woven, index, seen)
        if self._told_end:
            return
        self._told_end = True
        if job.status in ("failed", "cancelled"):
            how = "the job failed" if job.status == "failed" else "the job was cancelled"
            reason = job.error or next((one.error for one in self._seen.values() if one.error), "")
            self._end_live_line(woven)
            woven.live.append(f"{MARK}{how}{f': {reason}' if reason else ''} ---\n")

    # To be taken up again

    def state(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "several": self._several,
            "at_start": self._at_start,
            "told_end": self._told_end,
            "ids": self._ids,
            "tasks": {
                str(index): {
                    "known": seen.tail.known[-SAVED_CHARS:],
                    "whole": seen.tail.whole and len(seen.tail.known) <= SAVED_CHARS,
                    "before": seen.before,
                    "attempt": seen.attempt,
                    "ended": seen.ended,
                    "error": seen.error,
                    "exit_code": seen.exit_code,
                    "partial": seen.partial,
                    "at_start": seen.at_start,
                }
                for index, seen in self._seen.items()
            },
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._several = bool(state["several"])
        self._at_start = bool(state["at_start"])
        self._told_end = bool(state["told_end"])
        self._ids = {str(name): int(index) for name, index in state["ids"].items()}
        for index, one in state["tasks"].items():
            kept = dict(one)
            tail = Tail(str(kept.pop("known")), bool(kept.pop("whole")))
            self._seen[int(index)] = _Seen(tail=tail, **kept)


def _begins_again(seen: _Seen, task: Task) -> bool:
    if task.attempt is not None and seen.attempt is not None and task.attempt != seen.attempt:
        return task.attempt > seen.attempt
    if task.status is None:
        return bool(seen.tail.known and task.output_tail == "" and not seen.ended)
    if task.ended:
        return False
    return seen.ended or bool(seen.tail.known and task.output_tail == "")


def _how_failed(seen: _Seen) -> str:
    reason = seen.error or ""
    if seen.exit_code is not None:
        status = f"exit status {seen.exit_code}"
        reason = f"{status}: {reason}" if reason else status
    return f"the attempt before failed ({reason}), " if reason else ""
