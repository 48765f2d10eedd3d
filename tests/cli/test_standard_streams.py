"""Standard output takes every byte, or the command fails."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.server.testing import LocalController

SIZE = 3_000_000

WORDS = [
    ("get", "-o", "-", "big.bin"),
    ("logs", "long"),
    ("result", "--raw", "resulting"),
    ("ls",),
    ("ls", "-l"),
    ("ls", "--json"),
    ("config",),
    ("config", "--json"),
    ("manual",),
    ("completion", "bash"),
    ("--help",),
    ("cache", "--help"),
    ("--version",),
]
LONG = [words for words in WORDS if words[0] in ("get", "logs", "result", "ls")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalController]:
    with LocalController(tmp_path_factory.mktemp("service") / "data") as running:
        running.make_artifact("big.bin", os.urandom(SIZE))
        many = [{"filename": f"{number:04}-{'n' * 100}", "text": ""} for number in range(1500)]
        running.dev("artifacts", {"artifacts": many})
        text = "".join(f"line {number}\n" for number in range(30_000))
        running.make_job("long", status="running", tasks=[{"status": "running", "append": text}])
        running.make_job("resulting", status="running")
        running.end_job("resulting", result_text='{"a": "' + "x" * 300_000 + '"}')
        yield running


@pytest.fixture
def environment(service: LocalController, tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "ARTIFACTFS_URL": service.url,
        "ARTIFACTFS_TOKEN": service.token,
        "HOME": str(tmp_path),
    }


def start(words: tuple[str, ...], environment: dict[str, str], **more) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "artifactfs", *words],
        env=environment, stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def ended(running: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, said = running.communicate(timeout=60)
    return running.returncode, said.decode()


def read_slowly(descriptor: int) -> bytes:
    """Read all, with a pause whenever the pipe was emptied: the writer finds it full again."""
    taken = b""
    while piece := os.read(descriptor, 50_000):
        taken += piece
        if len(taken) < 500_000:
            time.sleep(0.001)
    return taken


@pytest.mark.parametrize("words", LONG, ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_non_blocking_reader_gets_what_a_file_gets(
    environment: dict[str, str], tmp_path: Path, words: tuple[str, ...], unbuffered: str
) -> None:
    with (tmp_path / "whole").open("wb") as file:
        assert ended(start(words, environment, stdout=file)) == (0, "")
    whole = (tmp_path / "whole").read_bytes()
    assert len(whole) > 100_000
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.closing(os.fdopen(reading, "rb", closefd=True)):
        running = start(words, environment | {"PYTHONUNBUFFERED": unbuffered}, stdout=writing)
        os.close(writing)
        assert read_slowly(reading) == whole
        assert ended(running) == (0, "")


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [*((words, "1") for words in WORDS), *((words, "") for words in WORDS[:4])],
)
def test_a_full_output_is_an_error(
    environment: dict[str, str], words: tuple[str, ...], unbuffered: str
) -> None:
    with open("/dev/full", "wb") as full:
        running = start(words, environment | {"PYTHONUNBUFFERED": unbuffered}, stdout=full)
        assert ended(running) == (1, "artifactfs: standard output: No space left on device\n")


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_closed_output_is_an_error(environment: dict[str, str], words: tuple[str, ...]) -> None:
    running = subprocess.Popen(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "artifactfs", *words],
        env=environment, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert ended(running) == (1, "artifactfs: standard output: Bad file descriptor\n")


def test_an_output_that_is_closed_becomes_no_file_that_is_opened_later(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh",
         sys.executable, "-m", "artifactfs", "get", "-o", tmp_path / "out", "big.bin"],
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0  # it has nothing to say
    assert (tmp_path / "out").stat().st_size == SIZE


@pytest.mark.parametrize("words", LONG, ids=" ".join)
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(
    environment: dict[str, str], words: tuple[str, ...]
) -> None:
    running = start(words, environment, stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.read(10)
    running.stdout.close()
    assert running.stderr is not None
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait(60) == 0


def test_a_full_disk_takes_a_part_and_the_command_fails(
    environment: dict[str, str], tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        with (small / "out").open("wb") as file:
            running = start(("get", "-o", "-", "big.bin"), environment, stdout=file)
            assert ended(running) == (1, "artifactfs: standard output: No space left on device\n")
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_error_that_nobody_can_read_does_not_change_the_status(
    environment: dict[str, str],
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "artifactfs", "ls", "not-there"],
            env=environment, stderr=full, check=False,
        )  # fmt: skip
    assert done.returncode == 1
