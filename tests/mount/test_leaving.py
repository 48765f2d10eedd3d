"""The end of a mount with uploads pending: what remains is listed, with its place, and resumes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs.server.testing import LocalController

from .conftest import ServiceClient, UserMount, alive, sha256, wait_until

pytestmark = pytest.mark.fuse

IMPATIENT = {
    "list.ttl": "0",
    "unmount.timeout": "1",
    "http.retry_for": "1",
    "http.connect_timeout": "1",
}


def leave_pending(user: UserMount, controller: LocalController, count: int) -> dict[str, bytes]:
    user.settings = IMPATIENT
    user.mount()
    controller.stop()
    files = {f"file-{number:02}": b"%d" % number for number in range(count)}
    for name, data in files.items():
        (user.path / "drop" / name).write_bytes(data)
    return files


def resumes(
    user: UserMount, controller: LocalController, service: ServiceClient, files: dict[str, bytes]
) -> None:
    controller.start()
    user.mount()
    user.settle()
    assert {one["filename"]: one["sha256"] for one in service.artifacts()} == {
        name: sha256(data) for name, data in files.items()
    }
    assert len(service.artifacts()) == len(files)


def test_sigterm_gives_uploads_their_time_then_says_what_remains_and_where(
    user: UserMount, controller: LocalController, service: ServiceClient
) -> None:
    files = leave_pending(user, controller, 3)
    pid, spool = user.pid, user.status()["spool"]
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), 30, "the driver has ended")
    log = user.log()
    for name in files:
        assert f"{name} is not uploaded" in log
    assert f"3 files stay in {spool} and resume at the next mount" in log
    resumes(user, controller, service, files)


def test_unmount_lists_what_remains_and_not_more_than_fits_a_screen(
    user: UserMount, controller: LocalController, service: ServiceClient
) -> None:
    files = leave_pending(user, controller, 30)
    spool = user.status()["spool"]
    done = user.command("unmount", "--timeout", "0.5", user.path, check=False)
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert len(lines) == 22
    assert lines[-2].endswith("and 10 more")
    assert f"30 files stay in {spool} and resume at the next mount" in lines[-1]
    resumes(user, controller, service, files)


def test_the_record_of_uploads_lies_in_the_state_directory(
    user: UserMount, service: ServiceClient
) -> None:
    user.mount()
    (user.path / "drop" / "a.txt").write_bytes(b"a")
    user.settle()
    (found,) = service.artifacts()
    line = (user.home / ".local/state/artifactfs/uploads.log").read_text()
    assert found["id"] in line
    assert '"how": "controller"' in line


def test_unmount_says_who_keeps_the_mount_and_does_not_wait_for_him(
    user: UserMount, service: ServiceClient
) -> None:
    service.upload("a.bin", b"a")
    user.mount()
    pid = user.pid
    keeper = subprocess.Popen(
        ["unshare", "-Urm", "--propagation", "private", "sh", "-c", "echo there; exec sleep 300"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "there\n"
        done = user.command("unmount", user.path)
        kept = (
            f"the mount is kept by sleep ({keeper.pid}) at {user.path}, a copy that is not in use"
        )
        assert kept in done.stderr
        assert os.listdir(user.path) == []
        assert alive(pid), "it answers the other still"
        seen = Path(f"/proc/{keeper.pid}/root{user.path}/artifacts/a.bin")
        assert seen.read_bytes() == b"a"
    finally:
        keeper.kill()
        keeper.communicate()
    wait_until(lambda: not alive(pid), 20, "it ends with the last copy")


def test_unmount_names_the_process_that_uses_a_copy(user: UserMount) -> None:
    """Other processes of its mount namespace could use it too; they are not named."""
    user.mount()
    script = 'cd "$0/artifacts" && echo there && exec tail -f /dev/null'
    keeper = subprocess.Popen(
        ["unshare", "-Urm", "--propagation", "private", "sh", "-c",
         f"sh -c '{script}' \"$0\" & echo $!; wait", user.path],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    inside = 0
    try:
        assert keeper.stdout is not None
        said = {keeper.stdout.readline().strip(), keeper.stdout.readline().strip()}
        (inside,) = (int(word) for word in said - {"there"})
        done = user.command("unmount", user.path)
        (named,) = re.findall(r"kept by (.*)", done.stderr)
        # A namespace that another test makes meanwhile has a copy too, and may be named.
        assert f"tail ({inside}) at {user.path}" in named.split(", ")
        assert f"({keeper.pid})" not in named
    finally:
        if inside:
            os.kill(inside, signal.SIGKILL)
        keeper.kill()
        keeper.communicate()


def test_a_mount_in_use_names_its_users_and_not_those_of_other_namespaces(user: UserMount) -> None:
    """Neither who uses a copy of the mount, nor who uses something else at the same place."""
    user.mount()
    covers = 'cd / && mount -t tmpfs none "$0" && '
    started = [
        subprocess.Popen(
            ["unshare", "-Urm", "--propagation", "private", "sh", "-c",
             cover + 'cd "$0" && echo there && exec sleep 300', user.path],
            stdout=subprocess.PIPE, text=True,
        )
        for cover in (covers, "")
    ]  # fmt: skip
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "there\n"
        started.append(
            subprocess.Popen(["sleep", "300"], cwd=user.path, stdout=subprocess.PIPE, text=True)
        )
        done = user.command("unmount", user.path, check=False)
        assert f"{user.path} is in use by sleep ({started[-1].pid}) (" in done.stderr
    finally:
        for process in started:
            process.kill()
            process.communicate()
    user.unmount()


def test_unmount_does_not_name_itself(user: UserMount) -> None:
    user.mount()
    script = 'cd "$1" && "$0" -m artifactfs unmount "$1"; exit $?'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, user.path],
        env=user.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert " is in use" in done.stderr
    assert "python" not in done.stderr.partition(" is in use")[2], done.stderr
    user.unmount()


def test_unmount_waits_for_the_driver_where_nothing_keeps_the_mount(user: UserMount) -> None:
    """In a mount namespace of its own: another test's would copy the mount, and so keep it."""
    user.path.mkdir()
    script = (
        '"$0" -m artifactfs mount "$1" && cat "$1/.artifactfs/status.json" && '
        'exec "$0" -m artifactfs unmount "$1"'
    )
    user_namespace = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", *user_namespace, "--mount", "sh", "-c", script, sys.executable, user.path],
        env=user.environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert not alive(json.loads(done.stdout)["pid"])
