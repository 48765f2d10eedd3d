"""What watches over this process: systemd's manager and its journal.

A service manager says in the environment where it listens (sd_notify(3)): ``NOTIFY_SOCKET`` is a
datagram socket that takes lines such as ``READY=1``, ``STATUS=…`` and ``STOPPING=1``;
``WATCHDOG_USEC`` is how long it waits for the next ``WATCHDOG=1`` before it takes the process for
dead. ``JOURNAL_STREAM`` is the device and inode of the pipe that leads to the journal, which
understands a level in front of a line (sd-daemon(3)). `config` reads these variables with all else
that the environment says; a `SystemdNotifier` is what they said.

A `SystemdSession` says READY once the mount answers; from then on a thread has the mount asked at
every beat (by a process of its own: a driver that waits for itself could not be killed) and pings
only if it answered, so that a driver that lives and serves nobody is restarted, too. At the end it
says STOPPING, and how long the uploads may take. Nothing here fails: a manager that does not listen
is none.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

BEAT_S = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SystemdNotifier:
    """Where a service manager listens, and how often it wants to hear something."""

    notify_socket: str | None = None
    watchdog_s: float | None = None
    journal: str | None = None

    def reads(self, stream: IO[str]) -> bool:
        """Whether what is written to `stream` arrives in the journal."""
        if self.journal is None:
            return False
        try:
            found = os.fstat(stream.fileno())
        except (OSError, ValueError):
            return False
        return self.journal == f"{found.st_dev}:{found.st_ino}"

    def tell(self, *lines: str) -> None:
        """Send lines as one message; also where nobody listens."""
        if self.notify_socket is None:
            return
        # A leading @ is an abstract name (unix(7)).
        name = self.notify_socket
        address = "\0" + name[1:] if name.startswith("@") else name
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(1.0)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            _log.debug("the service manager does not listen at %s: %s", name, error)


NOBODY = SystemdNotifier()


def systemd_notifier(environ: Mapping[str, str], pid: int) -> SystemdNotifier:
    """What the environment says to the process `pid`; what makes no sense says nothing."""
    notify_socket = environ.get("NOTIFY_SOCKET") or None
    if notify_socket is not None and notify_socket[0] not in "/@":
        notify_socket = None
    watchdog_s = None
    meant = environ.get("WATCHDOG_PID") or str(pid)
    if meant == str(pid) and (environ.get("WATCHDOG_USEC") or "").isdigit():
        watchdog_s = int(environ["WATCHDOG_USEC"]) / 1e6 or None
    return SystemdNotifier(notify_socket, watchdog_s, environ.get("JOURNAL_STREAM") or None)


class SystemdSession:
    """The conversation with a supervisor, from `ready` to `close`.

    `answers` says whether the mount does and must itself come back in time; `says` is one line for
    whoever looks at the service. Where nobody listens there is no thread. For one thread.
    """

    def __init__(
        self, supervisor: SystemdNotifier, answers: Callable[[], bool], says: Callable[[], str]
    ) -> None:
        self._supervisor = supervisor
        self._answers = answers
        self._says = says
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._beat_s = min(BEAT_S, (supervisor.watchdog_s or 2 * BEAT_S) / 2)

    def ready(self) -> None:
        """The mount is there."""
        if self._supervisor.notify_socket is None:
            return
        self._supervisor.tell("READY=1", f"STATUS={self._says()}", "WATCHDOG=1")
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._beat_s):
            if self._answers():
                self._supervisor.tell(f"STATUS={self._says()}", "WATCHDOG=1")
            elif not self._ended.is_set():
                _log.error("the mount does not answer; the service manager is not told that it did")
                self._supervisor.tell("STATUS=the mount does not answer")

    def stopping(self, why: str, more_s: float) -> None:
        """The mount is gone; what is left takes up to `more_s` seconds from now."""
        self._ended.set()
        self._supervisor.tell(
            "STOPPING=1", f"STATUS={why}", f"EXTEND_TIMEOUT_USEC={int(more_s * 1e6)}"
        )

    def close(self) -> None:
        """Say no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
