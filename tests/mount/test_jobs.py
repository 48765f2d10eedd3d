"""Jobs, results and live logs through a real mount, in both bindings.

All tests of a binding share one service, one proxy in front of it and one mount; each has jobs of
its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy

from .conftest import BINDINGS, UserMount, _force_away, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.xdist_group("jobs")]

MARK = "--- artifactfs: "


@pytest.fixture(autouse=True)
def _no_thread_left() -> None:
    """The proxy's threads live as long as the module's mount; that looks for itself."""


class World:
    """One mount of one service, by way of one proxy."""

    def __init__(self, user: UserMount, service: LocalController, proxy: FaultProxy) -> None:
        self.user = user
        self.path = user.path
        self.service = service
        self.proxy = proxy

    def sh(self, command: str, *, status: int = 0) -> str:
        """What a shell says; again where the service has not answered a look-up in time."""
        deadline = time.monotonic() + 60
        while True:
            done = subprocess.run(
                command, shell=True, cwd=self.path, capture_output=True, text=True, timeout=60,
                env={**os.environ, "LC_ALL": "C"}, check=False,
            )  # fmt: skip
            said = done.stdout + done.stderr
            late = any(words in said for words in ("Connection timed out", "No route to host"))
            if not late or time.monotonic() > deadline:
                assert done.returncode == status, (command, done, self.user.log())
                return said

    def read(self, path: str) -> str:
        return self.sh(f"cat '{path}'")

    @contextlib.contextmanager
    def following(self, path: str) -> Iterator[Callable[[], str]]:
        """``tail -f`` from the first line on; what it has shown so far."""
        tail = subprocess.Popen(
            ["tail", "-n", "+1", "-s", "0.05", "-f", str(self.path / path)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        shown: list[str] = []
        assert tail.stdout is not None
        thread = threading.Thread(target=shown.extend, args=(iter(tail.stdout.readline, ""),))
        thread.start()
        try:
            yield lambda: "".join(shown)
        finally:
            tail.send_signal(signal.SIGTERM)
            tail.wait(10)
            thread.join(10)
            tail.stdout.close()


@pytest.fixture(scope="module", params=BINDINGS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    home = tmp_path_factory.mktemp(f"jobs-{request.param}")
    (home / "user").mkdir()
    controller = LocalController(home / "service", heartbeat=0.2)
    with controller as service, FaultProxy(service.url) as proxy:
        user = UserMount(home / "user", proxy.url, service.token, request.param)
        user.settings = {"list.ttl": "0"}
        try:
            user.mount()
            yield World(user, service, proxy)
            user.unmount()
        finally:
            _force_away(user)


def test_a_jobs_documents_are_the_services_own(world: World) -> None:
    text = '{"summary":{"n":1.10},"completeness":0.5,"tasks":[{"result_quality":0.75}]}'
    world.service.make_job("docs", status="running", project="p", meta={"x": [1, 2]})
    world.service.print_output("docs", "hello\n")
    job = json.loads(world.read("jobs/docs/job.json"))
    assert (job["id"], job["meta"]) == ("docs", {"x": [1, 2]})
    assert "No such file" in world.sh("cat jobs/docs/result.json", status=1)
    assert world.read("jobs/docs/output.log") == "hello\n"
    names = ["artifacts", "job.json", "live.log", "output.log", "tasks", "tasks.json"]
    wait_until(lambda: sorted(os.listdir(world.path / "jobs" / "docs")) == names, 20)
    made = world.service.make_artifact("results/a.bin", b"abc", job_id="docs")
    world.service.end_job("docs", result_text=text)
    wait_until(lambda: "result.json" in os.listdir(world.path / "jobs/docs"), 20)
    assert world.read("jobs/docs/result.raw.json") == text
    assert '"n": 1.10\n' in world.read("jobs/docs/result.json")
    assert json.loads(world.read("jobs/docs/result.json")) == json.loads(text)
    assert json.loads(world.read("jobs/docs/tasks/0/task.json"))["output"] == "hello\n"
    for name in ("job.json", "result.json", "result.raw.json", "tasks.json", "live.log"):
        path = world.path / "jobs/docs" / name
        assert path.stat().st_size == len(path.read_bytes()) > 0
    shown = world.sh("getfattr -d jobs/docs")
    assert 'user.artifactfs.status="completed"' in shown
    assert 'user.artifactfs.result_quality="0.75"' in shown
    assert 'user.artifactfs.completeness="0.5"' in shown
    link = world.path / "jobs/docs/artifacts/results/a.bin"
    assert os.readlink(link) == f"../../../../by-id/{made}"
    assert link.read_bytes() == b"abc"
    found = ["live.log", "output.log", "tasks.json", "tasks/0/output.log", "tasks/0/task.json"]
    for _ in range(2):
        asked = world.proxy.count("GET", "/jobs/docs")
        assert world.sh("cd jobs/docs; grep -rl hello . | sort").split() == [
            f"./{name}" for name in found
        ]
    assert world.proxy.count("GET", "/jobs/docs") == asked  # nothing of it can change any more
    assert world.read("projects/p/jobs/docs/job.json") == world.read("jobs/docs/job.json")
    for command in ("touch jobs/docs/x", "echo x >> jobs/docs/job.json", "rm jobs/docs/live.log"):
        assert "Read-only file system" in world.sh(
            f"({command}) 2>&1", status=2 if ">>" in command else 1
        )


@pytest.mark.parametrize("way", ["stream", "cut", "polled"])
def test_every_line_is_followed_once_and_in_order(world: World, way: str) -> None:
    job = f"followed-{way}"
    if way == "cut":
        world.proxy.break_with(path=f"/jobs/{job}/stream", reset_after=5000, times=999)
    if way == "polled":
        world.proxy.break_with(path=f"/jobs/{job}/stream", status=404, times=999)
    world.service.make_job(job, status="running")
    world.service.print_output(job, "line 0\n")
    with world.following(f"jobs/{job}/live.log") as shown:
        wait_until(lambda: shown() == "line 0\n", 20)
        lines = [f"line {number}\n" for number in range(60)]
        for line in lines[1:]:
            world.service.print_output(job, line)
        wait_until(lambda: len(shown()) >= len("".join(lines)), 20)
        assert shown() == "".join(lines)
        world.service.print_output(job, "the end\n")
        world.service.end_job(job)
        wait_until(lambda: shown().endswith("the end\n"), 20)
    assert world.read(f"jobs/{job}/live.log") == "".join(lines) + "the end\n"
    streams = world.proxy.count("GET", f"/jobs/{job}/stream")
    assert streams > 2 if way == "cut" else streams == 1


def test_a_retry_keeps_what_had_failed_and_says_so(world: World) -> None:
    world.service.make_job("retried", status="running")
    world.service.print_output("retried", "one\nboom\n")
    with world.following("jobs/retried/live.log") as shown:
        wait_until(lambda: shown() == "one\nboom\n", 20)
        task = {"index": 0, "status": "running", "again": True, "attempt": 2}
        world.service.dev("jobs/retried/tasks", task)
        world.service.print_output("retried", "one\ntwo\n")
        wait_until(lambda: shown().endswith("two\n"), 20)
        assert shown() == f"one\nboom\n{MARK}a new attempt began ---\none\ntwo\n"
    world.service.end_job("retried")


def test_a_job_that_fails_before_it_starts_shows_the_platforms_words(world: World) -> None:
    failed = {"status": "failed", "output": "no such image\n", "error": "preflight"}
    world.service.make_job("stillborn", tasks=[failed])
    world.service.end_job("stillborn", "failed", error="could not start")
    lines = world.read("jobs/stillborn/live.log").splitlines()
    assert lines[0].startswith(f"{MARK}what follows is from before the command started")
    assert lines[1] == "no such image"
    assert lines[2] == f"{MARK}the job failed: could not start ---"
    assert "could not start" in world.sh("getfattr -d jobs/stillborn")


def test_attributes_tell_of_a_result_that_nobody_has_read(world: World) -> None:
    result = {"tasks": [{"result_quality": 0.5, "result_warnings": ["few"]}, {"result_quality": 1}]}
    world.service.make_job("judged", status="completed", result=result)
    shown = world.sh("getfattr -d jobs/judged")
    for said in ('status="completed"', 'result_quality="0.5"', 'result_warnings="few"'):
        assert f"user.artifactfs.{said}" in shown
    only = "getfattr --only-values -n user.artifactfs.status jobs/judged"
    assert world.sh(only) == "completed"


def test_a_cancelled_job_ends_its_log(world: World) -> None:
    world.service.make_job("cancelled", status="running")
    world.service.print_output("cancelled", "working\n")
    with world.following("jobs/cancelled/live.log") as shown:
        wait_until(lambda: shown() == "working\n", 20)
        world.service.end_job("cancelled", "cancelled")
        wait_until(lambda: "the job was cancelled" in shown(), 20)


def test_five_hundred_tasks_are_told_apart(world: World) -> None:
    tasks = [
        {"index": index, "status": "running", "append": f"task {index} says hello\n"}
        for index in range(500)
    ]
    world.service.make_job("many", status="running", tasks=tasks)
    wait_until(lambda: len(os.listdir(world.path / "jobs/many/tasks")) == 500, 20)
    lines = world.read("jobs/many/live.log").splitlines()
    assert sorted(lines) == sorted(f"[{n}] task {n} says hello" for n in range(500))
    with world.following("jobs/many/tasks/321/output.log") as shown:
        world.service.print_output("many", "more\n", task=321)
        wait_until(lambda: shown() == "task 321 says hello\nmore\n", 20)
    assert world.read("jobs/many/live.log").endswith("[321] more\n")
    world.service.end_job("many")


def test_an_unknown_job_is_enoent_and_anothers_eacces(world: World) -> None:
    world.service.make_job("theirs", account="someone-else", status="running")
    assert "No such file" in world.sh("cat jobs/unknown/job.json", status=1)
    assert "Permission denied" in world.sh("cat jobs/theirs/job.json", status=1)
    asked = world.proxy.count("GET", "/api/v1/jobs/.hidden")
    assert "No such file" in world.sh("ls jobs/.hidden", status=2)
    assert world.proxy.count("GET", "/api/v1/jobs/.hidden") == asked == 0


def test_an_output_that_is_open_is_kept_up_to_date(world: World) -> None:
    world.service.make_job("printing", status="running", output="one\n")
    with world.following("jobs/printing/output.log") as shown:
        wait_until(lambda: shown() == "one\n", 20)
        world.service.dev("jobs/printing", {"output": "one\ntwo\n"})
        wait_until(lambda: shown() == "one\ntwo\n", 20)
        world.service.dev("jobs/printing", {"output": "new\n"})
        wait_until(lambda: shown().endswith("new\n"), 20)


def test_refreshing_asks_for_the_list_of_jobs_as_well(world: World) -> None:
    world.sh("ls jobs")
    asked = world.proxy.counts["GET", "/api/v1/jobs"]
    world.user.command("refresh", world.path)
    assert world.proxy.counts["GET", "/api/v1/jobs"] == asked + 1


def test_one_stream_however_many_readers_and_none_when_they_have_gone(world: World) -> None:
    world.service.make_job("shared", status="running")
    world.service.print_output("shared", "x\n")
    with contextlib.ExitStack() as closing:
        tails = [
            closing.enter_context(world.following(f"jobs/shared/{name}"))
            for name in ("live.log", "live.log", "tasks/0/output.log")
        ]
        wait_until(lambda: all(shown() == "x\n" for shown in tails), 20)
        world.service.print_output("shared", "y\n")
        wait_until(lambda: all(shown() == "x\ny\n" for shown in tails), 20)
        assert world.proxy.count("GET", "/jobs/shared/stream") == 1


def test_a_list_of_ten_thousand_costs_its_transfer_and_nothing_per_job(world: World) -> None:
    before = world.proxy.counts.copy()
    listed = [{"id": f"listed-{number}", "status": "running"} for number in range(10_000)]
    page = json.dumps({"jobs": listed, "next_cursor": None}).encode()
    fault = world.proxy.break_with(
        path="/api/v1/jobs", whole=True, status=200, body=page, times=99,
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    try:
        wait_until(lambda: len(world.sh("ls jobs").splitlines()) >= 10_000, 30)
    finally:
        fault.times = 0
    asked = world.proxy.counts - before
    lists = {"/api/v1/jobs", "/api/v1/projects", "/api/v1/artifacts"}
    assert {path for _, path in asked} <= lists  # and neither a job nor a stream


def test_a_projects_events_are_followed_as_lines(world: World) -> None:
    world.service.make_job("first", project="proj", status="running")
    wait_until(lambda: "proj" in os.listdir(world.path / "projects"), 20)
    with world.following("projects/proj/events.jsonl") as shown:
        wait_until(lambda: "snapshot" in shown(), 20)
        world.service.print_output("first", "hello\n")
        wait_until(lambda: "hello" in shown(), 20)
        events = [json.loads(line) for line in shown().splitlines()]
        assert [event["event"] for event in events] == ["snapshot", "task"]
        assert events[1]["data"]["live_feedback"]["output_tail"] == "hello\n"
    wait_until(lambda: os.listdir(world.path / "projects/proj/jobs") == ["first"], 20)
    assert "No such file" in world.sh("ls projects/nope", status=2)


def test_a_driver_that_is_killed_and_a_stream_that_is_stuck(tmp_path: Path) -> None:
    with (
        LocalController(tmp_path / "service", heartbeat=0.2) as service,
        FaultProxy(service.url) as proxy,
    ):
        (tmp_path / "user").mkdir()
        user = UserMount(tmp_path / "user", proxy.url, service.token, "native")
        log = user.path / "jobs" / "job" / "live.log"
        try:
            user.mount()
            service.make_job("job", status="running")
            service.print_output("job", "before the kill\n")
            with _opened(log) as grown:
                wait_until(lambda: grown() == "before the kill\n", 20)
                service.print_output("job", "followed to the kill\n")
                wait_until(lambda: grown().endswith("followed to the kill\n"), 20)
                user.kill()
            service.print_output("job", "while it was dead\n")
            proxy.break_with(path="/jobs/job/stream", stall_after=0, times=99)
            user.mount()
            lines = "before the kill\nfollowed to the kill\nwhile it was dead\n"
            with _opened(log) as grown:
                wait_until(lambda: grown() == lines, 20)
                wait_until(lambda: proxy.count("GET", "/jobs/job/stream") > 1, 20)
            user.unmount()
            wait_until(lambda: not _drivers(user.path), 20)
        finally:
            _force_away(user)


@contextlib.contextmanager
def _opened(log: Path) -> Iterator[Callable[[], str]]:
    """An open log, and what could be read of it so far."""

    def opened() -> TextIO | None:
        try:
            return log.open()
        except TimeoutError:
            return None

    with wait_until(opened, 30) as file:
        read: list[str] = []

        def grown() -> str:
            read.append(file.read())
            return "".join(read)

        yield grown


def _drivers(mountpoint: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(mountpoint) in path.read_bytes() and path.parent.name != "self":
                found.append(path.parent.name)
    return found
