"""A mount in a process of its own, as the tests hold it in hand.

`Mount` starts ``driver``, waits until the mount answers, and talks to it over its control channel.
The test's own process may touch the mount: it is not the driver's. `Mount.end` leaves nothing, not
even after a failed test: the driver ends, or is killed, and what is still mounted is detached.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from artifactfs.fuse import unmount
from tests.helpers import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
START_S = 20.0
ANSWER_S = 20.0
END_S = 20.0


def is_mounted(path: Path) -> bool:
    """Whether the mount table names `path`; asks no file system."""
    return unmount.mounted_at(path) is not None


class Mount:
    """One driver and its mount. `path` is the mount point."""

    def __init__(
        self,
        binding: str,
        directory: Path,
        *,
        source: str = "service.example",
        allow_other: bool = False,
        user: int | None = None,
        name: str = "mnt",
        read_only: bool = False,
        noexec: bool = False,
        ready_fails: bool = False,
        remove_mountpoint: bool = False,
    ) -> None:
        self.binding = binding
        self.path = directory / name
        self.path.mkdir(exist_ok=True)
        self._log_path = directory / "driver.log"
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self.troubles_expected = False
        self.ended: dict[str, Any] | None = None
        settings = {
            "binding": binding,
            "mountpoint": str(self.path),
            "backing": str(directory / "backed.bin"),
            "source": source,
            "allow_other": allow_other,
            "user": user,
            "read_only": read_only,
            "noexec": noexec,
            "ready_fails": ready_fails,
        }
        if user is not None:
            os.chown(directory, user, user)
            os.chown(self.path, user, user)
        if remove_mountpoint:
            self.path.rmdir()
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuse.driver", json.dumps(settings)],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._reader = threading.Thread(target=self._listen, name="driver's words")
        self._reader.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as words:
            for line in words:
                message = json.loads(line)
                (self._answers if {"answer", "trouble"} & message.keys() else self._messages).put(
                    message
                )
        self._messages.put({"ended": "the driver is gone"})
        self._answers.put({"trouble": "the driver is gone"})

    def wait_ready(self) -> None:
        """Until the driver says that the mount answers."""
        message = self._messages.get(timeout=START_S)
        if "ready" not in message:
            self.ended = message
            raise AssertionError(f"{message}\n{self.log}")

    def wait_ended(self, timeout_s: float = END_S) -> str | None:
        """Until `run` has returned; what it raised."""
        if self.ended is None:
            self.ended = self._messages.get(timeout=timeout_s)
        self.process.wait(timeout_s)
        ended: str | None = self.ended["ended"]
        return ended

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def log(self) -> str:
        """What the driver has logged so far."""
        return self._log_path.read_text(errors="replace")

    def command(self, do: str, **details: Any) -> Any:
        """Have the driver do something; its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **details}) + "\n")
        self.process.stdin.flush()
        message = self._answers.get(timeout=ANSWER_S)
        assert "trouble" not in message, message
        return message["answer"]

    def fail(
        self, operation: str, error: str, *, name: str | None = None, times: int | None = None
    ) -> None:
        """Let `operation` on `name` raise `error`; see ``faults``."""
        self.troubles_expected = True
        self.command("fail", operation=operation, name=name, error=error, times=times)

    def hold(self, operation: str, *, name: str | None = None) -> None:
        """Let `operation` on `name` wait until `let_go`."""
        self.command("hold", operation=operation, name=name)

    def let_go(self) -> None:
        """End all holds and failures."""
        self.command("let_go")

    def wait_held(self, operation: str, number: int = 1) -> None:
        """Until `number` calls of `operation` are held."""
        wait_until(lambda: self.command("held", operation=operation) >= number)

    def publish(self, path: str, content: bytes) -> int:
        """A file comes, or changes its meaning, by itself."""
        ino: int = self.command("publish", path=path, content=base64.b64encode(content).decode())
        return ino

    def append(self, path: str, content: bytes) -> None:
        """A log grows by itself."""
        self.command("append", path=path, content=base64.b64encode(content).decode())

    def dropped(self) -> dict[str, dict[str, Any]]:
        """What lies in drop/, as the tree has it."""
        found: dict[str, dict[str, Any]] = self.command("dropped")
        return found

    def kill(self) -> None:
        """The driver dies at once, and leaves its mount."""
        self.process.kill()
        self.process.wait(END_S)

    def end(self) -> None:
        """Unmount and end; whatever happened, nothing is left."""
        in_order = True
        if self.process.poll() is None:
            with contextlib.suppress(OSError, AssertionError, queue.Empty):
                self.command("let_go")
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                in_order = False
                self.process.kill()
                self.process.wait(END_S)
        if left := is_mounted(self.path):
            subprocess.run(["umount", "-l", self.path], check=False, capture_output=True)
        self._reader.join(END_S)
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        assert in_order, f"the driver did not end by SIGTERM\n{self.log}"
        expected = (0, -signal.SIGTERM, -signal.SIGKILL, *((1,) if self.ended else ()))
        assert self.process.returncode in expected, f"{self.process.returncode}\n{self.log}"
        if self.process.returncode != -signal.SIGKILL:
            assert not left, f"the driver ended and left its mount\n{self.log}"
            assert self.troubles_expected or "ERROR" not in self.log, self.log
        assert "Exception ignored" not in self.log, self.log
