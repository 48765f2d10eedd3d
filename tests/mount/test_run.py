"""``artifactfs run``: a mount for one command, as an ordinary user, whatever is killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from artifactfs.server.testing import LocalController

from .conftest import ServiceClient, alive, wait_until

if os.getuid() != 0:
    pytest.skip("only root can be somebody else", allow_module_level=True)

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.xdist_group("ordinary users"),
    pytest.mark.usefixtures("open_device"),
]

SOMEBODY = 4711
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def controller() -> Iterator[LocalController]:
    directory = Path(tempfile.mkdtemp(prefix="artifactfs-run-"))
    try:
        with LocalController(directory) as running:
            yield running
    finally:
        shutil.rmtree(directory)


@dataclass
class User:
    """An ordinary user in a directory of his own."""

    home: Path
    service: ServiceClient

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "HOME": str(self.home),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "ARTIFACTFS_URL": self.service.url,
            "ARTIFACTFS_TOKEN": self.service.token,
            "ARTIFACTFS_HTTP_RETRY_FOR": "1",
            "ARTIFACTFS_LIST_TTL": "0",
        }

    def start(self, *command: str, flags: tuple[str, ...] = (), **more: Any) -> Any:
        starter = [sys.executable, "-m", "tests.mount.ordinary", str(SOMEBODY), str(self.home)]
        return subprocess.Popen(
            [*starter, "run", *flags, "--", *command],
            cwd=REPOSITORY,
            env=self.environment(),
            text=True,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more),
        )

    def run(self, *command: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        with self.start(*command, flags=flags) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def shell(self, script: str, *flags: str) -> subprocess.CompletedProcess[str]:
        return self.run("sh", "-c", script, flags=flags)

    def wait_for(self, name: str) -> str:
        """The text of a file that the command writes, once it is there and whole."""
        path = self.home / name
        return wait_until(lambda: path.exists() and path.read_text(), 60, name).strip()

    def has_nothing_left(self) -> bool:
        """Whether no directory, no mount and no process is left."""
        return (
            not (self.home / "artifacts").exists()
            and str(self.home) not in Path("/proc/self/mountinfo").read_text()
            and not self.processes()
        )

    def processes(self) -> list[int]:
        """Those that run as this user in a namespace that is not ours."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if process.stat().st_uid == SOMEBODY and alive(int(process.name)):
                    found.append(int(process.name))
        return found


@pytest.fixture
def user(controller: LocalController) -> Iterator[User]:
    home = Path(tempfile.mkdtemp(prefix="artifactfs-run-"))
    os.chown(home, SOMEBODY, SOMEBODY)
    somebody = User(home, ServiceClient(controller.url, controller.token))
    yield somebody
    for pid in somebody.processes():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not somebody.processes(), 10)
    with contextlib.suppress(OSError):
        os.rmdir(home / "artifacts")
    shutil.rmtree(home)


def test_a_command_reads_and_writes_and_nothing_is_left(user: User) -> None:
    user.service.upload("x", b"some bytes")
    done = user.shell("cp artifacts/artifacts/x . && echo hi > artifacts/drop/y && id -u; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{SOMEBODY}\n", "")
    assert (user.home / "x").read_bytes() == b"some bytes"
    assert (os.stat(user.home / "x").st_uid, os.stat(user.home / "x").st_gid) == (SOMEBODY,) * 2
    assert [user.service.content(one["id"]) for one in user.service.named("y")] == [b"hi\n"]
    assert user.has_nothing_left()


def test_the_command_has_no_privilege_and_is_in_our_process_group(user: User) -> None:
    done = user.shell("grep CapEff /proc/self/status; ps -o pgid= -p $$; umount artifacts")
    assert done.stdout.split()[:2] == ["CapEff:", "0000000000000000"]
    assert int(done.stdout.split()[2]) == os.getpgrp()
    assert done.returncode != 0
    assert user.has_nothing_left()


def test_a_command_that_cannot_be_started_is_named(user: User) -> None:
    done = user.run("no-such-program")
    assert done.returncode == 127
    assert done.stderr == "artifactfs: no-such-program: No such file or directory\n"
    assert user.has_nothing_left()


def test_ctrl_c_reaches_the_command_once_and_what_it_left_is_uploaded(user: User) -> None:
    master, slave = os.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    script = """
import os, signal
signals = {signal.SIGINT, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
open("artifacts/drop/closed", "w").write("closed")
came = []
while signal.SIGUSR1 not in came:
    open("came.new", "w").write("ready " + " ".join(number.name for number in came))
    os.rename("came.new", "came")
    came.append(signal.Signals(signal.sigwait(signals)))
open("came", "w").write(" ".join(number.name for number in came))
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
os.kill(os.getpid(), signal.SIGINT)
"""
    streams = {"stdin": slave, "stdout": slave, "stderr": slave, "preexec_fn": own_terminal}
    with user.start("/usr/bin/python3", "-c", script, **streams) as process:
        wait_until(lambda: user.wait_for("came") == "ready", 60)
        os.write(master, b"\x03")
        wait_until(lambda: user.wait_for("came") == "ready SIGINT", 60)
        process.send_signal(signal.SIGUSR1)  # for us alone, and so passed on
        assert process.wait(60) == -signal.SIGINT
    os.close(master)
    os.close(slave)
    assert user.wait_for("came") == "SIGINT SIGUSR1"
    assert len(user.service.named("closed")) == 1
    assert user.has_nothing_left()


def test_a_killed_command_loses_nothing_that_it_had_closed(user: User) -> None:
    done = user.shell(
        "echo whole > artifacts/drop/whole;"
        'exec /usr/bin/python3 -c \'import os; file = open("artifacts/drop/torso", "w");'
        'file.write("half"); file.flush(); os.kill(os.getpid(), 9)\''
    )
    assert done.returncode == -signal.SIGKILL
    assert "torso is not uploaded, it is interrupted" in done.stderr
    assert f"1 file stays in {user.home}" in done.stderr
    assert len(user.service.named("whole")) == 1
    assert not user.service.named("torso")
    assert user.has_nothing_left()


def test_a_killed_driver_fails_the_reads_and_the_command_goes_on(user: User) -> None:
    user.service.upload("to-read", b"some bytes")
    user.home.joinpath("kill.py").write_text(
        "import json, os; os.kill(json.load(open('artifacts/.artifactfs/status.json'))['pid'], 9)"
    )
    done = user.shell(
        "cat artifacts/artifacts/to-read; echo > artifacts/drop/kept; /usr/bin/python3 kill.py;"
        "cat artifacts/artifacts/to-read; echo went on"
    )
    assert done.returncode == 0
    assert done.stdout == "some byteswent on\n"
    # What is under way when it dies is aborted, what comes later finds nobody.
    assert "not connected" in done.stderr or "connection abort" in done.stderr
    assert "the mount's process has ended (signal 9)" in done.stderr
    assert user.service.named("kept")
    assert user.has_nothing_left()


def test_what_could_not_be_sent_is_named_and_goes_with_the_next_run(
    user: User, controller: LocalController
) -> None:
    """Also when all that runs is killed without a warning."""
    drops = 'echo 1 > artifacts/drop/first; touch "$0"; until [ -e "$0.go" ]; do sleep 0.02; done'
    with user.start("sh", "-c", drops, "ready", flags=("--timeout", "1")) as process:
        wait_until((user.home / "ready").exists, 60)
        controller.stop()
        user.home.joinpath("ready.go").touch()
        _, said = process.communicate(timeout=120)
    # It may have been sent before the service was stopped.
    controller.start()
    if not user.service.named("first"):
        assert process.returncode == 3
        assert "first is not uploaded" in said
        assert f"1 file stays in {user.home}" in said
    assert user.has_nothing_left()

    with user.start("sh", "-c", drops.replace("first", "second"), "again") as process:
        wait_until((user.home / "again").exists, 60)
        process.kill()
        process.communicate()
    wait_until(lambda: not user.processes(), 30, "command and driver have ended")
    assert str(user.home) not in Path("/proc/self/mountinfo").read_text()

    assert user.run("true").returncode == 0
    assert len(user.service.named("first")) == len(user.service.named("second")) == 1
    assert user.has_nothing_left()


def test_runs_in_one_directory_do_not_see_each_other(user: User) -> None:
    """The last one takes the directory away, not the one that has made it."""
    waits = 'touch "$0"; until [ -e "$0.go" ]; do sleep 0.02; done; ls artifacts > "$0.ls"'
    with user.start("sh", "-c", waits, "one") as one:
        wait_until((user.home / "one").exists, 60)
        with user.start("sh", "-c", waits, "two") as two:
            wait_until((user.home / "two").exists, 60)
            user.home.joinpath("one.go").touch()
            assert one.wait(60) == 0
            assert (user.home / "artifacts").is_dir()
            user.home.joinpath("two.go").touch()
            assert two.wait(60) == 0
    for name in ("one.ls", "two.ls"):
        assert user.home.joinpath(name).read_text().split()[0] == "artifacts"
    assert user.has_nothing_left()


def test_where_namespaces_are_forbidden_one_line_says_so() -> None:
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all "
    words = [sys.executable, "-m", "artifactfs", "run", "true"]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", forbid + '"$@"', "sh", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("artifactfs: namespaces of one's own are forbidden here ")
    assert "user.max_user_namespaces is 0" in done.stderr
    assert "artifactfs get" in done.stderr
    assert done.stderr.count("\n") == 1


def test_root_has_a_mount_of_its_own_and_keeps_its_privilege(
    controller: LocalController, tmp_path: Path
) -> None:
    environment = os.environ | {
        "ARTIFACTFS_URL": controller.url,
        "ARTIFACTFS_TOKEN": controller.token,
    }
    place = str(tmp_path / "here")
    script = 'cat "$0/.artifactfs/status.json" && findmnt -n "$0" >&2'
    artifactfs = [sys.executable, "-m", "artifactfs", "run"]
    done = subprocess.run(
        [*artifactfs, "--at", place, "--", "sh", "-c", script, place],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["binding"]["mounted_by"] == "mount(2)"
    assert "fuse.artifactfs" in done.stderr
    assert not (tmp_path / "here").exists()
