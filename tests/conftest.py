"""What every test has: a clean environment, and a house that is clean afterwards."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

FUSE_DEVICE = Path("/dev/fuse")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """No setting of the machine or its user reaches a test."""
    for name in list(os.environ):
        if name.startswith(("ARTIFACTFS_", "COMPUTALOT_", "CREDENTIALS_DIRECTORY")):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_thread_left():
    """Every thread that a test started has ended when the test does."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    left = _left(before)
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = _left(before)
    assert not left, f"threads left behind: {[thread.name for thread in left]}"


def _left(before: set[threading.Thread]) -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.is_alive() and not thread.name.startswith("pytest")
    ]


@pytest.fixture
def open_device() -> Iterator[None]:
    """``/dev/fuse`` is open to everybody, as distributions have it, and put back afterwards."""
    with open(FUSE_DEVICE, "rb") as device:
        fcntl.flock(device, fcntl.LOCK_EX)
        before = stat.S_IMODE(os.stat(FUSE_DEVICE).st_mode)
        os.chmod(FUSE_DEVICE, 0o666)
        yield
        os.chmod(FUSE_DEVICE, before)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("fuse") and not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        pytest.skip(f"{FUSE_DEVICE} is not there or not open to this user")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """On the machine that decides, a skipped test is a failed one."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):
        reporter.write_line("tests were skipped where none may be", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
