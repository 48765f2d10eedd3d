"""A real service on loopback, a real mount of it, and commands as a user gives them.

The mount is made by the command line in a process of its own; tests only touch it from theirs.
Everything lies below the test's own directory, and whatever happens, the mount and the service are
gone when the test is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from artifactfs.server.testing import LocalController
from tests.helpers import wait_until

BINDINGS = ("fusepy", "native")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class ServiceClient:
    """The service as another of its users sees it: plain HTTP, nothing of ours."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self._headers = {"Authorization": f"Bearer {token}"}

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        answer = requests.post(
            f"{self.url}/api/v1/artifacts",
            data=data,
            headers={**self._headers, "X-Artifact-Filename": name.encode().decode("latin-1")}
            if name.isascii()
            else {**self._headers, "X-Artifact-Filename": requests.utils.quote(name)},
            timeout=60,
        )
        answer.raise_for_status()
        return answer.json()

    def artifacts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            answer = requests.get(
                f"{self.url}/api/v1/artifacts",
                params={"cursor": cursor} if cursor else {},
                headers=self._headers,
                timeout=60,
            )
            answer.raise_for_status()
            page = answer.json()
            found += page["artifacts"]
            cursor = page.get("next_cursor")
            if not cursor:
                return found

    def named(self, name: str) -> list[dict[str, Any]]:
        return [artifact for artifact in self.artifacts() if artifact["filename"] == name]

    def content(self, artifact_id: str) -> bytes:
        answer = requests.get(
            f"{self.url}/api/v1/artifacts/{artifact_id}", headers=self._headers, timeout=60
        )
        answer.raise_for_status()
        return answer.content

    def post(self, path: str, body: Any) -> Any:
        answer = requests.post(
            f"{self.url}/api/v1/{path}", json=body, headers=self._headers, timeout=60
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None


@dataclass
class UserMount:
    """One user's mount: its directories, settings and commands."""

    home: Path
    url: str
    token: str
    binding: str
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.home / "mnt"

    @property
    def environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ARTIFACTFS_", "XDG_"))
        }
        return inherited | {
            "HOME": str(self.home),
            "ARTIFACTFS_URL": self.url,
            "ARTIFACTFS_TOKEN": self.token,
            "ARTIFACTFS_FUSE": self.binding,
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    def command(
        self, *words: str | Path, check: bool = True, timeout_s: float = 60, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run ``artifactfs WORDS``; the output is kept."""
        done = subprocess.run(
            [sys.executable, "-m", "artifactfs", *map(str, words)],
            env=self.environment | more.pop("environment", {}),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            **more,
        )
        if check:
            assert done.returncode == 0, (
                f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()}"
            )
        return done

    def mount(self, *words: str) -> None:
        with contextlib.suppress(OSError):  # a stale mount is there and cannot be looked at
            self.path.mkdir()
        options = [f"{key}={value}" for key, value in self.settings.items()]
        flags = ["-o", ",".join(options)] if options else []
        self.command("mount", *flags, *words, self.path)

    def unmount(self, *words: str) -> None:
        self.command("unmount", *words, self.path)

    def status(self) -> dict[str, Any]:
        return json.loads((self.path / ".artifactfs" / "status.json").read_text())

    def uploads(self) -> dict[str, dict[str, Any]]:
        document = json.loads((self.path / ".artifactfs" / "uploads.json").read_text())
        return {upload["name"]: upload for upload in document["uploads"]}

    @property
    def pid(self) -> int:
        return int(self.status()["pid"])

    def kill(self) -> None:
        """End the driver as a power cut would; the stale mount stays."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), 10, "the driver is dead")

    def settle(self, within_s: float = 60) -> None:
        """Wait until nothing waits to be uploaded."""
        self.command("flush", "--timeout", str(within_s), self.path, timeout_s=within_s + 30)

    def log(self) -> str:
        logs = sorted((self.home / ".local/state/artifactfs/log").glob("*"))
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in logs)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _force_away(mount: UserMount) -> None:
    pids = []
    with contextlib.suppress(Exception):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(mount.path).encode() in path.read_bytes():
                    pids.append(int(path.parent.name))
    subprocess.run(["umount", "-l", mount.path], capture_output=True, check=False)
    for pid in pids:
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[LocalController]:
    with LocalController(tmp_path / "service") as running:
        yield running


@pytest.fixture
def service(controller: LocalController) -> ServiceClient:
    return ServiceClient(controller.url, controller.token)


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def _user(home: Path, controller: LocalController, binding: str) -> Iterator[UserMount]:
    home.mkdir()
    mount = UserMount(home, controller.url, controller.token, binding)
    try:
        yield mount
    finally:
        _force_away(mount)


@pytest.fixture
def user(tmp_path: Path, controller: LocalController, binding: str) -> Iterator[UserMount]:
    """A user whose mount is not made yet."""
    with _user(tmp_path / "user", controller, binding) as mount:
        yield mount


@pytest.fixture
def neighbour(tmp_path: Path, controller: LocalController, binding: str) -> Iterator[UserMount]:
    """Another user of the same machine and service, whose mount is not made yet either."""
    with _user(tmp_path / "neighbour", controller, binding) as mount:
        yield mount


@pytest.fixture
def mounted(user: UserMount) -> UserMount:
    """A user whose mount is made, listing anew at each look and forgetting uploads at once."""
    user.settings = {"list.ttl": "0", "drop.linger": "0"}
    user.mount()
    return user
