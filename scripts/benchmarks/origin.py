"""The object store: nginx on loopback before the blobs of a service.

The service answers downloads by a redirect to nginx, as a service redirects to its object store.
nginx reads from the page cache; a `benchmarks.line.Line` before it makes it distant.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from benchmarks.row import PeerAbsentError

_CONFIG = """
user root;
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
  server {{ listen 127.0.0.1:{port}; location / {{ alias {blobs}/; }} }}
}}
"""


class Origin:
    """A running nginx before `blobs`; `sent_bytes()` counts what it sent since `mark()`."""

    def __init__(self, home: Path, blobs: Path) -> None:
        self._home = home
        self._blobs = blobs
        self.url = ""

    def __enter__(self) -> Self:
        path = os.environ["PATH"] + ":/usr/sbin"
        nginx = shutil.which("nginx", path=path)
        if nginx is None:
            raise PeerAbsentError("nginx is not installed")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        config = self._home / "nginx.conf"
        config.write_text(_CONFIG.format(home=self._home, port=port, blobs=self._blobs))
        self._process = subprocess.Popen(
            [nginx, "-c", config], stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.url = f"http://127.0.0.1:{port}"
        wait_for_port(port)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def mark(self) -> None:
        """Count from here."""
        os.truncate(self._home / "access.log", 0)

    def sent_bytes(self) -> int:
        """Return what the answers of finished requests held since `mark`."""
        log = (self._home / "access.log").read_text().strip("\0").splitlines()
        return sum(int(line.split('"')[2].split()[1]) for line in log)


def wait_for_port(port: int) -> None:
    """Return when a server listens there. Raises TimeoutError."""
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"no server listens on port {port}")
