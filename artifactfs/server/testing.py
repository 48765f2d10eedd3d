"""A controller in a process of its own, for tests, benchmarks and the demo.

`LocalController` starts ``python -m artifactfs.server`` on a free port, keeps that port over
`stop` and `start`, and ends with its ``with`` block. If the process that has started it dies before
that, however it dies, the controller ends too: it listens for the end of its standard input. What
it says goes to ``controller.log`` in its data directory.

The conveniences play by ``/api/v1/_dev/``; see ``dev_routes`` for all that can be played.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import artifactfs

START_S = 20.0
STOP_S = 10.0
_SOURCES = Path(artifactfs.__file__).parent.parent


class LocalController:
    """One controller. `options` are its flags: ``part_size=5 << 20``, ``redirect_downloads=True``.

    `url`, `token` and `data` say how to reach it and where it keeps things; they stay the same over
    `stop` and `start`. For one thread.
    """

    def __init__(self, data: Path, *, port: int = 0, **options: object) -> None:
        self.data = data.absolute()
        self.url = ""
        self.token = ""
        self._port = port
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What it has said so far."""
        with contextlib.suppress(FileNotFoundError):
            return (self.data / "controller.log").read_text(errors="replace")
        return ""

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it answers.

        Raises RuntimeError with its own words if it does not.
        """
        if self._process is not None:
            return
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.data / "controller.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._words(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=_SOURCES,
                start_new_session=True,  # Ctrl-C is for whoever has started it
            )
        self.url = self._first_line().rpartition(" ")[2]
        self._port = int(self.url.rpartition(":")[2])
        token_file = self._options.get("token_file", self.data / "token")
        self.token = Path(str(token_file)).read_text().strip()

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a warning, as the kernel would."""
        self._end(signal.SIGKILL)

    # Conveniences

    def dev(self, path: str, body: dict[str, Any], *, method: str = "POST") -> Any:
        """Send to ``/api/v1/_dev/<path>`` and return the answer's JSON, or None if it has none.

        Raises `urllib.error.HTTPError`.
        """
        request = urllib.request.Request(
            f"{self.url}/api/v1/_dev/{path}",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            said = answer.read()
        return json.loads(said) if said else None

    def make_artifact(self, filename: str | bytes, content: bytes = b"", **more: Any) -> str:
        """An artifact of this name and content; its id."""
        name = filename.encode("utf-8", "surrogatepass") if isinstance(filename, str) else filename
        wanted = {
            "filename_base64": base64.b64encode(name).decode(),
            "content": base64.b64encode(content).decode(),
        }
        made = self.dev("artifacts", {"artifacts": [wanted | more]})
        return str(made["ids"][0])

    def make_artifacts(self, count: int, filename: str = "file-{n}.txt", **more: Any) -> list[str]:
        """Many artifacts at once, ``{n}`` in their names counting from 0; their ids."""
        made = self.dev("artifacts", {"count": count, "filename": filename} | more)
        return list(made["ids"])

    def add_token(self, account: str = "default", role: str = "member") -> str:
        """A new token."""
        return str(self.dev("tokens", {"account": account, "role": role})["token"])

    def remove_token(self, token: str) -> None:
        """Have a token refused from now on."""
        self.dev("tokens", {"token": token}, method="DELETE")

    def make_job(self, job_id: str, **fields: Any) -> None:
        """A new job, or another in its place."""
        self.dev("jobs", {"id": job_id} | fields)

    def print_output(self, job_id: str, text: str, *, task: int = 0) -> None:
        """Have a task print."""
        self.dev(f"jobs/{job_id}/tasks", {"index": task, "append": text})

    def end_job(self, job_id: str, status: str = "completed", **fields: Any) -> None:
        """Have a job end."""
        self.dev(f"jobs/{job_id}/end", {"status": status} | fields)

    # The process

    def _words(self) -> list[str]:
        words = [sys.executable, "-m", "artifactfs.server", "--until-input-ends"]
        words += ["--data", str(self.data), "--port", str(self._port)]
        for name, value in self._options.items():
            if value is None or value is False:
                continue
            words.append("--" + name.replace("_", "-"))
            if value is not True:
                words.append(str(value.absolute() if isinstance(value, Path) else value))
        return words

    def _first_line(self) -> str:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        line = b""
        deadline = time.monotonic() + START_S
        while not line.endswith(b"\n"):
            left_s = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([process.stdout], [], [], left_s)
            piece = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not piece:
                self._end(signal.SIGKILL)
                raise RuntimeError(f"the controller did not start: {self.log[-2000:]}")
            line += piece
        return line.decode().splitlines()[0]

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
