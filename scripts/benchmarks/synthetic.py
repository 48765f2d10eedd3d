"""A service of generated artifacts: as many as wanted, or of any size, without a disk.

It speaks the read side of the service's contract: pages of the list, ranges of a content. Every
content is zeros. The pages are rendered once and kept, so that from the second transfer on a list
costs what its bytes cost. It is a process of its own that ends when its standard input ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

TOKEN = "flk_synthetic"
_ZEROS = memoryview(bytes(1 << 20))
_MAX_PAGE = 10_000
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Synthetic:
    """A running service of `count` artifacts of `size_bytes` each, named ``file-0000000.bin``, …"""

    token = TOKEN

    def __init__(self, count: int, size_bytes: int) -> None:
        self._count, self._size_bytes = count, size_bytes
        self.url = ""

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            words = (listening.fileno(), self._count, self._size_bytes)
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__), *map(str, words)],
                stdin=subprocess.PIPE,
                pass_fds=[listening.fileno()],
                start_new_session=True,
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def artifact_name(number: int) -> str:
    """Return the file name of an artifact."""
    return f"file-{number:07}.bin"


# The service's process


class Service:
    """Answers requests, each connection in a thread of its own."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self._count, self._size_bytes = count, size_bytes
        self._pages: dict[tuple[int, int], bytes] = {}

    def serve(self, listening: socket.socket) -> None:
        while True:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._requests, args=(connection,), daemon=True).start()

    def _requests(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as reading:
                while line := reading.readline().decode():
                    method, target, _ = line.split()
                    headers: dict[str, str] = {}
                    while (text := reading.readline().decode().strip()) != "":
                        name, _, value = text.partition(":")
                        headers[name.lower()] = value.strip()
                    reading.read(int(headers.get("content-length", 0)))
                    self._answer(connection, method, target, headers)
        except (OSError, ValueError):
            return

    def _answer(
        self, connection: socket.socket, method: str, target: str, headers: dict[str, str]
    ) -> None:
        url = urlsplit(target)
        path = url.path.removeprefix("/api/v1/")
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if path == "artifacts" and method == "GET":
            limit = min(_MAX_PAGE, int(query.get("limit", _MAX_PAGE)))
            self._send_json(connection, self._page(int(query.get("cursor", 0)), limit))
        elif path.startswith("artifacts/art_") and method in ("GET", "HEAD"):
            self._send_content(connection, int(path[14:]), method, headers)
        elif path in ("jobs", "projects") and method == "GET":
            self._send_json(connection, json.dumps({path: [], "next_cursor": None}).encode())
        else:
            said = {"error": {"code": "not_found", "message": f"there is no {target}"}}
            self._send_json(connection, json.dumps(said).encode(), "404 Not Found")

    @staticmethod
    def _send_json(connection: socket.socket, body: bytes, status: str = "200 OK") -> None:
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)

    def _page(self, start: int, limit: int) -> bytes:
        page = self._pages.get((start, limit))
        if page is None:
            stop = min(self._count, start + limit)
            listed = ",".join(self._artifact(number) for number in range(start, stop))
            cursor = f'"{stop}"' if stop < self._count else "null"
            page = f'{{"artifacts":[{listed}],"next_cursor":{cursor}}}'.encode()
            self._pages[start, limit] = page
        return page

    def _artifact(self, number: int) -> str:
        return (
            f'{{"id":"art_{number}","sha256":"{_sha256(number)}","size":{self._size_bytes},'
            f'"filename":"{artifact_name(number)}","content_type":"application/octet-stream",'
            f'"created_at":"2026-11-23T12:00:00Z","expires_at":"2099-11-30T12:00:00Z",'
            f'"status":"ready","external_url":null,"job_id":null}}'
        )

    def _send_content(
        self, connection: socket.socket, number: int, method: str, headers: dict[str, str]
    ) -> None:
        asked = _RANGE.fullmatch(headers.get("range", ""))
        start, stop, status = 0, self._size_bytes, "200 OK"
        if asked:
            start, status = int(asked[1]), "206 Partial Content"
            stop = min(stop, int(asked[2]) + 1) if asked[2] else stop
        if not 0 <= start < stop:
            self._send_json(connection, b"{}", "416 Range Not Satisfiable")
            return
        head = [
            f"HTTP/1.1 {status}",
            f'ETag: "{_sha256(number)}"',
            "Accept-Ranges: bytes",
            "Content-Type: application/octet-stream",
            f"Content-Length: {stop - start}",
        ]
        if asked:
            head.append(f"Content-Range: bytes {start}-{stop - 1}/{self._size_bytes}")
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        while method == "GET" and start < stop:
            start += connection.send(_ZEROS[: min(len(_ZEROS), stop - start)])


def _sha256(number: int) -> str:
    """Stand for the hash of a content that no row reads to its end."""
    return hashlib.sha256(b"%d" % number).hexdigest()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    with socket.socket(fileno=int(sys.argv[1])) as passed:
        Service(int(sys.argv[2]), int(sys.argv[3])).serve(passed)
