"""A mount that runs, as its own files show it.

Commands speak to a mount through the mount: they read ``.artifactfs/`` and set extended attributes.
An attribute that is set is an order with an id, whose end ``status.json`` shows.
So they work wherever the mount is visible, in a container as well, and need no socket and no rights
of their own. A mount can be dead or stuck; whatever touches it here does so on a thread that is
left behind when it does not come back in time.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from artifactfs import assembly, system
from artifactfs.errors import MountError

T = TypeVar("T")

ANSWER_S = 10.0
ORDER_S = 600.0
MIN_PAUSE_S = 0.01
MAX_PAUSE_S = 0.5
PREFIX = "user.artifactfs."


def within(seconds: float, act: Callable[[], T], what: str) -> T:
    """The result of `act`, or `MountError` if it does not come in time."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(act())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise MountError(
            f"{what} does not answer", remedy="`artifactfs unmount --force` ends a stuck mount"
        )
    return outcome[0]


@dataclass(frozen=True, slots=True)
class RunningMount:
    """One mount."""

    mountpoint: Path

    @classmethod
    def at(cls, path: Path | None) -> RunningMount:
        """The mount at or above `path`, or the only one there is. Raises `MountError`."""
        mounts = assembly.mounts()
        if path is None:
            if len(mounts) == 1:
                return cls(mounts[0].mountpoint)
            if not mounts:
                raise MountError("nothing is mounted", remedy="artifactfs mount MOUNTPOINT")
            names = ", ".join(str(one.mountpoint) for one in mounts)
            raise MountError(f"several are mounted: {names}", remedy="say which one")
        location = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would touch the mount
        points = {one.mountpoint for one in mounts}
        for candidate in (location, *location.parents):
            if candidate in points:
                return cls(candidate)
        real = Path(os.path.realpath(location))
        for candidate in (real, *real.parents):
            if candidate in points:
                return cls(candidate)
        raise MountError(f"{path} is not a mount of artifactfs")

    def _read(self, name: str) -> Any:
        path = self.mountpoint / ".artifactfs" / name
        try:
            text = within(ANSWER_S, path.read_text, str(self.mountpoint))
            return json.loads(text)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise MountError(
                f"{self.mountpoint} does not answer: {reason}",
                remedy=f"artifactfs unmount {self.mountpoint}, then mount again",
            ) from error

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says."""
        document: dict[str, Any] = self._read("status.json")
        return document

    def uploads(self) -> list[dict[str, Any]]:
        """What ``uploads.json`` says."""
        uploads: list[dict[str, Any]] = self._read("uploads.json")["uploads"]
        return uploads

    def is_read_only(self) -> bool:
        """Whether the kernel refuses all changes, and with them commands."""
        flags = within(ANSWER_S, lambda: os.statvfs(self.mountpoint).f_flag, str(self.mountpoint))
        return bool(flags & os.ST_RDONLY)

    def command(self, path: Path, name: str, value: bytes = b"1") -> None:
        """Give a command that is spelled as an attribute. Raises `OSError`, `MountError`."""
        attribute = PREFIX + name
        if self.is_read_only():
            raise MountError(
                f"{self.mountpoint} is mounted read-only, so the kernel passes no command to it",
                remedy=f"artifactfs unmount {self.mountpoint}, then mount it without ro",
            )
        within(ANSWER_S, lambda: system.set_attribute(path, attribute, value), str(self.mountpoint))

    def order(self, path: Path, name: str, value: bytes = b"1") -> None:
        """Give a command that is carried out later, and wait for its end.

        Blocks for at most `ORDER_S`. Raises `OSError` if the mount does not take it, `MountError`
        if it fails or does not end in time.
        """
        order_id = secrets.token_hex(8)
        self.command(path, name, value + b" " + order_id.encode())
        deadline_s = time.monotonic() + ORDER_S
        pause_s = MIN_PAUSE_S
        while order_id not in (ended := self.status()["orders"]["ended"]):
            if time.monotonic() > deadline_s:
                raise MountError(f"{path}: {name} has not ended within {ORDER_S:.0f} s")
            time.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, pause_s * 1.5)
        if ended[order_id] is not None:
            raise MountError(f"{path}: {ended[order_id]}")
