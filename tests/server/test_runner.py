"""The process: its one line, its token, its lock, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from artifactfs.server.testing import LocalController
from artifactfs.server.thread_pools import MOST_BODIES
from tests.helpers import wait_until
from tests.server.conftest import Client, Stream, code_of

WORDS = [sys.executable, "-m", "artifactfs.server"]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A controller that is expected not to start."""
    return subprocess.run(
        [*WORDS, *map(str, words)], capture_output=True, text=True, timeout=30, check=False
    )


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def test_it_says_one_line_when_it_answers(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*WORDS, "--data", tmp_path / "data"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("artifactfs controller on http://127.0.0.1:")
        assert requests.get(f"{line.split()[-1]}/health", timeout=5).ok
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stdout.read() == ""


def test_its_token_is_made_once_and_kept_for_its_user_only(
    own: Callable[..., LocalController],
) -> None:
    running = own()
    token, path = running.token, running.data / "token"
    assert token.startswith("flk_")
    assert path.stat().st_mode & 0o777 == 0o600
    running.stop()
    running.start()
    assert running.token == token


def test_a_token_file_is_the_token_and_the_one_before_is_no_more(
    own: Callable[..., LocalController], tmp_path: Path
) -> None:
    running = own()
    old = running.token
    running.stop()
    secret = tmp_path / "secret"
    secret.write_text("flk_given\n")
    with (
        LocalController(running.data, token_file=secret) as other,
        contextlib.closing(Client(other.url, "flk_given")) as client,
        contextlib.closing(Client(other.url, old)) as former,
    ):
        assert other.token == "flk_given"
        assert client.get("artifacts").status_code == 200
        assert former.get("artifacts").status_code == 401
        assert b"flk_given" not in (other.data / "index.sqlite").read_bytes()


@pytest.mark.parametrize("content", [None, "", "\n", b"\xff\xfe"])
def test_a_token_file_without_a_token_is_an_error(
    tmp_path: Path, content: str | bytes | None
) -> None:
    path = tmp_path / "token-file"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run("--data", tmp_path / "data", "--token-file", path)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_served_is_not_served_twice(
    own: Callable[..., LocalController],
) -> None:
    running = own()
    done = run("--data", running.data)
    assert done.returncode == 1
    assert "another controller serves" in done.stderr
    assert done.stdout == ""
    running.kill()
    running.start()


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("--data", tmp_path / "data", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run("--data", tmp_path / "file" / "data")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_an_index_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"certainly not a database" * 100)
    done = run("--data", tmp_path)
    assert done.returncode == 1
    assert "index.sqlite" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [["--part-size", "0"], ["--retention", "-1"], ["--port", "70000"], ["--unknown"]]
)
def test_a_flag_that_cannot_be_is_an_error(tmp_path: Path, words: list[str]) -> None:
    done = run("--data", tmp_path / "data", *words)
    assert done.returncode == 2
    assert words[0] in done.stderr


def test_it_ends_soon_with_streams_uploads_and_downloads_open(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own(part_size=64 << 20)
    client = as_owner(running)
    running.make_job("j", status="running")
    artifact = client.upload(bytes(60 << 20))
    data = bytes(2 << 20)
    url = urlsplit(client.begin("direct", data)["upload_url"])
    idle = socket.create_connection((url.hostname, url.port))
    sending = socket.create_connection((url.hostname, url.port))
    sending.sendall(
        f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + data[:100_000]
    )
    with (
        idle,
        sending,
        Stream(client, "jobs/j/stream") as stream,
        client.get(f"artifacts/{artifact['id']}", stream=True) as download,
    ):
        stream.next()
        download.raw.read(10)
        pid = running.pid
        assert pid is not None
        started = time.monotonic()
        running.stop()
        assert time.monotonic() - started < 4
        assert not alive(pid)
    assert "Traceback" not in running.log


def test_it_ends_with_the_process_that_has_started_it(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from artifactfs.server.testing import LocalController\n"
        "running = LocalController(Path(sys.argv[1])); running.start()\n"
        "print(running.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parent.parent.parent,
    )
    pid = int(done.stdout)
    wait_until(lambda: not alive(pid))


def test_stop_and_start_keep_the_port_and_say_so(own: Callable[..., LocalController]) -> None:
    running = own()
    before = running.url
    running.stop()
    running.stop()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{before}/health", timeout=5)
    running.start()
    running.start()
    assert running.url == before
    assert requests.get(f"{before}/health", timeout=5).json() == {"status": "ok"}


def test_a_controller_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="unrecognized arguments"):
        LocalController(tmp_path / "data", no_such_option=True).start()


def test_stalled_uploads_do_not_stand_in_the_way_of_others(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own()
    client = as_owner(running)
    url = urlsplit(running.url)
    with contextlib.ExitStack() as closing:
        for _ in range(MOST_BODIES + 20):
            one = closing.enter_context(socket.create_connection((url.hostname, url.port)))
            one.sendall(
                "POST /api/v1/artifacts HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n"
                f"Authorization: Bearer {running.token}\r\n\r\n".encode()
                + bytes(1000)
            )
        wait_until(lambda: len(list((running.data / "incoming").iterdir())) == MOST_BODIES)
        assert client.upload(bytes(3_000_000))["size"] == 3_000_000
        assert len(client.listed()) == 1
    wait_until(lambda: not list((running.data / "incoming").iterdir()))


def test_a_full_disk_is_507_and_what_was_there_stays(
    tmp_path: Path, as_owner: Callable[..., Client]
) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=True)
    try:
        with LocalController(place / "data", part_size=1 << 20) as running:
            client = as_owner(running)
            kept = client.upload(b"kept")
            for size in (100_000, 5_000_000):
                codes = set()
                for number in range(60):
                    answer = client.ask("POST", "artifacts", data=b"%3d" % number + bytes(size))
                    codes.add(answer.status_code)
                    if answer.status_code == 507:
                        assert code_of(answer) == "storage_full"
                        break
                assert codes <= {201, 507}
                assert 507 in codes
            assert client.get(f"artifacts/{kept['id']}").content == b"kept"
            assert list((running.data / "incoming").iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_many_readers_of_one_content_all_get_it(
    own: Callable[..., LocalController], as_owner: Callable[..., Client]
) -> None:
    running = own()
    data = os.urandom(1 << 20) * 8
    artifact = as_owner(running).upload(data)
    got: list[bytes] = []

    def read() -> None:
        with contextlib.closing(Client(running.url, running.token)) as client:
            got.append(client.get(f"artifacts/{artifact['id']}").content)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [data] * 8
