"""Runs the service: the data directory's lock, the token, the port, the end.

One process serves a data directory at a time (``lock``, held by flock, so that it is free again
after kill -9). The token is the one given, or one that is made once and kept in ``token``. When the
socket listens, one line goes to standard output; SIGTERM and SIGINT end the service within a second
or two, open streams included.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from artifactfs.controller.accounts import make_token
from artifactfs.controller.app import Behaviour, Controller
from artifactfs.errors import ConfigError

EXPIRY_S = 60.0
READ_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """Where to serve what. `port` 0 is any free one; `token` None is the directory's own."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    behaviour: Behaviour = field(default_factory=Behaviour)


def announce(url: str) -> None:
    """The one line that says that the service answers."""
    os.write(1, f"artifactfs controller on {url}\n".encode())


def serve(options: Options, on_ready: Callable[[str], None] = announce) -> None:
    """Serve until SIGTERM or SIGINT. Raises `ConfigError` for a directory or port that is taken."""
    with _locked(options.data):
        token = options.token or _kept(options.data / "token", make_token)
        secret = _kept(options.data / "secret", lambda: secrets.token_hex(32)).encode()
        asyncio.run(_serve(options, token, secret, on_ready))


async def _serve(
    options: Options, token: str, secret: bytes, on_ready: Callable[[str], None]
) -> None:
    controller = Controller(options.data, token, secret, options.behaviour)
    runner = web.AppRunner(
        controller.app, access_log=None, read_bufsize=READ_BUFFER_BYTES, shutdown_timeout=1.0
    )
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        controller.close_index()
        raise ConfigError(
            f"cannot listen on {options.host} port {options.port}: {error.strerror}",
            remedy="choose another --port",
        ) from error
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    host, port = runner.addresses[0][:2]
    on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), EXPIRY_S)
            controller.expire()
    finally:
        await controller.close()
        await runner.cleanup()
        controller.close_index()


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"another controller serves {directory}", remedy="choose another --data"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _kept(path: Path, make: Callable[[], str]) -> str:
    """What stands in `path`, made and written (0600) if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        kept = path.read_text().strip()
        if kept:
            return kept
    made = make()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(made + "\n")
    return made
