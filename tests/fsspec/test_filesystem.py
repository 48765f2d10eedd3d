"""What ``artifact://`` promises: names, bytes, uploads, pickles, forks."""

from __future__ import annotations

import errno
import gc
import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.assembly import names_of
from artifactfs.errors import ConfigError
from artifactfs.fsspec import ArtifactFileSystem
from artifactfs.fsspec.listing import ListingDirectory, ListingSnapshot
from artifactfs.model import Artifact
from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until

from .conftest import sha256

DATA = bytes(range(256)) * 5000


def test_names_ids_and_hashes_lead_to_the_same_bytes(
    fs: ArtifactFileSystem, controller: LocalController
) -> None:
    one = controller.make_artifact("names/a/data.bin", DATA)
    assert fs.cat("names/a/data.bin") == DATA
    assert fs.cat(f"artifact://id/{one}") == DATA
    assert fs.cat(f"artifact://sha256/{sha256(DATA)}") == DATA
    assert fs.ls("artifact://names") == [{"name": "names/a", "size": 0, "type": "directory"}]
    info = fs.info("names/a/data.bin")
    assert (info["size"], info["id"], info["sha256"]) == (len(DATA), one, sha256(DATA))
    assert fs.ukey("names/a/data.bin") == sha256(DATA)
    assert fs.find("names") == ["names/a/data.bin"]
    assert fs.glob("names/**/*.bin") == ["names/a/data.bin"]
    with pytest.raises(FileNotFoundError):
        fs.info("names/none")
    with pytest.raises(IsADirectoryError):
        fs.open("names/a")


@given(st.lists(st.text("ab/.%é~", max_size=8), max_size=12))
def test_every_artifact_is_found_by_walking(filenames: list[str]) -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    artifacts = [
        Artifact(f"art_{number}", name or f"art_{number}", now, now, sha256(b"%d" % number), 1)
        for number, name in enumerate(filenames)
    ]
    snapshot = ListingSnapshot(artifacts)
    walked, left = {}, [""]
    while left:
        folder = snapshot.find(left.pop())
        assert isinstance(folder, ListingDirectory)
        for path, found in snapshot.within(folder):
            assert snapshot.find(path) == found
            if isinstance(found, ListingDirectory):
                left.append(path)
            else:
                walked[path] = found
    assert set(walked.values()) == set(artifacts)
    assert walked == names_of(artifacts)


def test_a_name_that_comes_while_the_listing_is_young_is_found(
    environment: None, controller: LocalController
) -> None:
    fs = ArtifactFileSystem(list_ttl="1h")
    fs.ls("")
    controller.make_artifact("late.txt", b"late")
    fs.rooms.listing._asked_s -= 1.1  # a second goes by
    assert fs.cat("late.txt") == b"late"
    fs.close()


def test_a_file_is_read_in_any_order(fs: ArtifactFileSystem, controller: LocalController) -> None:
    controller.make_artifact("order.bin", DATA)
    with fs.open("order.bin") as file:
        assert file.size == len(DATA)
        file.seek(-10, os.SEEK_END)
        assert file.read() == DATA[-10:]
        assert file.read(1) == b""
        file.seek(70_000)
        room = bytearray(1000)
        assert file.readinto(room) == 1000
        assert room == DATA[70_000:71_000]
        assert file.tell() == 71_000
    with pytest.raises(ValueError, match="closed"):
        file.read()
    controller.make_artifact("lines.txt", "eins\nzwölf\n".encode())
    with fs.open("lines.txt", "r", encoding="utf-8") as lines:
        assert list(lines) == ["eins\n", "zwölf\n"]


def test_ranges_are_fetched_together_and_an_error_stands_in_its_place(
    fs: ArtifactFileSystem, controller: LocalController
) -> None:
    controller.make_artifact("ranges/1", DATA)
    controller.make_artifact("ranges/2", DATA[::-1])
    paths = ["ranges/1", "ranges/2", "ranges/none", "ranges/1"]
    got = fs.cat_ranges(paths, [0, 1000, 0, -5], [10, 300_000, 1, None])
    assert got[0] == DATA[:10]
    assert got[1] == DATA[::-1][1000:300_000]
    assert isinstance(got[2], FileNotFoundError)
    assert got[3] == DATA[-5:]
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, 0, 1, on_error="raise")
    assert fs.cat("ranges", recursive=True) == {"ranges/1": DATA, "ranges/2": DATA[::-1]}
    some = ["ranges/1", "ranges/none"]
    assert fs.cat(some, on_error="omit") == {"ranges/1": DATA}
    assert isinstance(fs.cat(some, on_error="return")["ranges/none"], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat(some)
    mapper = fs.get_mapper("ranges")
    assert (mapper["1"], "none" in mapper) == (DATA, False)


def test_ranges_do_not_wait_for_each_other(environment: None, controller: LocalController) -> None:
    """No answer comes before all have been asked for; then none comes at all."""
    names = [f"together/{number}" for number in range(3)]
    ids = [controller.make_artifact(name, name.encode()) for name in names]
    with FaultProxy(controller.url) as proxy:
        fs = ArtifactFileSystem(url=proxy.url, http_retry_for=0, read_timeout=1)
        fs.ls("together")
        for one in ids:
            proxy.break_with(method="GET", path=one, stall_after=0, times=-1)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(fs.cat_ranges, names, 0, 1)
            wait_until(lambda: all(proxy.count("GET", one) for one in ids), 30)
            results = running.result(60)
    assert all(isinstance(result, OSError) for result in results)
    fs.close()


def test_what_was_read_is_read_from_the_cache(
    fs: ArtifactFileSystem, controller: LocalController
) -> None:
    controller.make_artifact("cached.bin", DATA)
    assert fs.cat("cached.bin") == DATA
    fetched_bytes = fs.rooms.client.store.statistics().fetched_bytes
    assert fs.cat("cached.bin") == DATA
    assert fs.rooms.client.store.statistics().fetched_bytes == fetched_bytes == len(DATA)


def test_what_is_cached_is_read_while_the_service_is_away(
    environment: None, controller: LocalController, caplog: pytest.LogCaptureFixture
) -> None:
    controller.make_artifact("away.bin", DATA)
    with FaultProxy(controller.url) as proxy:
        fs = ArtifactFileSystem(url=proxy.url, http_retry_for=0, list_ttl=0)
        assert fs.cat("away.bin") == DATA
    assert fs.cat("away.bin") == DATA
    assert not fs.exists("unknown")
    assert caplog.text.count("the listing of 0 s ago is used") == 1
    fs.close()
    with pytest.raises(OSError, match="refused") as failed:
        fs.ls("")  # a new one has none to fall back on
    assert failed.value.errno == errno.EHOSTUNREACH
    fs.close()


def test_close_uploads_and_then_it_is_there(fs: ArtifactFileSystem, tmp_path: Path) -> None:
    with fs.open("written/a.bin", "wb") as file:
        file.write(DATA)
        assert not fs.exists("written/a.bin")
    assert fs.cat("written/a.bin") == DATA
    fs.pipe("written/b.bin", b"piped")
    local = tmp_path / "local"
    local.write_bytes(b"from a file")
    sent: list[int] = []
    callback = fsspec.Callback(hooks={"sent": lambda size, value, **_: sent.append(value)})
    fs.put_file(local, "written/c.bin", callback=callback)
    assert sent[-1] == len(b"from a file")
    assert fs.cat(["written/b.bin", "written/c.bin"]) == {
        "written/b.bin": b"piped",
        "written/c.bin": b"from a file",
    }
    for text in (b"again", b"and again", b"piped"):
        fs.pipe("written/b.bin", text)
        assert fs.cat("written/b.bin") == text
    assert list((tmp_path / "state" / "fsspec").iterdir()) == []


def test_a_large_file_goes_in_parts(environment: None, controller: LocalController) -> None:
    fs = ArtifactFileSystem(upload_controller_max="1M", upload_multipart_min="5M", list_ttl=0)
    large = os.urandom(1 << 20) * 6
    fs.pipe("large.bin", large)
    assert fs.info("large.bin")["sha256"] == sha256(large)
    fs.close()


def test_a_copy_sends_and_reads_nothing(
    fs: ArtifactFileSystem, controller: LocalController
) -> None:
    controller.make_artifact("copy/old.bin", DATA)
    fs.cp("copy/old.bin", "copy/new.bin")
    assert fs.info("copy/new.bin")["sha256"] == sha256(DATA)
    assert fs.rooms.client.store.statistics().fetched_bytes == 0


def test_what_failed_or_was_never_closed_is_not_uploaded(
    fs: ArtifactFileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyError), fs.open("torso/1", "wb") as file:
        file.write(b"half")
        raise KeyError
    file = fs.open("torso/2", "wb")
    file.write(b"half")
    del file
    gc.collect()
    assert "torso/2 was never closed" in caplog.text
    with fs.transaction:
        kept = fs.open("torso/3", "wb")
        kept.write(b"whole")
        kept.close()
        assert not fs.exists("torso/3")
    assert fs.find("torso") == ["torso/3"]


def test_what_a_content_store_does_not_do_is_refused(
    fs: ArtifactFileSystem, controller: LocalController
) -> None:
    controller.make_artifact("kept", b"kept")
    for refused in (
        lambda: fs.rm("kept"),
        lambda: fs.mv("kept", "moved"),
        lambda: fs.open("kept", "ab"),
    ):
        with pytest.raises(NotImplementedError, match="not removed or changed"):
            refused()
    with pytest.raises(FileExistsError):
        fs.pipe_file("kept", b"other", mode="create")
    assert fs.cat("kept") == b"kept"
    assert not fs.exists("moved")


def test_errors_have_the_errno_of_a_mount(
    fs: ArtifactFileSystem, controller: LocalController, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = controller.make_artifact("expires", DATA)
    with fs.open("expires") as file:
        controller.dev(f"artifacts/{one}", {"expires_in_s": -1})
        with pytest.raises(FileNotFoundError):
            file.read()
    monkeypatch.setenv("ARTIFACTFS_TOKEN", "flk_wrong")
    other = ArtifactFileSystem(skip_instance_cache=True, cache_dir=fs.storage_options["url"][-5:])
    with pytest.raises(PermissionError) as refused:
        other.ls("")
    assert refused.value.errno == errno.EACCES
    other.close()


def test_options_are_settings_and_a_token_is_none(environment: None) -> None:
    with pytest.raises(ConfigError, match="a token in an option would be pickled"):
        ArtifactFileSystem(token="flk_secret")
    with pytest.raises(ConfigError, match="unknown option colour"):
        ArtifactFileSystem(colour="red")
    with pytest.raises(ConfigError, match=r"list\.ttl"):
        ArtifactFileSystem(list_ttl="soon")
    ArtifactFileSystem(asynchronous=True, use_listings_cache=False).close()  # as zarr asks


def test_a_pickle_holds_no_token_and_finds_the_service_again(
    fs: ArtifactFileSystem, controller: LocalController
) -> None:
    controller.make_artifact("pickled.bin", DATA)
    with fs.open("pickled.bin") as file:
        file.seek(1000)
        pickled = pickle.dumps((fs, file))
    assert controller.token.encode() not in pickled
    assert controller.token not in fs.to_json()
    script = """
import pickle, sys
fs, file = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(fs.cat("pickled.bin")[:1000] + file.read())
"""
    environment = {name: text for name, text in os.environ.items() if name != "ARTIFACTFS_URL"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=pickled,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert done.stdout == DATA


def test_threads_share_one_cache_and_one_listing(
    fs: ArtifactFileSystem, controller: LocalController
) -> None:
    controller.make_artifact("shared.bin", DATA)
    barrier = threading.Barrier(4)

    def work(number: int) -> tuple[int, bytes]:
        barrier.wait(30)
        mine = fsspec.filesystem("artifact", list_ttl=0)
        return id(mine.rooms), mine.cat_file("shared.bin", number, number + 1000)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert {rooms for rooms, _ in found} == {id(fs.rooms)}
    assert [data for _, data in found] == [DATA[n : n + 1000] for n in range(4)]


def test_a_forked_process_reads_on(controller: LocalController, environment: None) -> None:
    """In a program of its own: this one has threads of pytest's that a fork would meet."""
    controller.make_artifact("forked.bin", DATA)
    script = """
import json, os, fsspec
fs = fsspec.filesystem("artifact")
file = fs.open("forked.bin")
first = file.read(1000)
children = []
for number in range(3):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        rest = file.read()
        whole = fs.cat("forked.bin")
        os.write(writing, json.dumps([len(rest), whole == first + rest]).encode())
        os._exit(0)
    os.close(writing)
    children.append((child, reading))
answers = [json.loads(os.read(reading, 1000)) for _, reading in children]
statuses = [os.waitpid(child, 0)[1] for child, _ in children]
print(json.dumps([len(file.read()), answers, statuses]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    rest = len(DATA) - 1000
    assert json.loads(done.stdout) == [rest, [[rest, True]] * 3, [0, 0, 0]]
