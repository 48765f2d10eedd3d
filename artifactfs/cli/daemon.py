"""Makes a mount a daemon: the command returns when the mount answers, or says why it does not.

The process forks before it starts a thread. The child has ``/`` as its directory and nothing on its
standard streams; it reports through a pipe, once: either that it is ready or the reason why it will
not be. The parent waits for that report, or for the pipe's end, which is a child that died.

The child becomes the leader of a session of its own when the mount answers, not before: until then
Ctrl-C is meant for it as well, and an automounter lets only its own process group through to the
mount point that it guards (autofs(5), "the daemon's process group"), in which mount(8) runs for it.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

from artifactfs.cli.errors import FAILED, line_of
from artifactfs.errors import ArtifactfsError, MountError

READY_S = 60.0

_READY = b"ready"


def run_detached(serve: Callable[[Callable[[], None]], None]) -> int:
    """Run `serve(on_ready)` in a daemon, and return its process when it has called `on_ready`.

    Raises `MountError` with the reason if it ends before.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_daemon(serve, writing)
    os.close(writing)
    report = _report(reading)
    os.close(reading)
    if report == _READY:
        return child
    os.waitpid(child, os.WNOHANG)
    reason, _, remedy = report.decode("utf-8", "replace").partition("\n")
    raise MountError(reason or "the mount's process ended without a word", remedy=remedy or None)


def _report(reading: int) -> bytes:
    report = b""
    while True:
        ready, _, _ = select.select([reading], [], [], READY_S)
        if not ready:
            return f"the mount did not answer within {READY_S:.0f} s".encode()
        piece = os.read(reading, 65536)
        if not piece:
            return report
        report += piece
        if report == _READY:
            return report


def _be_daemon(serve: Callable[[Callable[[], None]], None], writing: int) -> None:
    """The child: never returns."""
    status = FAILED
    reported = False

    def tell(report: bytes) -> None:
        nonlocal reported
        if not reported:
            reported = True
            os.write(writing, report)
            os.close(writing)

    def ready() -> None:
        os.setsid()
        tell(_READY)

    try:
        os.chdir("/")
        sys.stdout.flush()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.close(nothing)
        serve(ready)
        status = 0
    except ArtifactfsError as error:
        tell(f"{error.message}\n{error.remedy}".encode())
    except BaseException as error:  # noqa: BLE001 - the parent is told whatever it is
        tell(line_of(error).encode())
    finally:
        os._exit(status)
