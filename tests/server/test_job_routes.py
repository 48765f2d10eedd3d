"""Jobs, tasks, outputs, results and projects as they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from artifactfs.server.testing import LocalController
from tests.server.conftest import Client, code_of


@pytest.fixture
def job(controller: LocalController, account: str) -> Iterator[str]:
    """A running job of the client's account; its id."""
    name = f"job-{account}"
    controller.make_job(name, account=account, status="running", project="demo", tags=["a"])
    yield name


def test_a_job_shows_the_fields_it_was_given(client: Client, job: str) -> None:
    shown = client.get(f"jobs/{job}").json()
    assert shown["id"] == job
    assert (shown["status"], shown["project"], shown["tags"]) == ("running", "demo", ["a"])
    assert {"error", "recommended_action", "created_at"} <= set(shown)


def test_jobs_and_projects_are_listed_page_by_page(
    controller: LocalController, client: Client, account: str
) -> None:
    for index in range(5):
        controller.make_job(f"{account}-{index}", account=account, project=f"p{index % 2}")
    first = client.get("jobs", params={"limit": 3}).json()
    second = client.get("jobs", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    shown = [job["id"] for job in first["jobs"] + second["jobs"]]
    assert shown == [f"{account}-{index}" for index in (4, 3, 2, 1, 0)]
    assert second["next_cursor"] is None
    assert client.get("projects").json() == {"projects": [{"name": "p0"}, {"name": "p1"}]}


def test_a_task_prints_and_output_is_what_all_have_printed(
    controller: LocalController, client: Client, job: str
) -> None:
    controller.print_output(job, "one\n")
    controller.print_output(job, "two\n", task=1)
    controller.print_output(job, "three é\n")
    output = client.get(f"jobs/{job}/output")
    assert output.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert output.text == "one\nthree é\ntwo\n"
    tasks = client.get(f"jobs/{job}/tasks").json()["tasks"]
    assert [task["index"] for task in tasks] == [0, 1]
    assert tasks[0]["output"] == "one\nthree é\n"
    assert tasks[0]["live_feedback"]["output_tail"] == "one\nthree é\n"
    assert {"id", "status", "error", "exit_code", "latest_progress"} <= set(tasks[0])


def test_of_long_output_a_task_shows_the_end(
    controller: LocalController, client: Client, job: str
) -> None:
    text = "".join(f"line {index}\n" for index in range(5000))
    controller.print_output(job, text)
    (task,) = client.get(f"jobs/{job}/tasks").json()["tasks"]
    assert task["output"] == text[-10_240:]
    tail = task["live_feedback"]["output_tail"]
    assert text.endswith(tail)
    assert 0 < len(tail) < len(task["output"])
    assert client.get(f"jobs/{job}/output").text == text


def test_a_new_attempt_keeps_the_failed_ones_output_until_it_prints(
    controller: LocalController, client: Client, job: str
) -> None:
    controller.print_output(job, "it breaks\n")
    controller.dev(f"jobs/{job}/tasks", {"index": 0, "again": True, "status": "running"})
    assert client.get(f"jobs/{job}/output").text == "it breaks\n"
    (task,) = client.get(f"jobs/{job}/tasks").json()["tasks"]
    assert task["live_feedback"]["output_tail"] == ""
    controller.print_output(job, "it works\n")
    assert client.get(f"jobs/{job}/output").text == "it works\n"


def test_output_can_be_replaced_and_shrink(
    controller: LocalController, client: Client, job: str
) -> None:
    controller.dev(f"jobs/{job}", {"output": "preflight failed: no such image"})
    assert client.get(f"jobs/{job}/output").text == "preflight failed: no such image"
    controller.dev(f"jobs/{job}", {"output": "short"})
    assert client.get(f"jobs/{job}/output").text == "short"


def test_tasks_can_be_set_all_at_once_and_show_any_field(
    controller: LocalController, client: Client, job: str
) -> None:
    controller.print_output(job, "gone with the others", task=7)
    tasks = [
        {"status": "completed", "exit_code": 0, "append": "x"},
        {"index": 4, "id": "t4", "live_feedback": {"output_tail": "just this"}},
    ]
    controller.dev(f"jobs/{job}/tasks", {"tasks": tasks})
    shown = client.get(f"jobs/{job}/tasks").json()["tasks"]
    assert [(task["id"], task["index"]) for task in shown] == [("task_0", 0), ("t4", 4)]
    assert (shown[0]["exit_code"], shown[0]["output"]) == (0, "x")
    assert shown[1]["live_feedback"] == {"output_tail": "just this"}


def test_a_result_is_409_while_it_runs_404_if_there_is_none_and_then_itself(
    controller: LocalController, client: Client, job: str
) -> None:
    early = client.get(f"results/{job}")
    assert (early.status_code, code_of(early)) == (409, "not_ended")
    controller.end_job(job, "failed", error="out of memory", recommended_action="use less")
    none = client.get(f"results/{job}")
    assert (none.status_code, code_of(none)) == (404, "not_found")
    shown = client.get(f"jobs/{job}").json()
    assert (shown["status"], shown["error"]) == ("failed", "out of memory")
    assert shown["recommended_action"] == "use less"
    result = {"summary": {"n": 1.0}, "result_persisted": True, "tasks": [{"result_quality": 0.5}]}
    controller.dev(f"jobs/{job}", {"result": result})
    assert client.get(f"results/{job}").json() == result


def test_a_result_can_be_partial_and_reaches_the_caller_to_the_byte(
    controller: LocalController, client: Client, job: str
) -> None:
    text = '{"big": 12345678901234567890123, "small": 1e-400, "z": 1.00, "a": "\\ud800"}'
    controller.dev(f"jobs/{job}", {"result_text": text})
    answer = client.get(f"results/{job}")
    assert answer.status_code == 200
    assert answer.content == text.encode()


@pytest.mark.parametrize("path", ["jobs/{}", "jobs/{}/output", "jobs/{}/tasks", "results/{}"])
def test_an_unknown_job_is_404_and_another_accounts_403(
    controller: LocalController, client: Client, path: str
) -> None:
    unknown = client.get(path.format("nobody-knows"))
    assert (unknown.status_code, code_of(unknown)) == (404, "not_found")
    controller.make_job("elsewhere", account="elsewhere")
    foreign = client.get(path.format("elsewhere"))
    assert (foreign.status_code, code_of(foreign)) == (403, "forbidden")
    assert client.get("jobs").json()["jobs"] == []


def test_a_job_can_be_replaced(controller: LocalController, client: Client, account: str) -> None:
    name = f"again-{account}"
    controller.make_job(name, account=account, tasks=[{"append": "old"}], result={"a": 1})
    controller.make_job(name, account=account, status="running")
    assert client.get(f"jobs/{name}/tasks").json() == {"tasks": []}
    assert client.get(f"results/{name}").status_code == 409
    assert [job["id"] for job in client.get("jobs").json()["jobs"]] == [name]


def test_jobs_stay_over_a_kill(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own()
    client = as_owner(running)
    running.make_job("j1", status="running", project="p", meta={"a": [1]})
    running.print_output("j1", "before\n")
    running.dev("jobs/j1/tasks", {"index": 0, "again": True})
    running.print_output("j1", "one\n")
    running.print_output("j1", "two\n")
    running.make_job("j2", status="running")
    running.end_job("j2", result={"ok": True})
    paths = ("jobs", "jobs/j1", "jobs/j1/tasks", "jobs/j1/output", "results/j2", "projects")
    before = {path: client.get(path).content for path in paths}
    assert json.loads(before["results/j2"]) == {"ok": True}
    running.kill()
    running.start()
    assert {path: client.get(path).content for path in paths} == before
    running.make_job("j3")
    assert [job["id"] for job in client.get("jobs").json()["jobs"]] == ["j3", "j2", "j1"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("jobs", {}),
        ("jobs", {"id": 1}),
        ("jobs", {"id": "x", "tasks": {}}),
        ("jobs", {"id": "x", "tasks": [1]}),
        ("jobs", {"id": "x", "tasks": [{"index": "1"}]}),
        ("jobs/{}/tasks", {}),
        ("jobs/{}/tasks", {"index": None}),
        ("jobs/{}/event", {}),
    ],
)
def test_what_cannot_be_played_is_refused(
    controller: LocalController,
    as_owner: Callable[..., Client],
    job: str,
    path: str,
    body: dict[str, object],
) -> None:
    answer = as_owner(controller).post(f"_dev/{path.format(job)}", body)
    assert (answer.status_code, code_of(answer)) == (422, "invalid_field")
