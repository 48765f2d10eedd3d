"""``logs``, ``result`` and ``watch`` against a real service, without a mount."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactfs.cli import cli
from artifactfs.cli.errors import run_command
from artifactfs.demo.job_program import ProgramJob
from artifactfs.jobs import watch
from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalController]:
    with LocalController(tmp_path_factory.mktemp("service") / "data") as running:
        yield running


@pytest.fixture
def command(
    service: LocalController, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture
) -> Command:
    """Carries out ``artifactfs WORDS`` in this process: status, output, errors."""
    monkeypatch.setenv("ARTIFACTFS_URL", service.url)
    monkeypatch.setenv("ARTIFACTFS_TOKEN", service.token)
    monkeypatch.setenv("ARTIFACTFS_HTTP_RETRY_FOR", "0")

    def do(*words: str) -> tuple[int, str, str]:
        capfdbinary.readouterr()
        status = run_command(cli, words, "artifactfs")
        out, err = capfdbinary.readouterr()
        return status, out.decode(), err.decode()

    return do


def test_a_programs_log_is_followed_through_its_retry(
    service: LocalController, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ProgramJob(service, "program", tmp_path / "program", pause_s=0.0)
    job.make()

    def begin() -> None:
        wait_until(lambda: proxy.count("GET", "/jobs/program/stream"), 30)
        job.start()

    with FaultProxy(service.url) as proxy, monkeypatch.context() as patched:
        patched.setenv("ARTIFACTFS_URL", proxy.url)
        beginning = threading.Thread(target=begin)
        beginning.start()
        try:
            status, out, _ = command("logs", "-f", "program")
            beginning.join()
            assert job.wait(10)
        finally:
            job.close()
    assert status == 0
    first, mark, second = out.partition("--- artifactfs: ")
    lines = [line.split()[1] for line in first.splitlines() if line.startswith("epoch")]
    assert lines == [f"{number}/30" for number in range(1, 8)]
    assert "MemoryError" in first
    assert mark
    assert second.startswith("the attempt before failed (exit status 1: ")
    lines = [line.split()[1] for line in second.splitlines() if line.startswith("epoch")]
    assert lines == [f"{number}/30" for number in range(1, 31)]
    assert command("result", "--wait", "program")[0] == 0
    document = json.loads(command("result", "program")[1])
    assert document["tasks"][0]["result_quality"] > 0.9
    status, out, _ = command("ls", "--json")
    assert [(one["name"], one["job_id"]) for one in json.loads(out)] == [("fit.csv", "program")]


def test_a_log_as_it_is_now_from_its_beginning(service: LocalController, command: Command) -> None:
    text = "".join(f"line {number}\n" for number in range(3000))
    service.make_job("long", status="running", tasks=[{"status": "running", "append": text}])
    assert command("logs", "long") == (0, text, "")


def test_a_result_is_the_services_own(service: LocalController, command: Command) -> None:
    service.make_job("resulting", status="running")
    status, _, said = command("result", "resulting")
    assert (status, "no result yet" in said) == (1, True)
    ending = threading.Timer(0.2, service.end_job, ["resulting"], {"result_text": '{"a":1.50}'})
    ending.start()
    assert command("result", "--wait", "resulting") == (0, '{\n  "a": 1.50\n}\n', "")
    ending.join()
    assert command("result", "--raw", "resulting") == (0, '{"a":1.50}', "")


@pytest.mark.parametrize("words", [("logs",), ("logs", "-f"), ("result",), ("watch",)])
def test_a_job_that_nobody_knows(command: Command, words: tuple[str, ...]) -> None:
    status, out, said = command(*words, "nobody-knows")
    assert status == (2 if words == ("watch",) else 1)
    assert out == ""
    assert "nobody-knows" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("way", ["stream", "polled"])
def test_several_jobs_are_watched_until_all_have_ended(
    service: LocalController, command: Command, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    good, bad = f"good-{way}", f"bad-{way}"
    for job in (good, bad):
        service.make_job(job, status="running", project=f"project-{way}")
        service.print_output(job, "first line\n")

    with FaultProxy(service.url) as proxy, monkeypatch.context() as patched:
        patched.setenv("ARTIFACTFS_URL", proxy.url)
        if way == "polled":
            patched.setattr(watch, "POLL_S", 0.05)
            proxy.break_with(path="/jobs/watch", status=404, times=9)

        def end() -> None:
            wait_until(lambda: proxy.count("GET", "/jobs/watch"), 30)
            progress = {"index": 0, "append": "last line\n", "latest_progress": 0.5}
            service.dev(f"jobs/{good}/tasks", progress)
            service.end_job(good, result={"tasks": [{"result_quality": 0.999}]})
            service.end_job(bad, "failed", error="boom")

        ending = threading.Thread(target=end)
        ending.start()
        status, out, _ = command("watch", "--json", good, bad)
        ending.join()
        assert proxy.count("GET", "/jobs/watch") == 1
    assert status == 1
    last = {one["job_id"]: one for one in map(json.loads, out.splitlines())}
    assert last[good]["status"] == "completed"
    assert last[good]["last_line"] == "last line"
    assert (last[good]["progress"], last[good]["quality"]) == (1.0, 0.999)
    assert (last[bad]["status"], last[bad]["error"]) == ("failed", "boom")
    status, out, _ = command("watch", good)
    assert (status, out) == (0, f"{good} completed, quality 0.99\n")
    status, out, _ = command("watch", "--project", f"project-{way}")
    assert status == 1
    assert sorted(out.splitlines()) == [f"{bad} failed: boom", f"{good} completed, quality 0.99"]


def test_a_service_that_cannot_be_reached_is_trouble_of_its_own(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTIFACTFS_URL", "http://127.0.0.1:9")
    status, _, said = command("watch", "x")
    assert status == 2
    assert "127.0.0.1:9" in said


def test_ctrl_c_ends_the_following(service: LocalController) -> None:
    service.make_job("endless", status="running")
    service.print_output("endless", "something\n")
    environment = os.environ | {"ARTIFACTFS_URL": service.url, "ARTIFACTFS_TOKEN": service.token}
    following = subprocess.Popen(
        [sys.executable, "-m", "artifactfs", "logs", "-f", "endless"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stdout is not None
    assert following.stdout.readline() == "something\n"
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=30)
    assert following.returncode == 130
    assert "Traceback" not in said
