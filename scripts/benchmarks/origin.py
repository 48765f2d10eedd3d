"""The origin of bytes: nginx on loopback, and a line to it as slow as a distant one.

The controller answers downloads by a redirect to nginx, as a service redirects to its object store.
`SlowLine` holds back each request for `delay_s`, in a process of its own, and passes the answers on
by splice(2), so that it is never what limits; nginx itself limits each answer's rate.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.row import absent

PIPE_BYTES = 1 << 20

CONFIG = """
user {user};
worker_processes 1;
daemon off;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log {home}/access.log;
  autoindex on;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  client_body_temp_path {home}/1;
  proxy_temp_path {home}/2;
  fastcgi_temp_path {home}/3;
  uwsgi_temp_path {home}/4;
  scgi_temp_path {home}/5;
  server {{ listen 127.0.0.1:{port}; alias_root; }}
  server {{ listen 127.0.0.1:{limited_port}; limit_rate {limit_k}k; alias_root; }}
}}
"""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Origin:
    """nginx before a controller's blobs; `limited_url` holds each answer to `limit_bytes` a second.

    `with` it, then `sent_bytes()` counts what went out since `mark()`.
    """

    def __init__(self, home: Path, blobs: Path, *, limit_bytes: int = 50_000_000) -> None:
        self._home = home
        self._blobs = blobs
        self._limit_bytes = limit_bytes
        self._port, self._limited_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.limited_url = f"http://127.0.0.1:{self._limited_port}"

    def __enter__(self) -> Self:
        if shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") is None:
            raise absent("nginx")
        self._home.mkdir(parents=True)
        config = self._home / "nginx.conf"
        config.write_text(
            CONFIG.format(
                user="root",
                home=self._home,
                port=self._port,
                limited_port=self._limited_port,
                limit_k=self._limit_bytes // 1024,
            ).replace("alias_root;", f"location / {{ alias {self._blobs}/; }}")
        )
        self._process = subprocess.Popen(
            ["nginx", "-c", config],
            env=os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin"},
            stderr=subprocess.DEVNULL,
        )
        wait_for_port(self._port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()

    def mark(self) -> None:
        """Count from here."""
        (self._home / "access.log").write_text("")

    def sent_bytes(self) -> int:
        """What the answers of finished requests held since `mark`."""
        log = (self._home / "access.log").read_text().strip("\0").splitlines()
        return sum(int(line.split('"')[2].split()[1]) for line in log)


class SlowLine:
    """A TCP relay to `target` that holds back each request for `delay_s`."""

    def __init__(self, target: str, delay_s: float) -> None:
        self._target = target.rpartition("/")[2]
        self._delay_s = delay_s
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._port), self._target, str(self._delay_s)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        )
        wait_for_port(self._port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()


def wait_for_port(port: int) -> None:
    """Return when somebody listens there. Raises TimeoutError."""
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nobody listens on port {port}")


def relay(port: int, target: str, delay_s: float) -> None:
    """Be the slow line, until killed."""
    host, _, target_port = target.rpartition(":")
    with socket.create_server(("127.0.0.1", port), backlog=512) as listening:
        while True:
            client, _ = listening.accept()
            server = socket.create_connection((host, int(target_port)))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_requests, args=(client, server, delay_s), daemon=True).start()
            threading.Thread(target=_answers, args=(server, client), daemon=True).start()


def _requests(client: socket.socket, server: socket.socket, delay_s: float) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(1 << 16):
            time.sleep(delay_s)
            server.sendall(data)
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_WR)


def _answers(server: socket.socket, client: socket.socket) -> None:
    inlet, outlet = -1, -1
    with contextlib.suppress(OSError):
        outlet, inlet = os.pipe()
        fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        while count := os.splice(server.fileno(), inlet, PIPE_BYTES):
            while count > 0:
                count -= os.splice(outlet, client.fileno(), count)
    for end in (inlet, outlet):
        if end >= 0:
            os.close(end)
    for one in (client, server):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    relay(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
