"""A controller in a process of its own, for tests, benchmarks and the demo.

`LocalController` starts ``python -m artifactfs.controller`` on a free port, keeps that port over
`stop` and `start`, and ends with its ``with`` block whatever happens. What the process says goes to
``controller.log`` in its data directory.
"""

from __future__ import annotations

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

START_S = 20.0
STOP_S = 10.0


class LocalController:
    """One controller. `options` are its flags: ``part_size=5 << 20``, ``redirect_downloads=True``.

    `url`, `token` and `data` say how to reach it and where it keeps things.
    """

    def __init__(self, data: Path, *, port: int = 0, **options: object) -> None:
        self.data = data
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

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it answers."""
        if self._process is not None:
            return
        self.data.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "artifactfs.controller"]
        words += ["--data", str(self.data), "--port", str(self._port)]
        for name, value in self._options.items():
            words.append("--" + name.replace("_", "-"))
            if value is not True:
                words.append(str(value))
        with (self.data / "controller.log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log)
        self.url = self._first_line().rpartition(" ")[2]
        self._port = int(self.url.rpartition(":")[2])
        self.token = (self.data / "token").read_text().strip()

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def dev(self, path: str, body: dict[str, Any]) -> Any:
        """POST to ``/api/v1/_dev/<path>`` and return the answer's JSON."""
        request = urllib.request.Request(
            f"{self.url}/api/v1/_dev/{path}",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def _first_line(self) -> str:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        line = b""
        deadline = time.monotonic() + START_S
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], deadline - time.monotonic())
            piece = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not piece:
                self._end(signal.SIGKILL)
                said = (self.data / "controller.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the controller did not start: {said}")
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
        if process.stdout is not None:
            process.stdout.close()
