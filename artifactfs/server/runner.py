"""Runs the service: the data directory's lock, the token, the ports, the end.

One process serves a data directory at a time (``lock``, held by flock, so that it is free again
after kill -9). The token is the one given, or one that is made once and kept in ``token``. When the
sockets listen, one line goes to standard output; SIGTERM and SIGINT end the service within a second
or two, open streams included.

Everything it makes is for its user only: the directory is 0700, files are 0600.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from aiohttp import web

from artifactfs.errors import ConfigError
from artifactfs.server.app import Controller, refusal_of
from artifactfs.server.auth import make_token
from artifactfs.server.config import ServerConfig
from artifactfs.server.postgres import DatabaseUnreachable
from artifactfs.server.responses import Refusal

CLEAN_S = 60.0
READ_BUFFER_BYTES = 1 << 20
KEEP_ALIVE_S = 75.0
END_S = 0.5

_log = logging.getLogger(__name__)


def announce(url: str) -> None:
    """The one line that says that the service answers."""
    os.write(1, f"artifactfs controller on {url}\n".encode())


def serve(
    host: str,
    port: int,
    data: Path,
    *,
    token: str | None = None,
    behaviour: ServerConfig | None = None,
    until_input_ends: bool = False,
    on_ready: Callable[[str], None] = announce,
) -> None:
    """Serve until SIGTERM or SIGINT, or, if so wanted, until standard input ends.

    `port` 0 is any free one; `token` None is the directory's own. `on_ready` is called with the URL
    when it answers. For the main thread of a process of its own, whose umask it sets. Raises
    `ConfigError` for a directory or port that cannot be had.
    """
    os.umask(0o077)
    with _locked(data):
        token = token or _kept(data / "token", make_token)
        secret = _kept(data / "secret", lambda: secrets.token_hex(32)).encode()
        asyncio.run(
            _Run(data, token, secret, behaviour or ServerConfig()).serve(
                host, port, on_ready, until_input_ends
            )
        )


class _Run:
    """One life of the service, in the event loop."""

    def __init__(self, data: Path, token: str, secret: bytes, behaviour: ServerConfig) -> None:
        self._controller = Controller(data, token, secret, behaviour)
        self._data = data
        self._objects_port = behaviour.objects_port
        self._ended = asyncio.Event()

    async def serve(
        self, host: str, port: int, on_ready: Callable[[str], None], until_input_ends: bool
    ) -> None:
        try:
            self._controller.start()
        except sqlite3.Error as error:
            raise ConfigError(f"{self._data / 'index.sqlite'} cannot be used: {error}") from error
        except DatabaseUnreachable as error:
            raise ConfigError(str(error.strerror), remedy="see --index") from error
        runner = _AppRunner(
            self._controller.app,
            access_log=None,
            read_bufsize=READ_BUFFER_BYTES,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE_S,
            shutdown_timeout=END_S,
        )
        try:
            await runner.setup()
            bound = await _listen(runner, host, port)
            if self._objects_port is not None:
                self._controller.urls.objects_port = await _listen(runner, host, self._objects_port)
            self._heed_signals(until_input_ends)
            on_ready(f"http://{f'[{host}]' if ':' in host else host}:{bound}")
            await self._until_ended()
        finally:
            await self._controller.stop()
            await runner.cleanup()
            self._controller.close()

    async def _until_ended(self) -> None:
        keeping = asyncio.create_task(self._keep_house())
        await self._ended.wait()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    async def _keep_house(self) -> None:
        """Clean up from time to time. What fails is tried again the next time."""
        act = self._controller.sweep
        while True:
            try:
                await act()
            except (OSError, sqlite3.Error):
                _log.exception("cleaning up did not work")
            else:
                act = self._controller.clean
            await asyncio.sleep(CLEAN_S)

    def _heed_signals(self, until_input_ends: bool) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        if until_input_ends:

            def read() -> None:
                if not os.read(0, 4096):
                    loop.remove_reader(0)
                    self._ended.set()

            loop.add_reader(0, read)


async def _listen(runner: web.AppRunner, host: str, port: int) -> int:
    before = set(runner.addresses)
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            remedy="choose another --host or --port",
        ) from error
    bound = next(address for address in runner.addresses if address not in before)
    return int(bound[1])


class _Handler(web.RequestHandler):
    """A connection, with aiohttp's own errors (what is no HTTP at all) in the contract's words."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size or isinstance(exc, ConnectionError):
            raise ConnectionAbortedError("an answer broke off") from exc
        if status >= 500 and isinstance(exc, Exception):
            refusal = refusal_of(request, exc)
        else:
            words = " ".join((message or str(exc) or "this is no HTTP").split())
            code = "bad_request" if status < 500 else "internal_error"
            refusal = Refusal(status, code, words[:300], "send a valid HTTP request")
        response = refusal.response()
        response.force_close()
        return response


class _ServerThread(web.Server):
    """Makes `_Handler`s."""

    def __call__(self) -> web.RequestHandler:
        return _Handler(self, loop=self._loop, **self._kwargs)


class _AppRunner(web.AppRunner):
    """Has the application served by `_ServerThread`, which aiohttp has no other way to say."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _ServerThread(
            made.request_handler, request_factory=made.request_factory, **made._kwargs
        )


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(directory.iterdir()):
            directory.chmod(0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"another controller serves {directory}", remedy="end it, or choose another --data"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _kept(path: Path, make: Callable[[], str]) -> str:
    """What stands in `path`; made, and written whole (0600), if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        kept = path.read_text().strip()
        if kept:
            return kept
    made = make()
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)
    return made
