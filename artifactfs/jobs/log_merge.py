"""Tails joined to one text: what a task has printed, from glimpses of its end.

The service shows the end of what a task has printed so far. Two glimpses overlap, or the later one
begins where the earlier one had not come yet. `join` finds out which, by what is known already:

* all that is known is the beginning of the new tail: the rest is new (a task that has not printed
  much yet);
* the end of what is known is the beginning of the tail: what follows is new;
* the tail is known already: nothing is new;
* all that is known stands within the tail, which began earlier this time: what follows is new;
* none of it: something may be missing in between, a **gap**.

Texts repeat themselves, so an overlap of a few characters proves nothing. Below `SURE_CHARS` it
counts as a gap, but what overlaps is not repeated: a gap may be marked where nothing is missing,
never the other way round, and nothing ever comes twice. What cannot be told is a tail that looks
exactly as before although as much was printed as it is long: a task that prints the same line over
and over for longer than the service shows.

Pure. `Tail` is what is known of one attempt; only its last `KNOWN_CHARS` are kept.

What a job's tasks print, woven into one log.

A `LogMerger` is fed with what becomes known of a job (`Change`: events, or answers to polls) and
says what is to be appended: to the log of each task, and to the job's own, ``live.log``. A job of
one task has the same text in both. Where there are several, ``live.log`` has whole lines, each with
its task in front (``[3] epoch 7``); a line that is not complete is held back until it is.

What this project adds is a line of its own that begins with ``--- artifactfs:``. It says

* that output may be missing here (``log_merge`` says when);
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

from artifactfs.model import (
    OUTPUT_BYTES,
    Change,
    Job,
    Task,
)

SURE_CHARS = 16
SHORT_CHARS = 1024  # no service shows less: what is shorter was not cut
KNOWN_CHARS = 32 << 10
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class JoinedTail:
    """What is new, and whether something may be missing before it."""

    text: str
    gap: bool = False


@dataclass(slots=True)
class Tail:
    """The end of what is known, since the last gap. `whole`: it is also the beginning."""

    known: str = ""
    whole: bool = True

    def join(self, tail: str) -> JoinedTail:
        """Take in another glimpse."""
        tail = tail.lstrip(_REPLACEMENT)  # a character that the cut has gone through
        joined = _joined(self.known, tail, whole=self.whole)
        if joined.gap:
            self.known, self.whole = tail, False
        elif joined.text:
            self.known += joined.text
        if len(self.known) > KNOWN_CHARS:
            self.known, self.whole = self.known[-KNOWN_CHARS:], False
        return joined


def _joined(known: str, tail: str, *, whole: bool) -> JoinedTail:
    if not known:
        return JoinedTail(tail)
    if known.endswith(tail) or (len(tail) >= SURE_CHARS and tail in known):
        return JoinedTail("")
    count = overlap(known, tail)
    if count >= SURE_CHARS:
        return JoinedTail(tail[count:])
    if whole and count == len(known):
        a_line = known.endswith("\n") and len(known) > 2
        return JoinedTail(tail[count:], gap=len(tail) >= SHORT_CHARS and not a_line)
    if len(known) >= SURE_CHARS:
        start = tail.rfind(known)
        if start >= 0:
            return JoinedTail(tail[start + len(known) :])
    return JoinedTail(tail[count:], gap=True)


def overlap(known: str, tail: str) -> int:
    """How many characters of the end of `known` are the beginning of `tail`, at most."""
    most = min(len(known), len(tail))
    known = known[len(known) - most :]
    if most >= SURE_CHARS:
        anchor, start = tail[:SURE_CHARS], -1
        while (start := known.find(anchor, start + 1)) >= 0:
            if tail.startswith(known[start:]):
                return most - start
    for count in range(min(most, SURE_CHARS - 1), 0, -1):
        if known.endswith(tail[:count]):
            return count
    return 0


MARK = "--- artifactfs: "
MISSING = "output may be missing here"
NEW_ATTEMPT = "a new attempt began"
PREFLIGHT = "what follows is from before the command started"
BEFORE = "what follows is of the attempt before, which failed"

SAVED_CHARS = 4096
TAIL_BYTES = 4_000  # a tail that long may have been cut
MOST_PARTIAL_CHARS = 8192


@dataclass(slots=True)
class MergedText:
    """What is to be appended to ``live.log``, and to the log of each task by its index."""

    live: list[str] = field(default_factory=list)
    tasks: dict[int, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _TaskTail:
    """What is known of a task. `before` is the end of what its last attempt had printed."""

    tail: Tail = field(default_factory=Tail)
    before: str = ""
    attempt: int | None = None
    ended: bool = False
    error: str | None = None
    exit_code: int | None = None
    partial: str = ""
    at_start: bool = True


class LogMerger:
    """One job's. For one thread at a time."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._seen: dict[int, _TaskTail] = {}
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

    def take(self, change: Change) -> MergedText:
        """Take in what has become known."""
        woven = MergedText()
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
        self._seen.setdefault(index, _TaskTail())
        return index

    def _task(self, woven: MergedText, index: int, task: Task) -> None:
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

    def _printed(self, woven: MergedText, index: int, seen: _TaskTail, task: Task) -> None:
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
        woven: MergedText,
        index: int,
        seen: _TaskTail,
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

    def _append(self, woven: MergedText, index: int, seen: _TaskTail, text: str) -> None:
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

    def _mark(self, woven: MergedText, index: int, words: str) -> None:
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

    def _end_partial(self, woven: MergedText, index: int, seen: _TaskTail) -> None:
        if seen.partial:
            woven.live.append(f"[{index}] {seen.partial}\n")
            seen.partial = ""

    def _end_live_line(self, woven: MergedText) -> None:
        if not self._at_start:
            woven.live.append("\n")
            self._at_start = True

    def _end(self, woven: MergedText, job: Job) -> None:
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
            self._seen[int(index)] = _TaskTail(tail=tail, **kept)


def _begins_again(seen: _TaskTail, task: Task) -> bool:
    if task.attempt is not None and seen.attempt is not None and task.attempt != seen.attempt:
        return task.attempt > seen.attempt
    if task.status is None:
        return bool(seen.tail.known and task.output_tail == "" and not seen.ended)
    if task.ended:
        return False
    return seen.ended or bool(seen.tail.known and task.output_tail == "")


def _how_failed(seen: _TaskTail) -> str:
    reason = seen.error or ""
    if seen.exit_code is not None:
        status = f"exit status {seen.exit_code}"
        reason = f"{status}: {reason}" if reason else status
    return f"the attempt before failed ({reason}), " if reason else ""
