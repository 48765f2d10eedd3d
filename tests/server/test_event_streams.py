"""Server-sent events of jobs, of several jobs, of projects."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from artifactfs.server.testing import LocalController
from tests.server.conftest import Client, Stream, code_of


@pytest.fixture
def job(controller: LocalController, account: str) -> Iterator[str]:
    name = f"streamed-{account}"
    controller.make_job(
        name,
        account=account,
        status="running",
        project=f"project-{account}",
        client_ref="mine",
        tags=["t"],
        meta={"m": 1},
        variant="v",
    )
    yield name


def test_a_jobs_stream_begins_with_a_snapshot_and_ends_with_the_job(
    controller: LocalController, client: Client, job: str
) -> None:
    controller.print_output(job, "before\n")
    with Stream(client, f"jobs/{job}/stream") as stream:
        assert stream.answer.headers["Content-Type"] == "text/event-stream"
        first = stream.next()
        assert first is not None
        kind, data = first
        assert kind == "snapshot"
        assert stream.retry is not None
        assert data["job"]["status"] == "running"
        assert data["tasks"][0]["live_feedback"]["output_tail"] == "before\n"
        controller.print_output(job, "after\n")
        second = stream.next()
        assert second is not None
        kind, data = second
        assert kind == "task"
        assert (data["job_id"], data["task_id"], data["index"]) == (job, "task_0", 0)
        assert data["live_feedback"]["output_tail"] == "before\nafter\n"
        controller.end_job(job)
        third = stream.next()
        assert third is not None
        kind, data = third
        assert (kind, data["status"]) == ("job", "completed")
        assert stream.next() is None


def test_frames_keep_what_the_job_was_given(
    controller: LocalController, client: Client, job: str
) -> None:
    with Stream(client, f"jobs/watch?ids={job}") as stream:
        stream.next()
        controller.dev(f"jobs/{job}", {"summary": {"n": 2}, "result_persisted": True})
        event = stream.next()
    assert event is not None
    data = event[1]
    assert (data["client_ref"], data["tags"], data["meta"], data["variant"]) == (
        "mine",
        ["t"],
        {"m": 1},
        "v",
    )
    assert (data["summary"], data["result_persisted"]) == ({"n": 2}, True)


def test_a_broken_stream_is_resumed_without_a_gap(
    controller: LocalController, client: Client, job: str
) -> None:
    with Stream(client, f"jobs/{job}/stream") as stream:
        stream.next()
        controller.print_output(job, "1")
        stream.next()
        seen = stream.last_id
    for text in "234":
        controller.print_output(job, text)
    with Stream(client, f"jobs/{job}/stream", **{"Last-Event-ID": seen}) as stream:
        tails = []
        for _ in range(3):
            event = stream.next()
            assert event is not None
            assert event[0] == "task"
            tails.append(event[1]["live_feedback"]["output_tail"])
    assert tails == ["12", "123", "1234"]


def test_a_stream_is_resumed_over_a_restart(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own()
    client = as_owner(running)
    running.make_job("j", status="running")
    with Stream(client, "jobs/j/stream") as stream:
        stream.next()
        seen = stream.last_id
    running.print_output("j", "missed")
    running.kill()
    running.start()
    with Stream(client, "jobs/j/stream", **{"Last-Event-ID": seen}) as stream:
        event = stream.next()
        assert event is not None
        assert event[1]["live_feedback"]["output_tail"] == "missed"
        running.end_job("j")
        event = stream.next()
        assert event is not None
        assert event[0] == "job"


@pytest.mark.parametrize("last", ["999999999", "x", "-1", "9" * 400])
def test_whoever_has_seen_what_nobody_knows_gets_a_snapshot(
    client: Client, job: str, last: str
) -> None:
    with Stream(client, f"jobs/{job}/stream", **{"Last-Event-ID": last}) as stream:
        event = stream.next()
    assert event is not None
    assert event[0] == "snapshot"


def test_while_nothing_happens_a_heartbeat_does(
    controller: LocalController, client: Client, job: str
) -> None:
    with Stream(client, f"jobs/{job}/stream") as stream:
        stream.next()
        for line in stream.lines:
            if line.startswith(":"):
                break
        controller.print_output(job, "x")
        event = stream.next()
    assert event is not None
    assert event[0] == "task"


def test_the_stream_of_an_ended_job_is_its_snapshot(
    controller: LocalController, client: Client, job: str
) -> None:
    controller.end_job(job, "failed")
    with Stream(client, f"jobs/{job}/stream") as stream:
        event = stream.next()
        assert event is not None
        assert event[1]["job"]["status"] == "failed"
        assert stream.next() is None


def test_several_jobs_are_watched_until_all_have_ended(
    controller: LocalController, client: Client, account: str
) -> None:
    names = [f"w{index}-{account}" for index in range(3)]
    for name in names:
        controller.make_job(name, account=account, status="running")
    with Stream(client, f"jobs/watch?ids={names[0]},{names[1]}") as stream:
        snapshots = [stream.next(), stream.next()]
        assert {event[1]["job_id"] for event in snapshots if event} == set(names[:2])
        controller.print_output(names[2], "not watched")
        for name in names[:2]:
            controller.end_job(name)
            event = stream.next()
            assert event is not None
            assert (event[0], event[1]["job_id"]) == ("job", name)
        assert stream.next() is None


def test_a_projects_stream_has_all_its_jobs_also_new_ones(
    controller: LocalController, client: Client, account: str, job: str
) -> None:
    project = f"project-{account}"
    with Stream(client, f"projects/{project}/stream") as stream:
        event = stream.next()
        assert event is not None
        assert event[1]["job_id"] == job
        controller.end_job(job)
        assert stream.next() is not None
        controller.make_job(f"new-{account}", account=account, project=project)
        controller.make_job(f"foreign-{account}", account="foreign", project=project)
        controller.print_output(f"new-{account}", "hello")
        seen = [stream.next(), stream.next()]
    assert [(event[0], event[1]["job_id"]) for event in seen if event] == [
        ("job", f"new-{account}"),
        ("task", f"new-{account}"),
    ]


def test_any_event_can_be_played(controller: LocalController, client: Client, job: str) -> None:
    with Stream(client, f"jobs/{job}/stream") as stream:
        stream.next()
        controller.dev(f"jobs/{job}/event", {"kind": "surprise", "data": [1, {"a": "ü\n"}]})
        assert stream.next() == ("surprise", [1, {"a": "ü\n"}])


def test_streams_of_unknown_and_foreign_jobs_are_refused(
    controller: LocalController, client: Client, job: str
) -> None:
    controller.make_job("streamed-elsewhere", account="elsewhere")
    for path in ("jobs/nobody/stream", f"jobs/watch?ids={job},nobody"):
        answer = client.get(path)
        assert (answer.status_code, code_of(answer)) == (404, "not_found")
    for path in ("jobs/streamed-elsewhere/stream", f"jobs/watch?ids={job},streamed-elsewhere"):
        answer = client.get(path)
        assert (answer.status_code, code_of(answer)) == (403, "forbidden")
    for path in ("jobs/watch", "jobs/watch?ids=", "jobs/watch?ids=,,"):
        answer = client.get(path)
        assert (answer.status_code, code_of(answer)) == (422, "invalid_field")
