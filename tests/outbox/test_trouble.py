"""What can go wrong between the outbox and the service, and what becomes of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from artifactfs.errors import SpoolFull
from artifactfs.outbox import EntryState, Uploader
from artifactfs.remote import Service
from artifactfs.server.testing import LocalController
from artifactfs.token import TokenSource
from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until

from .conftest import HTTP, Bench, digest, entry, write

LARGE = 11 << 20
PARTS = "/objects/parts/"


def put(bench: Bench, path: Path, data: bytes) -> str:
    """What the command ``put`` does."""
    path.write_bytes(data)
    uploader = Uploader(bench.service.uploads, bench.upload)
    return uploader.upload_file(path, path.name, cancelled=threading.Event()).id


def test_put_of_a_small_file_survives_a_connection_that_breaks(
    bench: Bench, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.break_with(method="POST", path="/api/v1/artifacts", lose_answer=True)
    put(bench, tmp_path / "small", b"small")
    assert bench.listed() == {"small": digest(b"small")}


def test_put_does_not_double_where_nothing_can_be_asked_by_hash(
    bench: Bench, proxy: FaultProxy, tmp_path: Path
) -> None:
    for path in ("/artifacts/direct", "/artifacts/multipart"):
        proxy.break_with(method="POST", path=path, status=501, times=99)
    proxy.break_with(method="POST", path="/api/v1/artifacts", lose_answer=True)
    put(bench, tmp_path / "small", b"small")
    assert bench.listed() == {"small": digest(b"small")}
    assert proxy.count("GET", "/api/v1/artifacts") > 0


def test_a_completion_whose_answer_is_lost_for_good_is_recognised_after_a_restart(
    bench: Bench, proxy: FaultProxy
) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/complete", lose_answer=True, times=99)
    data = os.urandom(LARGE)
    write(outbox, "large", data)
    wait_until(lambda: proxy.count("POST", "/complete") > 0, 30)
    bench.close(outbox)
    proxy.heal()
    sent = proxy.count("PUT", PARTS)
    assert bench.outbox().wait(timeout_s=30) == []
    assert bench.listed() == {"large": digest(data)}
    assert proxy.count("PUT", PARTS) == sent, "parts were sent again"


def test_a_completion_that_someone_else_is_about_is_asked_for_again(
    bench: Bench, proxy: FaultProxy
) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/complete", status=409, times=2)
    data = os.urandom(LARGE)
    write(outbox, "large", data)
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"large": digest(data)}
    assert proxy.count("POST", "/artifacts/multipart") - proxy.count("POST", "/complete") == 1


def test_an_upload_that_the_service_has_forgotten_begins_again(
    bench: Bench, proxy: FaultProxy
) -> None:
    proxy.break_with(method="PUT", path=PARTS, status=503, times=99, skip=1)
    outbox = bench.outbox()
    data = os.urandom(LARGE)
    write(outbox, "large", data)
    wait_until(lambda: proxy.count("PUT", PARTS) > 1, 30)
    bench.close(outbox)
    proxy.heal()
    proxy.break_with(method="GET", path="/artifacts/multipart/", status=404)
    assert bench.outbox().wait(timeout_s=30) == []
    assert bench.listed() == {"large": digest(data)}


@pytest.mark.parametrize("end", ["unlink", "overwrite", "rename"])
def test_an_upload_that_nobody_wants_any_more_is_given_up(
    bench: Bench, proxy: FaultProxy, end: str
) -> None:
    proxy.break_with(method="PUT", path=PARTS, status=503, times=99)
    outbox = bench.outbox()
    write(outbox, "large", os.urandom(LARGE))
    wait_until(lambda: proxy.count("PUT", PARTS) > 0, 30)
    if end == "unlink":
        outbox.unlink("large")
    elif end == "rename":
        outbox.rename("large", "other")
    else:
        file = outbox.open("large", os.O_WRONLY | os.O_TRUNC)
        file.write(0, b"small")
        file.flush(os.getpid())
        file.release()
    wait_until(lambda: proxy.count("DELETE", "/artifacts/multipart/") == 1, 30)
    proxy.heal()
    assert outbox.wait(timeout_s=30) == []


def test_a_file_changed_under_the_spool_is_not_taken_for_what_was_closed(
    bench: Bench, controller: LocalController
) -> None:
    controller.stop()
    outbox = bench.outbox()
    write(outbox, "file", b"as it was")
    bench.close(outbox)
    (spooled,) = bench.directory.rglob("files/*")
    spooled.write_bytes(b"as it is!")
    controller.start()
    again = bench.outbox()
    (left,) = again.wait(timeout_s=30)
    assert left.state is EntryState.FAILED
    assert "not any more what was closed" in (left.error or "")
    assert bench.listed() == {}
    assert again.retry("file") == 1
    assert again.wait(timeout_s=30) == []
    assert bench.listed() == {"file": digest(b"as it is!")}


def test_a_file_cut_off_under_the_spool_is_not_sent(
    bench: Bench, controller: LocalController
) -> None:
    controller.stop()
    outbox = bench.outbox()
    write(outbox, "file", b"x" * 1000)
    bench.close(outbox)
    (spooled,) = bench.directory.rglob("files/*")
    os.truncate(spooled, 10)
    controller.start()
    (left,) = bench.outbox().wait(timeout_s=30)
    assert left.state is EntryState.FAILED
    assert "has 10 bytes, 1000 were closed" in (left.error or "")


def test_a_write_that_failed_makes_no_artifact_however_it_is_closed(bench: Bench) -> None:
    bench.spool = type(bench.spool)(max_size_bytes=1000)
    outbox = bench.outbox()
    file = outbox.create("torso", 0o644)
    file.write(0, b"x" * 800)
    with pytest.raises(SpoolFull):
        file.write(800, b"x" * 800)
    file.flush(os.getpid())
    file.release()
    (left,) = outbox.wait(timeout_s=10)
    assert left.state is EntryState.INTERRUPTED
    assert "from 800 on could not be written" in (left.error or "")
    file = outbox.open("torso", os.O_WRONLY | os.O_TRUNC)
    file.write(0, b"all of it")
    file.flush(os.getpid())
    file.release()
    assert outbox.wait(timeout_s=10) == []
    assert bench.listed() == {"torso": digest(b"all of it")}


def test_a_token_that_is_revoked_and_renewed_delays_and_loses_nothing(
    bench: Bench, controller: LocalController, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    first = controller.add_token()
    file.write_text(first)
    bench.service.close()
    bench.service = Service(controller.url, TokenSource("file", path=file), HTTP)
    bench.uploads = bench.service.uploads
    outbox = bench.outbox()
    write(outbox, "before", b"before")
    assert outbox.wait(timeout_s=10) == []
    controller.remove_token(first)
    write(outbox, "after", b"after")
    wait_until(lambda: entry(outbox, "after").error is not None, 20)
    assert "401" in (entry(outbox, "after").error or "")
    assert entry(outbox, "after").state is not EntryState.FAILED
    file.write_text(controller.add_token())
    assert outbox.wait(timeout_s=30) == []
    assert bench.listed() == {"before": digest(b"before"), "after": digest(b"after")}


def test_a_viewer_uploads_nothing_and_a_member_mends_it(
    bench: Bench, controller: LocalController, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(controller.add_token(role="viewer"))
    bench.service.close()
    bench.service = Service(controller.url, TokenSource("file", path=file), HTTP)
    bench.uploads = bench.service.uploads
    outbox = bench.outbox()
    write(outbox, "file", b"x")
    (left,) = outbox.wait(timeout_s=10)
    assert left.state is EntryState.FAILED
    assert "a viewer may not do this (403)" in (left.error or "")
    bench.close(outbox)
    bench.service.close()
    file.write_text(controller.add_token())
    bench.service = Service(controller.url, TokenSource("file", path=file), HTTP)
    bench.uploads = bench.service.uploads
    again = bench.outbox()
    assert entry(again, "file").state is EntryState.FAILED
    assert again.retry() == 1
    assert again.wait(timeout_s=10) == []


def test_too_large_for_the_controller_goes_another_way(bench: Bench, proxy: FaultProxy) -> None:
    outbox = bench.outbox()
    proxy.break_with(method="POST", path="/api/v1/artifacts", status=413)
    write(outbox, "file", b"x" * 1000)
    assert outbox.wait(timeout_s=10) == []
    assert bench.listed() == {"file": digest(b"x" * 1000)}
    assert proxy.count("POST", "/artifacts/direct") >= 1
