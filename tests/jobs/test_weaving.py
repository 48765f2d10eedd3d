"""What tasks print, woven into one log and into one for each."""

from __future__ import annotations

import json

from artifactfs.jobs.log_merge import (
    MARK,
    MISSING,
    NEW_ATTEMPT,
    LogMerger,
    MergedText,
)
from artifactfs.model import (
    Change,
    Job,
    Task,
    lacks_beginning,
    with_beginning,
)


class Logs:
    """What a weaver has said, put together; taken up from its state after each change."""

    def __init__(self) -> None:
        self.live = ""
        self.tasks: dict[int, str] = {}
        self._weaver = LogMerger()

    def take(self, *tasks: Task, job: Job | None = None, whole: bool = False) -> MergedText:
        self._weaver = LogMerger(json.loads(json.dumps(self._weaver.state())))
        woven = self._weaver.take(Change("j", job, tasks, whole))
        self.live += "".join(woven.live)
        for index, texts in woven.tasks.items():
            self.tasks[index] = self.tasks.get(index, "") + "".join(texts)
        return woven


def running(index: int, tail: str, **more: object) -> Task:
    return Task(index, f"task_{index}", "running", output_tail=tail, **more)  # type: ignore[arg-type]


def test_one_task_is_shown_as_it_prints_also_lines_that_are_not_complete() -> None:
    logs = Logs()
    logs.take(running(0, ""))
    logs.take(running(0, "10%\r"))
    logs.take(running(0, "10%\r20%\r"))
    logs.take(running(0, "10%\r20%\rdone\n"))
    logs.take(job=Job("j", "completed"))
    assert logs.live == logs.tasks[0] == "10%\r20%\rdone\n"


def test_several_tasks_are_interleaved_line_by_line_with_a_prefix() -> None:
    logs = Logs()
    logs.take(running(0, "a1\na2"), running(1, "b1\n"), whole=True)
    logs.take(running(1, "b1\nb2\n"))
    logs.take(running(0, "a1\na2 more\n"))
    logs.take(running(1, "b1\nb2\nlast"))
    logs.take(Task(None, "task_1", "completed"))
    assert logs.live == "[0] a1\n[1] b1\n[1] b2\n[0] a2 more\n[1] last\n"
    assert logs.tasks == {0: "a1\na2 more\n", 1: "b1\nb2\nlast"}


def test_a_second_task_that_comes_later_begins_a_line_of_its_own() -> None:
    logs = Logs()
    logs.take(running(0, "working"))
    logs.take(running(1, "other\n"))
    assert logs.live == "working\n[1] other\n"


def test_a_gap_is_one_marked_line() -> None:
    logs = Logs()
    logs.take(running(0, "the first that was printed"))
    logs.take(running(0, "something else entirely\n"))
    mark = f"{MARK}{MISSING} ---\n"
    assert logs.live == f"the first that was printed\n{mark}something else entirely\n"


def test_output_longer_than_the_service_shows_is_marked_at_its_beginning() -> None:
    logs = Logs()
    text = "x" * 10_240
    logs.take(running(0, text[-4096:], output=text))
    assert logs.live == f"{MARK}{MISSING} ---\n{text}"
    logs.take(running(0, (text + "more")[-4096:]))
    assert logs.live.endswith("xmore")


def test_the_whole_output_of_the_only_task_begins_the_log() -> None:
    text = "".join(f"line {number}\n" for number in range(5000))
    change = Change("j", None, (running(0, text[-4096:], output=text[-10_240:]),))
    assert lacks_beginning(change)
    begun = with_beginning(change, text + "more\n")
    logs = Logs()
    logs.take(*begun.tasks)
    logs.take(running(0, (text + "more\nand more\n")[-4096:]))
    assert logs.live == text + "more\nand more\n"
    assert with_beginning(change, "something else") is change
    assert not lacks_beginning(Change("j", None, (running(0, "short", output="short"),)))
    assert not lacks_beginning(Change("j", None, (*change.tasks, running(1, ""))))


def test_a_retry_keeps_what_the_failed_attempt_had_printed() -> None:
    for again in (
        running(0, ""),
        running(0, "", output="one\nboom\n"),
        running(0, "one\n", attempt=2),
    ):
        logs = Logs()
        logs.take(running(0, "one\nboom\n", attempt=1))
        logs.take(Task(0, status="failed", error="out of memory", exit_code=137))
        logs.take(again)
        logs.take(running(0, "one\ntwo\n"))
        logs.take(Task(0, status="completed", output="one\ntwo\n"), job=Job("j", "completed"))
        mark = f"the attempt before failed (exit status 137: out of memory), {NEW_ATTEMPT}"
        assert logs.live == f"one\nboom\n{MARK}{mark} ---\none\ntwo\n", again
        assert logs.tasks[0] == logs.live


def test_a_tail_that_is_empty_again_is_a_new_attempt() -> None:
    logs = Logs()
    logs.take(Task(0, output_tail="one\n"))
    logs.take(Task(0, output_tail=""))
    logs.take(Task(0, output_tail="one\n"))
    assert logs.live == f"one\n{MARK}{NEW_ATTEMPT} ---\none\n"


def test_what_is_first_seen_in_the_middle_of_a_retry_is_the_failed_attempts() -> None:
    logs = Logs()
    logs.take(running(0, "", output="old\n"))
    logs.take(running(0, "", output="old\n"))
    logs.take(running(0, "new\n"))
    before, _, after = logs.live.partition(f"{MARK}{NEW_ATTEMPT} ---\n")
    assert before.endswith("old\n")
    assert "attempt before" in before
    assert after == "new\n"


def test_preflight_stderr_is_shown_as_what_it_is() -> None:
    logs = Logs()
    logs.take(Task(0, status="queued", output_tail=""))
    logs.take(
        Task(0, status="failed", output_tail="", output="image not found\n", error="preflight"),
        job=Job("j", "failed", error="the worker could not start"),
    )
    first, second, third = logs.live.splitlines()
    assert first.startswith(MARK)
    assert "before the command started" in first
    assert second == "image not found"
    assert third == f"{MARK}the job failed: the worker could not start ---"
    assert logs.tasks[0] == f"{first}\nimage not found\n"


def test_a_job_that_failed_without_a_task_says_why_once() -> None:
    logs = Logs()
    for _ in range(2):
        logs.take(job=Job("j", "failed", error="no credits"))
    assert logs.live == f"{MARK}the job failed: no credits ---\n"


def test_a_service_without_tails_is_followed_by_outputs() -> None:
    logs = Logs()
    logs.take(Task(0, status="running", output="1\n"))
    logs.take(Task(0, status="running", output="1\n2\n"))
    logs.take(Task(0, status="completed", output="1\n2\n3\n"))
    assert logs.live == "1\n2\n3\n"


def test_an_event_of_a_task_that_nobody_knows_is_left_out() -> None:
    logs = Logs()
    logs.take(Task(None, "task_9", output_tail="x"), Task(-1, output_tail="y"))
    assert logs.live == ""
