"""A PostgreSQL server of one's own, from Debian's package ``postgresql``, on a socket in a
directory."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import wait_until


def _program(name: str) -> str:
    """Debian keeps the server's programs apart, by version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else (shutil.which(name) or name)


class Postgres:
    """One server. Like every PostgreSQL it does not run as root."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(directory, pwd.getpwnam(self._user).pw_uid, -1)
        self._run(
            "initdb", "-U", "postgres", "-A", "trust", "--locale=C", "--no-sync", "-D", self._data
        )

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._directory}"

    @property
    def _data(self) -> str:
        return str(self._directory / "data")

    def start(self) -> None:
        words = ["-D", self._data, "-k", str(self._directory), "-c", "listen_addresses="]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), *words, "-c", "fsync=off"],
                user=self._user,
                stdout=log,
                stderr=log,
                cwd=self._directory,
            )
        wait_until(self._answers, 30)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # "fast": sessions are ended
            self._process.wait(30)
            self._process = None

    def _answers(self) -> bool:
        words = ["-q", "-h", str(self._directory), "-U", "postgres"]
        return subprocess.run([_program("pg_isready"), *words], check=False).returncode == 0

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [_program(program), *words],
            user=self._user,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            check=True,
        )


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """One that runs; sockets want a short path."""
    directory = Path(tempfile.mkdtemp(prefix="artifactfs-pg-"))
    try:
        server = Postgres(directory)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)
