"""Several controllers share a bucket and an index: a real PostgreSQL, moto's S3, two processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from artifactfs.server.postgres import (
    PostgresBlobLocks,
    PostgresDatabase,
    open_engine,
)
from artifactfs.server.testing import LocalController
from tests.helpers import wait_until
from tests.server.postgres import Postgres, postgres

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "shared"
PART = 5 << 20

pytestmark = pytest.mark.xdist_group("PostgreSQL")


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(scope="module")
def bucket_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("s3") / "log"
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    with path.open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        wait_until(lambda: re.search(r"Running on (http://\S+)", path.read_text()), 30)
        found = re.search(r"Running on (http://\S+)", path.read_text())
        assert found is not None
        client = boto3.client("s3", endpoint_url=found[1])
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield found[1]
    finally:
        server.kill()
        server.wait(30)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@dataclass
class Service:
    """One of the controllers, as a client of it sees it."""

    process: LocalController
    token: str

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | more.pop("headers", {})
        where = path if path.startswith("/") else f"/api/v1/{path}"
        return requests.request(
            method, self.process.url + where, headers=headers, timeout=60, **more
        )

    def done(self, method: str, path: str, **more: Any) -> Any:
        answer = self.call(method, path, **more)
        answer.raise_for_status()
        return answer.json()

    def upload(self, name: str, data: bytes) -> Any:
        return self.done("POST", "artifacts", data=data, headers={"X-Artifact-Filename": name})

    def names(self) -> list[str]:
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            more = f"&cursor={cursor}" if cursor else ""
            page = self.done("GET", f"artifacts?limit=7{more}")
            found += [one["filename"] for one in page["artifacts"]]
            cursor = page["next_cursor"]
        return found


@pytest.fixture(scope="module")
def both(
    database: Postgres, bucket_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    """Two controllers that start at one time."""
    home = tmp_path_factory.mktemp("both")
    token = home / "token"
    token.write_text("flk_shared")
    options: dict[str, Any] = {
        "store": f"s3://{BUCKET}",
        "endpoint_url": bucket_url,
        "index": database.url,
        "token_file": token,
        "part_size": PART,
    }
    processes = [LocalController(home / name, **options) for name in ("one", "two")]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(LocalController.start, processes))
        one, two = (Service(process, "flk_shared") for process in processes)
        yield one, two
    finally:
        for process in processes:
            process.stop()


def announced(name: str, data: bytes) -> dict[str, Any]:
    return {"filename": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def blobs(bucket_url: str) -> set[str]:
    client = boto3.client("s3", endpoint_url=bucket_url)
    with contextlib.closing(client):
        found = client.list_objects_v2(Bucket=BUCKET, Prefix="blobs/").get("Contents", [])
    return {one["Key"].rpartition("/")[2] for one in found}


def test_the_later_of_two_is_newer_whichever_controller_made_it(
    both: tuple[Service, Service],
) -> None:
    """The order of the list, which is that of making, is the order of the times of creation."""
    sent = both[0].upload("same", b"same")
    assert sent["filename"] == "same"

    def bring(number: int) -> str:
        service = both[number % 2]
        if number % 4 < 2:
            return str(service.upload("same", b"same")["id"])
        answer = service.done("POST", "artifacts/direct", json=announced("same", b"same"))
        return str(answer["artifact"]["id"])

    one_by_one = [bring(number) for number in range(8)]
    with ThreadPoolExecutor(6) as pool:
        ids = [sent["id"], *one_by_one, *pool.map(bring, range(40))]
    assert len(set(ids)) == 49
    page = both[1].done("GET", "artifacts?limit=10000")["artifacts"]
    found = [one for one in page if one["filename"] == "same"]
    created = [one["created_at"] for one in found]
    assert len(set(created)) == 49
    assert created == sorted(created, reverse=True)
    assert [one["id"] for one in found][::-1][:9] == ids[:9]


def test_what_one_was_given_the_other_has(both: tuple[Service, Service]) -> None:
    one, two = both
    made = one.upload("given", b"to one")
    assert two.call("GET", f"artifacts/{made['id']}").content == b"to one"
    assert "given" in two.names()
    exists = two.done("POST", "artifacts/direct", json=announced("again", b"to one"))
    assert exists["status"] == "exists"
    assert one.done("GET", "artifacts")["artifacts"][0]["filename"] == "again"


def test_an_upload_that_one_began_the_other_completes(both: tuple[Service, Service]) -> None:
    one, two = both
    data = b"straight to the bucket"
    begun = one.done("POST", "artifacts/direct", json=announced("direct", data))
    requests.put(begun["upload_url"], data=data, headers=begun["headers"], timeout=60)
    body = {key: value for key, value in announced("", data).items() if key != "filename"}
    made = two.done("POST", begun["complete_url"], json=body)
    assert one.call("GET", f"artifacts/{made['id']}").content == data

    large = os.urandom(PART + 1)
    begun = one.done("POST", "artifacts/multipart", json=announced("parts", large))
    for part in begun["parts"]:
        start = (part["part_number"] - 1) * PART
        requests.put(part["url"], data=large[start : start + PART], timeout=60)
    upload = f"artifacts/multipart/{begun['upload_id']}"
    parts = two.done("GET", upload)["uploaded"]
    told = [{"part_number": part["part_number"], "etag": part["etag"]} for part in parts]
    wanted = announced("", large) | {"parts": told}
    # Both at once: never twice, and whoever is told to wait finds it done.
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(lambda by: by.call("POST", f"{upload}/complete", json=wanted), both)
        )
    assert {answer.status_code for answer in answers} <= {200, 201, 409}
    assert any(answer.status_code == 201 for answer in answers)
    assert one.names().count("parts") == 1
    assert two.done("POST", f"{upload}/complete", json=wanted)["sha256"] == wanted["sha256"]


def test_a_token_counts_with_both_and_is_gone_with_both(both: tuple[Service, Service]) -> None:
    one, two = both
    token = one.done("POST", "_dev/tokens", json={"account": "team", "role": "viewer"})["token"]
    viewer = Service(two.process, token)
    assert viewer.done("GET", "artifacts")["artifacts"] == []
    assert viewer.call("POST", "artifacts", data=b"x").status_code == 403
    one.call("DELETE", "_dev/tokens", json={"token": token})
    assert viewer.call("GET", "artifacts").status_code == 401


def test_many_at_once_through_both_are_each_listed_once(both: tuple[Service, Service]) -> None:
    def upload(number: int) -> None:
        both[number % 2].upload(f"many-{number}", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, range(60)))
    for service in both:
        names = [name for name in service.names() if name.startswith("many-")]
        assert sorted(names) == sorted(f"many-{number}" for number in range(60))


def test_what_expires_with_one_is_let_go_unless_somebody_has_it(
    both: tuple[Service, Service], bucket_url: str, database: Postgres
) -> None:
    one, two = both
    gone, kept, held = (two.upload(name, name.encode()) for name in ("gone", "kept", "held"))
    two.done("POST", "artifacts/direct", json=announced("kept as well", b"kept"))
    for artifact in (gone, kept, held):
        one.call("POST", f"_dev/artifacts/{artifact['id']}", json={"expires_in_s": -1})
    engine = open_engine(database.url)
    guard = PostgresBlobLocks(engine)
    with guard.holding(held["sha256"]):
        assert one.done("POST", "_dev/clean", json={})["removed"] == 1
        left = blobs(bucket_url)
    assert gone["sha256"] not in left
    assert {kept["sha256"], held["sha256"]} <= left
    guard.close()
    engine.dispose()


def test_one_that_dies_lets_go_of_everything(database: Postgres) -> None:
    engines = [open_engine(database.url) for _ in range(2)]
    mine, other = (PostgresBlobLocks(engine) for engine in engines)
    with other.alone("content") as alone:
        assert alone
    with mine.holding("content"), mine.holding("content"):
        with other.alone("content") as alone:
            assert not alone
        with other.holding("content"), other.alone("another") as alone:
            assert alone
        engines[0].dispose()
        mine.close()  # as its end would

        def let_go() -> bool:
            with other.alone("content") as alone:
                return alone

        wait_until(let_go)  # the server notices when it does
    for guard in (mine, other):
        guard.close()
    for engine in engines:
        engine.dispose()


def test_a_change_that_fails_changes_nothing(database: Postgres) -> None:
    index = PostgresDatabase(open_engine(database.url))
    index.start()

    def change(transaction: Any) -> None:
        transaction.execute("INSERT INTO tokens VALUES (?, ?, ?)", ("half", "a", "viewer"))
        raise KeyError

    with pytest.raises(KeyError):
        index._change(change)
    assert index.one("SELECT role FROM tokens WHERE digest = ?", "half") is None
    index.close()


def test_a_controller_is_killed_and_the_database_restarts(
    both: tuple[Service, Service], database: Postgres
) -> None:
    one, two = both
    one.upload("before", b"before")
    one.process.kill()
    two.upload("meanwhile", b"meanwhile")
    database.stop()
    answer = two.call("GET", "artifacts")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "the service cannot reach its index"
    database.start()
    one.process.start()
    for service in both:
        assert {"before", "meanwhile"} <= set(service.names())
        service.upload("after", b"after")


def test_a_bucket_of_another_index_is_left_alone(
    both: tuple[Service, Service], bucket_url: str, tmp_path: Path
) -> None:
    """It would throw away what it does not know."""
    before = blobs(bucket_url)
    assert before
    stranger = LocalController(tmp_path / "x", store=f"s3://{BUCKET}", endpoint_url=bucket_url)
    with pytest.raises(RuntimeError, match="belongs to another index"), stranger:
        pass
    assert blobs(bucket_url) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--index", "postgresql://nowhere/x"], "a shared index needs a shared store"),
        (["--index", "mysql://x/y", "--store", f"s3://{BUCKET}"], "postgresql:// is expected"),
        (
            ["--index", "postgresql:///x?host=/nowhere", "--store", f"s3://{BUCKET}"],
            "the index cannot be reached",
        ),
    ],
)
def test_an_index_that_cannot_be_used_is_one_line(
    words: list[str], said: str, bucket_url: str, tmp_path: Path
) -> None:
    start = [sys.executable, "-m", "artifactfs.server", "--data", str(tmp_path)]
    done = subprocess.run(
        [*start, *words, "--endpoint-url", bucket_url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
