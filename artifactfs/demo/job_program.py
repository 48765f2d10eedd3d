"""A program run as a job of a `LocalController`: a real process, whose output becomes the job's.

What it prints goes to the service line by line, as a worker would send it. An attempt that fails is
followed by another, once. ``result.json`` that the program leaves in its directory becomes the
job's result, and every other file an artifact that names the job.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

from artifactfs.server.testing import LocalController

PROGRAM = Path(__file__).with_name("demo_program.py")
ATTEMPTS = 2
_RESULT = "result.json"
_CLOSE_S = 10.0


class ProgramJob:
    """One job. `start` returns at once; `close` ends it whatever it does.

    `_lock` guards the process, which `close` kills.
    """

    def __init__(
        self, service: LocalController, job_id: str, directory: Path, *, pause_s: float = 0.5
    ) -> None:
        self.id = job_id
        self._service = service
        self._directory = directory
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="demo-job", daemon=True)

    def make(self) -> None:
        """Make the job; nothing runs yet."""
        self._service.make_job(self.id, status="queued", project="demo", client_ref="a line")

    def start(self) -> None:
        """Begin its first attempt."""
        self._directory.mkdir()
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within that time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End the program; the job stays as it is."""
        with self._lock:
            self._closed.set()
            if self._process is not None:
                self._process.kill()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        self._service.dev(f"jobs/{self.id}", {"status": "running"})
        for attempt in range(1, ATTEMPTS + 1):
            status = self._attempt(attempt)
            if status is None:
                return
            if status == 0:
                self._keep()
                return
        self._service.end_job(self.id, "failed", error=f"{ATTEMPTS} attempts have failed")

    def _attempt(self, attempt: int) -> int | None:
        """One run of the program: its exit status, None if it was ended by `close`."""
        self._tell(attempt=attempt, status="running", error=None, exit_code=None, again=True)
        with self._lock:
            if self._closed.is_set():
                return None
            self._process = subprocess.Popen(  # noqa: S603 - a program of our own
                [sys.executable, "-u", str(PROGRAM), str(attempt), str(self._pause_s)],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            done, slash, _ = line.removeprefix("epoch ").partition("/")
            if slash and done.strip().isdigit():
                self._tell(append=line, latest_progress={"step": int(done), "total": 30})
            else:
                self._tell(append=line)
        self._process.stdout.close()
        status = self._process.wait()
        if self._closed.is_set():
            return None
        if status == 0:
            self._tell(status="completed", exit_code=0)
        else:
            self._tell(status="failed", exit_code=status, error="the program failed")
        return status

    def _keep(self) -> None:
        for path in sorted(self._directory.iterdir()):
            if path.name != _RESULT:
                self._service.make_artifact(path.name, path.read_bytes(), job_id=self.id)
        result = json.loads((self._directory / _RESULT).read_text())
        self._service.end_job(self.id, result=result)

    def _tell(self, **fields: object) -> None:
        self._service.dev(f"jobs/{self.id}/tasks", {"index": 0} | fields)
