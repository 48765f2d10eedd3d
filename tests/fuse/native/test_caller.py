"""Which signals end a wait."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from artifactfs.caller import CallerIntent, caller_intent

PID = 77


def mask(*numbers: int) -> str:
    return f"{sum(1 << (number - 1) for number in numbers):016x}"


def process(
    directory: Path,
    *,
    pending: tuple[int, ...] = (),
    shared: tuple[int, ...] = (),
    blocked: tuple[int, ...] = (),
    ignored: tuple[int, ...] = (),
    handled: tuple[int, ...] = (),
) -> Path:
    """A /proc with one process in it."""
    (directory / str(PID)).mkdir()
    (directory / str(PID) / "status").write_text(
        f"Name:\tcat\nSigQ:\t0/1\nSigPnd:\t{mask(*pending)}\nShdPnd:\t{mask(*shared)}\n"
        f"SigBlk:\t{mask(*blocked)}\nSigIgn:\t{mask(*ignored)}\nSigCgt:\t{mask(*handled)}\n"
    )
    return directory


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGPROF, signal.SIGALRM, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH,
        signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGTSTP, signal.SIGCONT,
        signal.SIGRTMIN,
    ],
)  # fmt: skip
def test_a_handled_signal_that_says_nothing_of_stopping_is_let_pass(
    tmp_path: Path, number: int
) -> None:
    assert (
        caller_intent(PID, process(tmp_path, pending=(number,), handled=(number,)))
        is CallerIntent.GO_ON
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_wish_to_stop_is_heard_handled_or_not(tmp_path: Path, number: int) -> None:
    assert (
        caller_intent(PID, process(tmp_path, shared=(number,), handled=(number,)))
        is CallerIntent.STOP
    )


@pytest.mark.parametrize("number", [signal.SIGPROF, signal.SIGALRM, signal.SIGKILL])
def test_an_unhandled_signal_ends_the_process_and_so_the_wait(tmp_path: Path, number: int) -> None:
    assert caller_intent(PID, process(tmp_path, pending=(number,))) is CallerIntent.STOP


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT,
        signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH,
    ],
)  # fmt: skip
def test_a_stop_signal_and_one_that_does_nothing_end_no_wait(tmp_path: Path, number: int) -> None:
    assert caller_intent(PID, process(tmp_path, shared=(number,))) is CallerIntent.GO_ON


def test_one_of_several_is_enough(tmp_path: Path) -> None:
    proc = process(
        tmp_path, pending=(signal.SIGPROF,), shared=(signal.SIGINT,), handled=(signal.SIGPROF,)
    )
    assert caller_intent(PID, proc) is CallerIntent.STOP


def test_blocked_and_ignored_signals_are_none(tmp_path: Path) -> None:
    proc = process(
        tmp_path,
        shared=(signal.SIGTERM, signal.SIGHUP),
        blocked=(signal.SIGTERM,),
        ignored=(signal.SIGHUP,),
    )
    assert caller_intent(PID, proc) is CallerIntent.GO_ON


def test_the_wish_of_a_caller_that_cannot_be_seen_is_unknown(tmp_path: Path) -> None:
    assert caller_intent(0, tmp_path) is CallerIntent.UNKNOWN
    assert caller_intent(PID, tmp_path) is CallerIntent.UNKNOWN
    (tmp_path / str(PID)).mkdir()
    (tmp_path / str(PID) / "status").write_text("Name:\tcat\nSigPnd:\tnonsense\n")
    assert caller_intent(PID, tmp_path) is CallerIntent.UNKNOWN


def test_this_process_may_go_on() -> None:
    assert caller_intent(os.getpid()) is CallerIntent.GO_ON
