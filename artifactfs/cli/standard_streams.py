"""Standard output and standard error: every byte is written, or the command fails.

Python's own ``sys.stdout`` loses bytes. It drops what a non-blocking descriptor does not take, does
not continue a short write where it is unbuffered, reports what its last flush could not write after
the exit status is decided, and is ``None`` where the descriptor is closed. So `standard_streams`
replaces both streams while a command runs. `WholeWriter` does the writing, for ``click.echo``, for
rich and for ``sys.stdout.buffer`` alike: it keeps nothing back, waits for a descriptor that is not
ready, and raises `OutputError` for all else. `errors.run_command` turns that into an exit status.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, TextIO

NAMES: Final = {1: "standard output", 2: "standard error"}
_POLL_MS: Final = 200


class OutputError(Exception):
    """Standard output did not take all bytes. Not an `OSError`, which could be of anything else."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"{NAMES[1]}: {error.strerror or error}")
        self.is_reader_gone = error.errno == errno.EPIPE


def write_all(descriptor: int, data: Any, is_stopped: Callable[[], bool] = lambda: False) -> None:
    """Write every byte, also to a non-blocking descriptor. Raises `OSError`.

    While it waits for a non-blocking descriptor, `is_stopped` ends the waiting with ECANCELED.
    """
    rest = memoryview(data).cast("B")
    while rest:
        try:
            written = os.write(descriptor, rest)
        except BlockingIOError:
            written = 0
            waiting = select.poll()
            waiting.register(descriptor, select.POLLOUT)
            while not waiting.poll(_POLL_MS):
                if is_stopped():
                    raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)) from None
        rest = rest[written:]


class WholeWriter(io.RawIOBase):
    """Writer to descriptor 1 or 2 without a buffer. `close` leaves the descriptor open.

    Errors of standard error are ignored: there is no other place to report them.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._has_written = False
        self.name = f"<{NAMES[descriptor]}>"
        self.mode = "wb"

    def write(self, data: Any) -> int:
        """Write all of `data`. Raises `OutputError`."""
        self._has_written = True
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            self._fail(error)
        return memoryview(data).nbytes

    def finish(self) -> None:
        """Ask for an error that shows only when a file is closed. Raises `OutputError`."""
        if not self._has_written:
            return
        try:
            os.close(os.dup(self._descriptor))
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if self._descriptor == 1:
            raise OutputError(error) from error

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)


@contextlib.contextmanager
def standard_streams() -> Iterator[Callable[[], None]]:
    """Have ``sys.stdout`` and ``sys.stderr`` write every byte while the block runs.

    The block gets what to call after its last output: it raises `OutputError` for what a file
    system reports only when a file is closed. Streams that were replaced already, as in a notebook,
    are left alone.
    """
    with contextlib.ExitStack() as undo:
        _occupy_closed_descriptors()
        written: list[WholeWriter] = []
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            before: TextIO | None = getattr(sys, name)
            if before is not getattr(sys, f"__{name}__"):
                continue
            writer = WholeWriter(descriptor)
            stream = io.TextIOWrapper(
                writer,
                encoding="utf-8" if before is None else before.encoding,
                errors="backslashreplace",
                newline="\n",
                write_through=True,
            )
            setattr(sys, name, stream)
            undo.callback(setattr, sys, name, before)
            written.append(writer)

        def finish() -> None:
            for writer in written:
                writer.finish()

        yield finish


def _occupy_closed_descriptors() -> None:
    """Keep a file opened later from becoming standard input, output or error.

    What takes the place of standard output is open for reading only, so that writing to it fails.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != descriptor:
                os.dup2(opened, descriptor, inheritable=False)
                os.close(opened)
