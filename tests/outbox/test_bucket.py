"""The service over a real S3 server: direct and multipart uploads by presigned URLs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
import requests

from artifactfs.config import UploadConfig
from artifactfs.outbox import EntryState
from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until

from .conftest import Bench, digest, entry, write

BUCKET = "artifacts"
KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
PART = 5 << 20


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """moto's S3 server in a process of its own, behind a proxy that breaks things."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with (tmp_path / "s3.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        wait_until(lambda: _url_in(tmp_path / "s3.log"), 30)
        url = _url_in(tmp_path / "s3.log")
        assert url is not None
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket=BUCKET)
        client.close()
        with FaultProxy(url) as proxy:
            yield proxy
    finally:
        server.terminate()
        server.wait(10)


def _url_in(log: Path) -> str | None:
    found = re.search(r"Running on (http://\S+)", log.read_text())
    return found[1] if found else None


@pytest.fixture
def controller(tmp_path: Path, s3: FaultProxy) -> Iterator[LocalController]:
    options = {"store": f"s3://{BUCKET}/some/prefix", "endpoint_url": s3.url, "url_lifetime": 60}
    with LocalController(tmp_path / "service", part_size=PART, **options) as running:
        yield running


@pytest.fixture
def bench(tmp_path: Path, controller: LocalController) -> Iterator[Bench]:
    made = Bench(tmp_path / "spool", controller.url, controller.token)
    made.upload = UploadConfig(controller_max_bytes=1000, multipart_min_bytes=PART)
    try:
        yield made
    finally:
        for outbox in made.open:
            outbox.close()
        made.service.close()


def read(bench: Bench, controller: LocalController, name: str) -> bytes:
    """What another client of the service reads, redirected to the bucket."""
    found = next(one for one in bench.service.artifacts.list() if one.filename == name)
    answer = requests.get(
        f"{controller.url}/api/v1/artifacts/{found.id}",
        headers={"Authorization": f"Bearer {controller.token}"},
        allow_redirects=False,
        timeout=30,
    )
    assert answer.status_code == 302
    target = answer.headers["Location"]
    assert "X-Amz-Signature" in target
    assert "X-Amz-Expires=60" in target
    with requests.get(target, timeout=30) as content:
        content.raise_for_status()
        return content.content


@pytest.mark.parametrize("size", [0, 500, 5000, PART, 2 * PART + 1])
def test_every_way_ends_in_the_bucket_and_is_read_from_there(
    bench: Bench, controller: LocalController, size: int
) -> None:
    outbox = bench.outbox()
    data = os.urandom(size)
    write(outbox, "dir.bin", data)
    assert outbox.wait(timeout_s=60) == []
    assert bench.listed() == {"dir.bin": digest(data)}
    assert read(bench, controller, "dir.bin") == data
    keys = [one["Key"] for one in _contents()]
    assert keys == [f"some/prefix/blobs/{digest(data)[:2]}/{digest(data)}"]
    assert not any((controller.data / "blobs").rglob("??/*"))


def _contents() -> list[dict[str, str]]:
    """All that was brought; not the note whose bucket it is."""
    url = os.environ["TEST_S3"]
    client = boto3.client("s3", endpoint_url=url)
    try:
        found = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [one for one in found if not one["Key"].endswith("/owner")]
    finally:
        client.close()


@pytest.fixture(autouse=True)
def _where(s3: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_S3", s3.url)


@pytest.mark.parametrize("size", [5000, 2 * PART + 1])
def test_urls_that_have_expired_are_asked_for_again(
    bench: Bench, controller: LocalController, s3: FaultProxy, size: int
) -> None:
    expired = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    s3.break_with(method="PUT", path="/uploads/", status=403, body=expired, times=2)
    outbox = bench.outbox()
    data = os.urandom(size)
    write(outbox, "file", data)
    assert outbox.wait(timeout_s=60) == []
    assert read(bench, controller, "file") == data


def test_a_multipart_upload_goes_on_where_it_was(
    bench: Bench, controller: LocalController, s3: FaultProxy
) -> None:
    data = os.urandom(3 * PART + 7)
    bench.upload = replace(bench.upload, connections=1)  # one part after the other
    outbox = bench.outbox()
    s3.break_with(method="PUT", path="/uploads/", status=503, times=99, skip=2)
    write(outbox, "file", data)
    wait_until(lambda: s3.count("PUT", "/uploads/") > 2, 30)
    bench.close(outbox)
    s3.heal()
    before = s3.count("PUT", "/uploads/")
    again = bench.outbox()
    assert again.wait(timeout_s=60) == []
    assert s3.count("PUT", "/uploads/") - before <= 2, "what had come was sent again"
    assert bench.listed() == {"file": digest(data)}
    assert read(bench, controller, "file") == data


def test_a_content_with_another_hash_is_refused_and_leaves_nothing(
    bench: Bench, controller: LocalController
) -> None:
    token = {"Authorization": f"Bearer {controller.token}"}
    wanted = {"sha256": digest(b"right"), "size": 5, "filename": "x"}
    api = f"{controller.url}/api/v1/artifacts/direct"
    ticket = requests.post(api, json=wanted, headers=token, timeout=30).json()
    requests.put(
        ticket["upload_url"], data=b"wrong", headers=ticket["headers"], timeout=30
    ).raise_for_status()
    completed = requests.post(
        controller.url + ticket["complete_url"], json=wanted, headers=token, timeout=30
    )
    assert completed.status_code == 422
    assert completed.json()["error"]["code"] == "sha256_mismatch"
    assert _contents() == []
    assert bench.listed() == {}


def test_the_service_killed_while_it_completes_completes_later(
    bench: Bench, controller: LocalController, s3: FaultProxy
) -> None:
    s3.break_with(method="GET", path="/uploads/", delay_s=60)
    outbox = bench.outbox()
    data = os.urandom(PART + 1)
    write(outbox, "file", data)
    wait_until(lambda: s3.count("GET", "/uploads/") > 1, 30)
    controller.kill()
    s3.heal()
    controller.start()
    wait_until(lambda: entry(outbox, "file").state is EntryState.UPLOADED, 60)
    assert bench.listed() == {"file": digest(data)}


def test_a_bucket_that_is_not_there_is_one_clear_line(tmp_path: Path, s3: FaultProxy) -> None:
    with pytest.raises(RuntimeError, match="the bucket nowhere cannot be used"):
        LocalController(tmp_path / "other", store="s3://nowhere", endpoint_url=s3.url).start()
