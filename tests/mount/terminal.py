"""A program on a terminal of its own: what it shows, what is typed, and what it leaves behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .conftest import wait_until

ROWS, COLUMNS = 40, 120
_MOVEMENT = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")


class Terminal:
    """`words`, run with this as its controlling terminal. Use it in a ``with`` block.

    `written` is all that has come so far. For one thread.
    """

    def __init__(
        self,
        words: Sequence[str | Path],
        environment: dict[str, str],
        *,
        columns: int = COLUMNS,
    ) -> None:
        self._ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        self.modes = self._modes()
        self.written = ""
        without = {"COLUMNS", "LINES"}
        inherited = {name: value for name, value in environment.items() if name not in without}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *map(str, words)],
            stdin=its, stdout=its, stderr=its, env=inherited | {"TERM": "xterm"},
        )  # fmt: skip
        self._its = its  # kept open, so that its modes can be looked at in the end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._its)
        os.close(self._ours)

    def _modes(self) -> list[Any]:
        return termios.tcgetattr(self._ours)

    @property
    def is_as_before(self) -> bool:
        """Whether the modes are those that the program found, and the cursor is to be seen."""
        cursor = re.findall(r"\x1b\[\?25([hl])", self.written)
        return self._modes() == self.modes and cursor[-1:] != ["l"]

    @property
    def text(self) -> str:
        """What was written, without what moves the cursor or colours it."""
        self._read()
        return _MOVEMENT.sub("", self.written)

    def type(self, keys: str) -> None:
        """Press keys; ``\\x03`` is Ctrl-C."""
        os.write(self._ours, keys.encode())

    def wait_for(self, pattern: str, within_s: float = 30) -> re.Match[str]:
        """The first place where `pattern` stands in `text`."""
        found = wait_until(lambda: re.search(pattern, self.text), within_s, f"it shows {pattern!r}")
        assert isinstance(found, re.Match)
        return found

    def end(self, within_s: float = 30) -> int:
        """Wait for the program, and return its exit status."""

        def ended() -> bool:
            self._read()
            return self.process.poll() is not None

        wait_until(ended, within_s, "the program ends")
        self._read()
        return self.process.returncode

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while select.select([self._ours], [], [], 0)[0]:
                self.written += os.read(self._ours, 65536).decode(errors="replace")
