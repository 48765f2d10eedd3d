"""The programs that artifactfs is measured beside: curl and rclone.

rclone is found by ``RCLONE``, a path, or on ``PATH``. A program that is not there is named as
absent, never as beaten.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.context import Remote, unmount
from benchmarks.measure import cpu_seconds, run, seconds
from benchmarks.row import PeerAbsentError


def require(program: str) -> str:
    """Return the path of a program. Raises PeerAbsentError."""
    path = os.environ.get(program.upper()) or shutil.which(program)
    if path is None:
        raise PeerAbsentError(f"{program} is not installed")
    return path


def curl_whole(remote: Remote) -> float:
    """Return the seconds in which curl fetches the whole into a file."""
    out = remote.context.directory / "curl.out"
    out.unlink(missing_ok=True)
    took_s = seconds(lambda: run(require("curl"), "-sSf", "-o", out, remote.url))
    out.unlink()
    return took_s


def curl_ranges(remote: Remote, spans: Sequence[tuple[int, int]]) -> float:
    """Return the seconds for ranged requests, one after the other on one connection."""
    return curl_urls(remote.context.directory / "curl.conf", [(remote.url, span) for span in spans])


Request = tuple[str, tuple[int, int] | None]


def curl_urls(
    config: Path, requests: Sequence[Request], headers: dict[str, str] | None = None
) -> float:
    """Return the seconds for requests, one after the other on one connection of one curl."""
    write_config(config, requests, headers)
    curl = require("curl")
    return seconds(lambda: run(curl, "-K", config))


def write_config(
    config: Path, requests: Sequence[Request], headers: dict[str, str] | None = None
) -> None:
    """Write what curl's ``-K`` reads: URLs with their ranges, answers to the null device."""
    parts = []
    for url, span in requests:
        lines = [f'url = "{url}"', 'output = "/dev/null"', "silent", "show-error", "fail"]
        lines += [f'header = "{name}: {value}"' for name, value in (headers or {}).items()]
        if span is not None:
            lines.append(f'range = "{span[0]}-{span[1] - 1}"')
        parts.append("\n".join(lines) + "\n")
    config.write_text("next\n".join(parts))


def parallel(commands: Sequence[Sequence[object]]) -> float:
    """Return the seconds in which programs, started together, have all ended."""

    def act() -> None:
        started = [
            subprocess.Popen(
                [str(word) for word in words], stdout=subprocess.DEVNULL, start_new_session=True
            )
            for words in commands
        ]
        try:
            failed = [one.args for one in started if one.wait()]
        finally:
            for one in started:
                one.kill()
                one.wait()
        if failed:
            raise RuntimeError(f"failed: {failed[0]}")

    return seconds(act)


def parallel_ranges(remote: Remote, count: int = 16) -> float:
    """Return the seconds in which `count` curls, each with its range, fetch the whole."""
    curl = require("curl")
    piece = -(-remote.size_bytes // count)
    spans = [f"{start}-{start + piece - 1}" for start in range(0, remote.size_bytes, piece)]
    out = remote.context.directory / "pieces"
    out.mkdir(exist_ok=True)
    commands = [
        [curl, "-sSf", "-r", span, "-o", out / str(number), remote.url]
        for number, span in enumerate(spans)
    ]
    took_s = parallel(commands)
    shutil.rmtree(out)
    return took_s


class RcloneMount:
    """A running ``rclone mount``."""

    def __init__(self, path: Path, pid: int) -> None:
        self.path, self.pid = path, pid

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)


@contextlib.contextmanager
def rclone_mount(home: Path, source: str, *words: object, mode: str) -> Iterator[RcloneMount]:
    """rclone's mount of `source` with a cache of its own, which is removed afterwards."""
    rclone = require("rclone")
    path = home / "mnt"
    path.mkdir(parents=True)
    process = subprocess.Popen(
        [
            rclone, "mount", source, path, "--read-only", "--vfs-cache-mode", mode,
            "--cache-dir", home / "cache", "--dir-cache-time", "1h", "--config", "/dev/null",
            *map(str, words),
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline_s = time.monotonic() + 20
        while not os.path.ismount(path):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"rclone did not mount {source}")
            time.sleep(0.01)
        yield RcloneMount(path, process.pid)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        unmount(path)
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def rclone_remote(remote: Remote, mode: str) -> Iterator[tuple[RcloneMount, Path]]:
    """rclone's mount of the directory at nginx that holds the remote file, and the file in it."""
    folder, _, name = remote.path_at_origin.rpartition("/")
    with rclone_mount(
        remote.context.directory / "rclone",
        f":http:{folder}/", "--http-url", remote.base, mode=mode,
    ) as mount:  # fmt: skip
        (mount.path / name).stat()
        yield mount, mount.path / name


def missing(program: str) -> str:
    """Return why a program cannot be compared with, or nothing."""
    try:
        require(program)
    except PeerAbsentError as error:
        return str(error)
    return ""
