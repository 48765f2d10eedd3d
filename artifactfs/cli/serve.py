"""``serve`` and ``demo``: a service on this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from artifactfs import assembly
from artifactfs.cli.errors import (
    NOT_ALL_UPLOADED,
    line_of,
    say,
)
from artifactfs.cli.log_setup import log_to_terminal
from artifactfs.config import load

if TYPE_CHECKING:
    from artifactfs.demo.job_program import ProgramJob
    from artifactfs.server.testing import LocalController

DEMO_FILES = {
    "hello.txt": "Hello from artifactfs.\n",
    "results/a.csv": "n,square\n" + "".join(f"{n},{n * n}\n" for n in range(1000)),
}
JOB = "demo-job"
EPOCH_S = 0.5
LOOK_S = 0.1
QUIET = 5
UNMOUNT_S = 10
UNSENT = "state/spool/*/*/files/*"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8480, show_default=True, help="The port; 0 is any free one.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("artifactfs-service"),
    show_default=True,
    help="Where everything is kept.",
)
@click.option("--store", metavar="URL", help="Keep contents in a bucket: s3://BUCKET[/PREFIX].")
@click.option("--endpoint-url", metavar="URL", help="Where the bucket is, if not at Amazon's own.")
@click.option("--index", metavar="URL", help="Share an index: postgresql://HOST/DATABASE.")
def serve(
    host: str,
    port: int,
    data: Path,
    store: str | None,
    endpoint_url: str | None,
    index: str | None,
) -> None:
    """Run a service on this machine, for tests, demonstrations and small teams.

    Its token is ARTIFACTFS_TOKEN, or one that it makes and writes to DATA/token. When it answers it
    prints one line with its URL; Ctrl-C ends it. With --store, contents lie in an S3 bucket and
    clients send and read them there by presigned URLs; DATA holds the index only. Several services
    with one ARTIFACTFS_TOKEN may share a bucket if they share an index in PostgreSQL as well.

    \b
    Examples:
      artifactfs serve --data /srv/artifacts
      ARTIFACTFS_TOKEN=flk_secret artifactfs serve --host 0.0.0.0 --port 8480
      artifactfs serve --store s3://bucket --endpoint-url http://127.0.0.1:9000
      artifactfs serve --store s3://bucket --index postgresql://db/artifacts
    """
    from artifactfs import server

    config = load()
    log_to_terminal(config)
    token = config.token.value.reveal() if config.token.value is not None else None
    behaviour = server.ServerConfig(store=store, endpoint_url=endpoint_url, index=index)
    server.serve(host, port, data.absolute(), token=token, behaviour=behaviour)


@click.command()
@click.argument("mountpoint", required=False, type=click.Path(path_type=Path, readable=False))
@click.option(
    "--exit", "leave", is_flag=True, help="Undo everything at once, to see that it works."
)
@click.option("--job", "with_job", is_flag=True, help="Run a small program as a job as well.")
def demo(mountpoint: Path | None, leave: bool, with_job: bool) -> None:
    """Start a service with a few artifacts, mount it, and show what to try.

    With --job, a small Python program runs as a job: its output can be followed, its first attempt
    fails and is tried again, and it leaves a result and an artifact.

    Everything lies in a temporary directory; Ctrl-C unmounts and removes all of it. What is in
    drop/ and not uploaded by then is kept, and the demo says where.

    \b
    Examples:
      artifactfs demo
      artifactfs demo --job ~/demo
      artifactfs demo --exit
    """
    from artifactfs.demo.job_program import ProgramJob
    from artifactfs.server.testing import LocalController

    ended = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        _ = number, frame
        ended.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    home = Path(tempfile.mkdtemp(prefix="artifactfs-demo-"))
    place = home / "artifacts" if mountpoint is None else mountpoint.absolute()
    left = 0
    mounting = None
    try:
        with LocalController(home / "service") as service:
            made = [{"filename": name, "text": text} for name, text in DEMO_FILES.items()]
            service.dev("artifacts", {"artifacts": made})
            job = ProgramJob(service, JOB, home / "job", pause_s=0.0 if leave else EPOCH_S)
            mounting = _Mounting(home, service, place)
            mounting.start()
            try:
                click.echo(_introduction(place, service if with_job else None))
                if with_job:
                    _run(job, place / "jobs" / JOB / "live.log", show=leave)
                if not leave:
                    ended.wait()
            finally:
                job.close()
                left = mounting.end()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        is_mounted = mounting is not None and mounting.is_there
        _remove(home, place, is_mounted=is_mounted, is_uploaded=not left)
    if left:
        raise click.exceptions.Exit(left)


class _Mounting:
    """The demo's mount, made and ended by the commands that a user has for that."""

    def __init__(self, home: Path, service: LocalController, place: Path) -> None:
        self._home, self._place = home, place
        self._before = assembly.find_mount(place)
        self._makes_place = not os.path.lexists(place)
        self._environment = os.environ | {
            "ARTIFACTFS_URL": service.url,
            "ARTIFACTFS_TOKEN": service.token,
            "ARTIFACTFS_CACHE_DIR": str(home / "cache"),
            "ARTIFACTFS_STATE_DIR": str(home / "state"),
        }

    def start(self) -> None:
        """Mount. Raises `click.exceptions.Exit`."""
        status = self._command("mount")
        if status:
            raise click.exceptions.Exit(status)

    def end(self) -> int:
        """Unmount, and return the exit status of that: 0 if everything is uploaded."""
        is_gone = assembly.find_mount(self._place) is None or assembly.is_stale(self._place)
        if is_gone:
            self._command("mount")  # uploads what the mount that is gone has left
        status = self._command("unmount", "--timeout", str(UNMOUNT_S))
        self._remove_place()
        if is_gone and any(self._home.glob(UNSENT)):  # the other driver may have them still
            return status or NOT_ALL_UPLOADED
        return status

    @property
    def is_there(self) -> bool:
        """Whether the demo's mount is there. One that was there before is another's."""
        return assembly.find_mount(self._place) not in (None, self._before)

    def _remove_place(self) -> None:
        if self._makes_place:
            with contextlib.suppress(OSError):  # it is mounted still
                self._place.rmdir()

    def _command(self, *words: str) -> int:
        done = subprocess.run(  # noqa: S603 - this very program
            [sys.executable, "-m", "artifactfs", *words, str(self._place)],
            env=self._environment,
            check=False,
        )
        return done.returncode


def _remove(home: Path, place: Path, *, is_mounted: bool, is_uploaded: bool) -> None:
    """Remove the demo's directory, unless a mount or a file that is not uploaded needs it."""
    if is_mounted:
        say(f"{place} is still mounted: unmount it, then remove {home}")
        return
    if not is_uploaded:
        say(f"{home} is kept: what is not uploaded is in {home / UNSENT.partition('/*')[0]}")
        return
    try:
        _remove_tree(home, home.lstat().st_dev)
    except OSError as error:
        say(f"{home} could not be removed whole: {line_of(error)}")


def _remove_tree(directory: Path, device: int) -> None:
    """Remove a directory with what is in it. Never enters another file system."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink()
            elif entry.stat(follow_symlinks=False).st_dev == device:
                _remove_tree(Path(entry.path), device)
            else:
                raise OSError(errno.EBUSY, "a file system is mounted there", entry.path)
    directory.rmdir()


def _run(job: ProgramJob, log: Path, *, show: bool) -> None:
    """Run a job; `show` what its log says until it has ended."""
    job.make()
    if not show:
        job.start()
        return
    with log.open() as file:
        job.start()
        quiet = 0
        while quiet < QUIET:
            text = file.read()
            click.echo(text, nl=False)
            quiet = quiet + 1 if job.wait(LOOK_S) and not text else 0
            time.sleep(LOOK_S)


def _introduction(place: Path, service: LocalController | None) -> str:
    more = ""
    if service is not None:
        job = f"{place}/jobs/{JOB}"
        where = f"ARTIFACTFS_URL={service.url} ARTIFACTFS_TOKEN_FILE={service.data}/token"
        more = f"""
  tail -n +1 -f {job}/live.log
  cat {job}/result.json
  {where} artifactfs watch {JOB}
"""
    return f"""A service runs on this machine, and its artifacts are mounted at {place}

  ls -l {place}/artifacts
  head {place}/artifacts/results/a.csv
  cp SOMETHING {place}/drop/
  artifactfs status {place}
{more}
Ctrl-C ends the demo and removes everything it made."""
