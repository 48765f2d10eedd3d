"""References to external URLs in a mount: their size is not known before they are opened."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from .conftest import ServiceClient, UserMount

pytestmark = pytest.mark.fuse

DATA = os.urandom(3_000_000)


class Outside(ThreadingHTTPServer):
    """Serves `DATA` in the way that a path names; `heads` are the requests it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.heads: list[tuple[str, str, dict[str, str]]] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Outside

    def log_message(self, *args: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._note()
        self.send_response(405)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self._note()
        start, stop = 0, len(DATA)
        asked = self.headers.get("Range")
        if self.path == "/ranges" and asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, len(DATA))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(DATA)}")
        else:
            self.send_response(200)
        if self.path == "/no-length":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        try:
            self.wfile.write(DATA[start:stop])
        except ConnectionError:  # who wanted to know the size only has gone
            self.close_connection = True

    def _note(self) -> None:
        sent = {name.lower(): value for name, value in self.headers.items()}
        self.server.heads.append((self.command, self.path, sent))


@pytest.fixture
def outside() -> Iterator[Outside]:
    with Outside() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("way", ["ranges", "no-ranges", "no-length"])
def test_a_reference_without_a_size_is_read_whole_and_then_has_one(
    mounted: UserMount, service: ServiceClient, outside: Outside, way: str
) -> None:
    service.post("artifacts/external", {"url": f"{outside.url}/{way}", "filename": "ref.bin"})
    path = mounted.path / "artifacts" / "ref.bin"
    assert path.stat().st_size == 0
    assert outside.heads == [], "looking at it asks nobody"
    with path.open("rb") as file:
        asked = [(method, sent.get("range")) for method, _, sent in outside.heads]
        assert asked[0] == ("GET", "bytes=0-0")
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(DATA).digest()
    assert path.stat().st_size == len(DATA)
    assert os.getxattr(path, "user.artifactfs.external_url").decode() == f"{outside.url}/{way}"
    seen = len(outside.heads)
    assert path.read_bytes() == DATA
    assert len(outside.heads) == seen, "it is cached"
    for method, _, sent in outside.heads:
        assert method == "GET"
        assert "authorization" not in sent
        assert mounted.token not in str(sent)
