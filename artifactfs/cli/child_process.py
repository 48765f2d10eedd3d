"""Runs a command as if it had been started directly, beside a process that serves it.

What the command's starter sees of it is its own: standard streams, process group, exit status. The
terminal sends Ctrl-C to the whole group, so the command has it already and it is not sent again;
what somebody sends to this process alone (a scheduler's SIGTERM) is passed on. The kernel says
which it was (``si_code``, sigaction(2)), and for that signals are waited for, not handled. What was
ignored from the start (``nohup``) stays ignored.

If this process is killed, the kernel asks the command and the server to end (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126

_PR_SET_PDEATHSIG: Final = 1
_SENT_BY_THE_KERNEL: Final = 0x80
_ENDING: Final = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}
_PASSED_ON: Final = _ENDING | {signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH}


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process with SIGTERM when `parent` has ended, in whatever way."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was quicker
        signal.raise_signal(signal.SIGTERM)


class ForwardedSignals:
    """Signals that are waited for as long as the ``with`` block runs, and not handled.

    Those that are passed on, and SIGCHLD. What was ignored before stays so.
    """

    def __init__(self) -> None:
        self._waited = {one for one in _PASSED_ON if signal.getsignal(one) != signal.SIG_IGN}
        self._before = {*signal.pthread_sigmask(signal.SIG_BLOCK, ())}

    def __enter__(self) -> Self:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, self._all)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while signal.sigtimedwait(self._all, 0) is not None:
            pass
        self.release()

    @property
    def _all(self) -> set[signal.Signals]:
        return {*self._waited, signal.SIGCHLD}

    def release(self) -> None:
        """Let them through again; for a child, too."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def next(self) -> signal.struct_siginfo:
        """The next one, once it has come."""
        return signal.sigwaitinfo(self._all)

    def told_to_end(self) -> bool:
        """Whether one that wants an end has come since the last that was looked at."""
        return signal.sigtimedwait(_ENDING & self._waited, 0) is not None


def accompany(
    command: Sequence[str],
    signals: ForwardedSignals,
    server: int,
    on_server_end: Callable[[int], None],
) -> int:
    """Run `command` to its end; its exit status, negative for the signal that ended it.

    `server` is a child of this process. If that ends before, `on_server_end` is called with its
    exit status; the command goes on. Raises `OSError` if the command cannot be started.
    """
    parent = os.getpid()

    def prepare() -> None:
        end_with_parent(parent)
        signals.release()

    serves = True

    def look_at_server() -> None:
        nonlocal serves
        ended, status = os.waitpid(server, os.WNOHANG) if serves else (0, 0)
        if ended:
            serves = False
            on_server_end(os.waitstatus_to_exitcode(status))

    with subprocess.Popen(command, preexec_fn=prepare) as process:  # noqa: S603 - the user's own
        while process.poll() is None:
            told = signals.next()
            if told.si_signo == signal.SIGCHLD:
                look_at_server()
            elif told.si_code != _SENT_BY_THE_KERNEL:
                process.send_signal(told.si_signo)
    look_at_server()
    return process.returncode


def end_alike(status: int) -> int:
    """The exit status to end with; for a command that a signal ended, end by the same signal.

    A shell then sees the command's end, not ours: it breaks a loop at Ctrl-C, for instance.
    """
    if status >= 0:
        return status
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command's core is the one to look at
    number = signal.Signals(-status)
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 - status
