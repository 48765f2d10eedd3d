"""Jobs, tasks, results and events in whatever shape a service may have them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.errors import BadAnswer
from artifactfs.model import Job, Task
from artifactfs.remote import wire_jobs

KEYS = """
    id job_id task_id index status job tasks data error output live_feedback progress output_tail
    result_quality result_warnings completeness latest_progress
"""
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS.split()) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=25,
)


@given(anything)
def test_no_json_breaks_the_reading(document: Any) -> None:
    text = json.dumps(document)
    wire_jobs.change("task", text, "job_1")
    wire_jobs.change("message", text)
    wire_jobs.verdict(text.encode())
    wire_jobs.output(text.encode(), "application/json")
    list(wire_jobs.jobs((document,)))
    list(wire_jobs.projects((document,)))
    try:
        wire_jobs.tasks_of(text.encode(), "GET")
        wire_jobs.answered_job(text.encode(), "job_1")
    except BadAnswer as error:
        assert "GET" in str(error)


def test_a_job_under_other_names() -> None:
    plain = wire_jobs.job({"id": "j", "status": "RUNNING", "project": {"name": "p"}})
    assert plain == Job("j", "running", "p")
    assert wire_jobs.job({"data": {"job_id": 7, "error": {"message": "bad"}}}).error == "bad"
    with pytest.raises(BadAnswer, match="status"):
        wire_jobs.answered_job(b'{"id": "j"}', "j")


@pytest.mark.parametrize(
    ("latest", "progress", "doing"),
    [
        (0.25, 0.25, None),
        (40, 0.4, None),
        ({"percent": 1}, 0.01, None),
        ({"step": 3, "total": 4, "message": "fitting"}, 0.75, "fitting"),
        ("epoch 3", None, "epoch 3"),
        (True, None, None),
    ],
)
def test_progress_in_several_forms(latest: Any, progress: float | None, doing: str | None) -> None:
    task = wire_jobs.task({"index": 0, "latest_progress": latest})
    assert (task.progress, task.doing) == (progress, doing)


def test_events_of_one_task_of_a_job_and_of_everything() -> None:
    delta = {"task_id": "t", "index": 2, "live_feedback": {"output_tail": "x"}}
    found = wire_jobs.change("task", json.dumps(delta), "j")
    assert found is not None
    assert found.tasks == (Task(2, "t", output_tail="x"),)
    found = wire_jobs.change("message", json.dumps({"type": "?", "data": {"job_id": "j"} | delta}))
    assert found is not None
    assert found.job_id == "j"
    found = wire_jobs.change("job", '{"job_id": "j", "id": "j", "status": "failed"}')
    assert found is not None
    assert found.job == Job("j", "failed")
    snapshot = {"job_id": "j", "job": {"id": "j", "status": "queued"}, "tasks": [{}, {"index": 5}]}
    found = wire_jobs.change("snapshot", json.dumps(snapshot))
    assert found is not None
    assert found.whole
    assert [task.index for task in found.tasks] == [0, 5]
    deltas = {"job_id": "j", "tasks": [{"id": "t9", "status": "running"}]}
    found = wire_jobs.change("task_delta", json.dumps(deltas))
    assert found is not None
    assert found.tasks == (Task(None, "t9", "running"),)  # its place among the news is no index
    assert not found.whole
    assert wire_jobs.change("job", "no json", "j") is None


def test_the_verdict_of_a_result_is_its_worst_task() -> None:
    result = {
        "completeness": 0.5,
        "result_warnings": ["few samples"],
        "tasks": [
            {"result_quality": 0.9},
            {"result_quality": 0.25, "result_warnings": [{"message": "drift"}]},
            {"result_quality": None},
        ],
    }
    found = wire_jobs.verdict(json.dumps(result).encode())
    assert found == wire_jobs.ResultVerdict(0.25, "0.5", ("few samples", "drift"))
    assert wire_jobs.verdict(b"[]") == wire_jobs.ResultVerdict(None, None, ())


def test_output_is_text_or_the_texts_of_an_object() -> None:
    assert wire_jobs.output(b"\xff raw", "text/plain") == b"\xff raw"
    both = json.dumps({"stdout": "out\n", "stderr": "err"}).encode()
    assert wire_jobs.output(both, "application/json") == b"out\nerr\n"
    assert wire_jobs.output(b'{"output": "o", "error": "e"}', "application/json") == b"o"
