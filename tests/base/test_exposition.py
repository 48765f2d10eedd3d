"""Metrics over HTTP, asked by a plain client."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from artifactfs.config import load
from artifactfs.errors import ConfigError, MountError
from artifactfs.metrics import MetricsServer


def test_each_request_gets_the_numbers_of_its_moment() -> None:
    texts = iter((b"one\n", b"two\n"))
    with MetricsServer("127.0.0.1:0", lambda: next(texts)) as served:
        url = f"http://127.0.0.1:{served.port}"
        for expected in (b"one\n", b"two\n"):
            with urllib.request.urlopen(f"{url}/metrics?x=1", timeout=30) as answer:
                assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
                assert answer.read() == expected
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert b"/metrics" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/etc/passwd", timeout=30)


def test_a_client_that_goes_away_is_no_trouble(capfd: pytest.CaptureFixture[str]) -> None:
    with MetricsServer("127.0.0.1:0", lambda: b"x\n") as served:
        for sent in (b"", b"GET /met", b"\xff\xff\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
                client.sendall(sent)
        with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics", timeout=30) as got:
            assert got.read() == b"x\n"
    assert capfd.readouterr().err == ""


def test_an_address_that_is_taken_is_an_error() -> None:
    with (
        MetricsServer("127.0.0.1:0", lambda: b"") as first,
        pytest.raises(MountError, match=r"served at .*in use"),
    ):
        MetricsServer(f"127.0.0.1:{first.port}", lambda: b"")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", ""),
        (":9464", "127.0.0.1:9464"),
        ("9464", "127.0.0.1:9464"),
        ("0.0.0.0:9464", "0.0.0.0:9464"),
        ("[::1]:9464", "[::1]:9464"),
        ("localhost", None),
        ("127.0.0.1:99999", None),
        ("::1:9464", None),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, meant: str | None) -> None:
    if meant is None:
        with pytest.raises(ConfigError, match=r"metrics\.listen"):
            load({"metrics.listen": text}, environ={}, files=())
    else:
        assert load({"metrics.listen": text}, environ={}, files=()).metrics.listen == meant
