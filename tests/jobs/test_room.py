"""The room that knows of jobs, over a real service and a proxy that gets in the way."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifactfs.config import HttpConfig
from artifactfs.errors import NotAllowed, RemoteError
from artifactfs.jobs import (
    Document,
    JobRegistry,
    documents,
    live_logs,
    log_store,
)
from artifactfs.jobs.log_store import LogStore, StoredLog
from artifactfs.remote import Service
from artifactfs.server.testing import LocalController
from artifactfs.token import Secret, TokenSource
from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until

MARK = "--- artifactfs: "


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalController]:
    directory = tmp_path_factory.mktemp("service") / "data"
    with LocalController(directory, heartbeat=0.2) as running:
        yield running


@pytest.fixture
def proxy(service: LocalController) -> Iterator[FaultProxy]:
    with FaultProxy(service.url) as one:
        yield one


Open = Callable[..., JobRegistry]


@pytest.fixture
def opened(service: LocalController, proxy: FaultProxy, tmp_path: Path) -> Iterator[Open]:
    """Starts a room over one directory; what was started before goes on."""
    with contextlib.ExitStack() as closing:

        def start(**more: Any) -> JobRegistry:
            http = HttpConfig(timeout_s=5.0, retry_for_s=1.0)
            token = TokenSource("test", value=Secret(service.token))
            remote = Service(proxy.url, token, http)
            room = JobRegistry(
                remote.jobs, tmp_path / "cache", origin="test", ttl_s=10.0,
                **{"linger_s": 0.0, "poll_s": 0.05} | more,
            )  # fmt: skip
            room.start()
            closing.callback(room.close)
            closing.callback(remote.close)
            return room

        yield start


def text(room: JobRegistry, job: str, index: int | None = None) -> str:
    files = room.logs.job(job).files
    return files.read(index, 0, files.size(index)).decode()


def follow(room: JobRegistry, job: str, until: str) -> None:
    """Follow the job until its log ends with this."""
    close = room.logs.open_job(job, 20.0)
    wait_until(lambda: text(room, job).endswith(until))
    close()


def test_a_stream_ends_when_the_last_reader_has_gone(
    service: LocalController, opened: Open, proxy: FaultProxy
) -> None:
    service.make_job("read", status="running")
    service.print_output("read", "x\n")
    room = opened()
    first, second = room.logs.open_job("read", 5.0), room.logs.open_job("read", 20.0)
    assert text(room, "read") == "x\n"
    assert room.logs.followed == 1
    first()
    first()  # once more does not count twice
    service.print_output("read", "y\n")
    wait_until(lambda: text(room, "read") == "x\ny\n")
    assert room.logs.followed == 1
    second()
    wait_until(lambda: room.logs.followed == 0)
    wait_until(lambda: not any(one.name == "artifactfs-follow" for one in threading.enumerate()))
    service.print_output("read", "z\n")
    close = room.logs.open_job("read", 20.0)
    wait_until(lambda: proxy.count("GET", "/jobs/read/stream") == 2)
    close()
    assert text(room, "read") == "x\ny\nz\n"


def test_a_log_is_taken_up_again_where_it_was(service: LocalController, opened: Open) -> None:
    service.make_job("again", status="running")
    service.print_output("again", "first line\nsecond line\n")
    room = opened()
    follow(room, "again", "second line\n")
    room.close()
    service.print_output("again", "third line\n")
    room = opened()
    assert text(room, "again") == "first line\nsecond line\n"
    follow(room, "again", "third line\n")
    assert text(room, "again") == text(room, "again", 0)
    assert text(room, "again") == "first line\nsecond line\nthird line\n"


def test_a_log_whose_process_was_killed_doubles_nothing(
    service: LocalController, opened: Open, tmp_path: Path
) -> None:
    service.make_job("killed", status="running")
    service.print_output("killed", "first line, long enough\n")
    room = opened()
    follow(room, "killed", "enough\n")
    wait_until(lambda: room.logs.followed == 0)
    room.logs.job("killed").save()
    place = room.logs.job("killed").files.directory
    state = (place / "live.state").read_bytes()
    service.print_output("killed", "second line, not saved\n")
    follow(room, "killed", "not saved\n")
    wait_until(lambda: room.logs.followed == 0)
    room.close()
    (place / "live.state").write_bytes(state)  # as if the last save had not come about
    service.print_output("killed", "third line\n")
    room = opened()
    follow(room, "killed", "third line\n")
    lines = "first line, long enough\nsecond line, not saved\nthird line\n"
    assert text(room, "killed") == text(room, "killed", 0) == lines


def test_state_that_cannot_be_read_begins_anew(service: LocalController, opened: Open) -> None:
    service.make_job("broken", status="running")
    service.print_output("broken", "a line\n")
    room = opened()
    follow(room, "broken", "a line\n")
    place = room.logs.job("broken").files.directory
    room.close()
    for damage in (b"{", b'{"sizes": {"": 7}, "writer": {"weaver": 1}}', b'{"sizes": {"": 99}}'):
        (place / "live.state").write_bytes(damage)
        room = opened()
        follow(room, "broken", "a line\n")
        assert text(room, "broken").count("a line\n") == 1
        room.close()


def test_two_mounts_of_one_directory_write_a_log_each(
    service: LocalController, opened: Open
) -> None:
    service.make_job("both", status="running")
    service.print_output("both", "1\n")
    rooms = opened(), opened()
    closes = [room.logs.open_job("both", 20.0) for room in rooms]
    service.print_output("both", "2\n")
    for room in rooms:
        wait_until(lambda room=room: text(room, "both") == "1\n2\n")
    for close in closes:
        close()
    own = rooms[1].logs.job("both").files.directory
    assert own != rooms[0].logs.job("both").files.directory
    rooms[1].close()
    assert not own.exists()


def test_a_disk_that_does_not_take_it_is_a_marked_gap(
    service: LocalController, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.make_job("full", status="running")
    service.print_output("full", "before\n")
    room = opened()
    close = room.logs.open_job("full", 20.0)
    wait_until(lambda: text(room, "full") == "before\n")
    append = log_store.StoredLog.append
    refused: list[int | None] = []

    def full(log: log_store.StoredLog, index: int | None, texts: list[str]) -> None:
        refused.append(index)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(log_store.StoredLog, "append", full)
    service.print_output("full", "lost\n")
    wait_until(lambda: refused == [0, None])
    monkeypatch.setattr(log_store.StoredLog, "append", append)
    service.print_output("full", "after\n")
    wait_until(lambda: text(room, "full").endswith("after\n"))
    assert text(room, "full") == f"before\n\n{MARK}output may be missing here ---\nafter\n"
    close()


def test_a_stream_that_says_nothing_does_not_hold_up_the_end(
    service: LocalController, opened: Open, proxy: FaultProxy
) -> None:
    service.make_job("stuck", status="running")
    proxy.break_with(path="/jobs/stuck/stream", stall_after=0, times=9)
    room = opened()
    close = room.logs.open_job("stuck", 20.0)
    wait_until(lambda: proxy.count("GET", "/jobs/stuck/stream") == 1)
    room.close()
    close()
    assert not any(one.name == "artifactfs-follow" for one in threading.enumerate())


def test_ended_jobs_are_asked_about_once_and_survive_the_mount(
    service: LocalController, opened: Open, proxy: FaultProxy
) -> None:
    service.make_job("ended", status="running")
    service.print_output("ended", "out\n")
    service.end_job("ended", result={"a": 1})
    room = opened()
    assert room.ask("ended", 20.0) is not None
    for _ in range(2):
        pages = room.documents.get_all("ended", list(Document), 10.0)
        assert all(page.final for page in pages)
        room.look("ended", 20.0)
        asked = proxy.count("GET")
        room.close()
        room = opened()
        room.ask("ended", 20.0)
    assert proxy.count("GET") == asked == 4
    assert text(room, "ended") == "out\n"
    assert room.documents.get("ended", Document.RESULT, 10.0).data == b'{"a": 1}'


def test_many_who_want_the_same_cost_one_request(
    service: LocalController, opened: Open, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "RUNNING_S", 60.0)
    service.make_job("wanted", status="running")
    proxy.break_with(path="/jobs/wanted", delay_s=0.3)
    room = opened()
    threads = [threading.Thread(target=room.ask, args=("wanted", 10.0)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert proxy.count("GET", "/jobs/wanted") == 1


def test_unknown_and_forbidden_ids_are_not_asked_for_again_at_once(
    service: LocalController, opened: Open, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "RUNNING_S", 60.0)
    service.make_job("anothers", account="another", status="running")
    room = opened()
    for _ in range(5):
        assert room.ask("unknown", 20.0) is None
        with pytest.raises(NotAllowed):
            room.ask("anothers", 20.0)
    assert proxy.count("GET", "/jobs/unknown") == 1
    assert proxy.count("GET", "/jobs/anothers") == 1
    assert not room.known.jobs


def test_a_service_that_does_not_answer_is_not_waited_for_twice(
    service: LocalController, opened: Open, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "TROUBLE_S", 60.0)
    service.make_job("slow", status="running")
    room = opened()
    room.documents.get("slow", Document.JOB, 20.0)
    proxy.break_with(path="/jobs/slow", stall_after=0, times=99)
    with pytest.raises(RemoteError):
        room.documents.get("slow", Document.TASKS, 0.1)
    assert room.documents.in_trouble
    asked = proxy.count("GET")
    for _ in range(3):
        with pytest.raises(RemoteError):
            room.documents.get("slow", Document.OUTPUT, 30.0)
        # What was known is shown, however old.
        wait_until(lambda: not room.documents.is_fresh("slow", Document.JOB))
        assert room.documents.get("slow", Document.JOB, 30.0).read.status == "running"
    assert proxy.count("GET") == asked


def test_a_service_without_lists_remembers_what_was_looked_up(
    service: LocalController, opened: Open, proxy: FaultProxy
) -> None:
    for path in ("/api/v1/jobs", "/api/v1/projects"):
        proxy.break_with(path=path, whole=True, status=404, times=99)
    service.make_job("named", status="completed", project="of-named")
    room = opened()
    assert room.freshen(10.0)
    before = set(room.known.jobs)
    assert room.ask("named", 20.0) is not None
    assert set(room.known.jobs) - before == {"named"}
    assert "of-named" in room.known.projects
    room.close()
    room = opened()
    assert not room.known.jobs
    assert room.freshen(10.0)
    assert "named" in room.known.jobs
    room.ask_project("has-a-stream", 20.0)
    assert "has-a-stream" in room.known.projects
    proxy.break_with(path="/projects/has-none/stream", status=404, times=99)
    room.ask_project("has-none", 20.0)
    assert "has-none" not in room.known.projects


def test_a_list_names_jobs_and_projects_and_no_end_is_taken_back(
    service: LocalController, opened: Open, proxy: FaultProxy
) -> None:
    service.make_job("listed", status="running", project="of-listed")
    room = opened()
    assert room.freshen(10.0)
    assert room.known.jobs["listed"].status == "running"
    assert "of-listed" in room.known.projects
    version = room.known.version
    service.end_job("listed")
    assert room.ask("listed", 20.0) is not None
    assert room.known.jobs["listed"].ended
    stale = {"jobs": [{"id": "listed", "status": "running"}, {"nonsense": True}]}
    proxy.break_with(
        path="/api/v1/jobs", whole=True, status=200, body=json.dumps(stale).encode(),
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert room.refresh(10.0)
    assert room.known.jobs["listed"].ended
    assert set(room.known.jobs) == {"listed"}
    assert room.known.version > version


def test_a_projects_events_go_on_where_they_were(service: LocalController, opened: Open) -> None:
    service.make_job("in-project", status="running", project="events")

    def lines(room: JobRegistry) -> list[dict[str, Any]]:
        files = room.logs.project("events").files
        read = files.read(None, 0, files.size(None)).decode()
        return [json.loads(line) for line in read.splitlines()]

    room = opened()
    close = room.logs.open_project("events", 20.0)
    wait_until(lambda: len(lines(room)) == 1)
    close()
    room.close()
    service.print_output("in-project", "while nobody looked\n")
    room = opened()
    close = room.logs.open_project("events", 20.0)
    wait_until(lambda: len(lines(room)) == 2)
    close()
    assert [one["event"] for one in lines(room)] == ["snapshot", "task"]


def test_the_shelf_keeps_within_its_size_and_away_from_open_logs(tmp_path: Path) -> None:
    shelf = LogStore(tmp_path, "test", most_bytes=350_000)
    for number in range(10):
        shelf.write(f"job-{number}", Document.OUTPUT, bytes(100_000), (number + 1) * 10**9)
        os.utime(shelf.place("jobs", f"job-{number}") / "id", ns=(0, 0))
    place = shelf.place("jobs", "job-0")
    log, second = StoredLog(place, "x.log", shelf.scratch), StoredLog(place, "x.log", shelf.scratch)
    abandoned = shelf.scratch / "left-by-a-crash"
    abandoned.mkdir()
    os.utime(abandoned, ns=(0, 0))
    for name in ("x.log", "live.lock"):
        os.utime(place / name, ns=(0, 0))
    shelf.sweep()
    left = set(shelf.remembered("jobs"))
    assert {"job-0", "job-9"} <= left
    assert len(left) <= 4
    assert second.directory.exists()
    assert not abandoned.exists()
    log.close()
    second.close()
    assert not second.directory.exists()


def test_only_so_many_jobs_are_followed(
    service: LocalController, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_logs, "MOST_FOLLOWED", 1)
    for job in ("one", "two"):
        service.make_job(job, status="running")
    room = opened()
    closes = [room.logs.open_job(job, 0.0) for job in ("one", "two")]
    assert room.logs.followed == 1
    for close in closes:
        close()


def test_idle_logs_are_closed_and_opened_again(
    service: LocalController, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_logs, "MOST_IDLE", 1)
    room = opened()
    close = None
    for number in range(4):
        job = f"idle-{number}"
        service.make_job(job, status="completed", tasks=[{"append": f"{job}\n"}])
        room.look(job, 20.0)
        close = close or room.logs.open_job(job, 20.0)
    assert [room.logs.known(f"idle-{n}") is None for n in range(4)] == [False, True, True, False]
    assert text(room, "idle-1") == "idle-1\n"
    assert close is not None
    close()
