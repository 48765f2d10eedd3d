"""Ordinary users: mounting without privilege, and who sees whose mount."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import StartMount
from tests.fuse.mounted import Mount, is_mounted

pytestmark = [pytest.mark.fuse, pytest.mark.xdist_group("ordinary users")]

NOBODY = 65534
SOMEBODY = 65533
FUSE_DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")

if os.getuid() != 0:
    pytest.skip("only root can be somebody else", allow_module_level=True)


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A directory that every user can reach."""
    path = Path(tempfile.mkdtemp(prefix="artifactfs-users-"))
    os.chmod(path, 0o777)
    yield path
    shutil.rmtree(path)


def as_user(user: int, *command: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(part) for part in command],
        user=user,
        group=user,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        check=False,
    )


def run_as(user: int, root: Path, statement: str) -> int:
    """The errno that a statement on the mount ends with for `user`; 0 if with none."""
    script = f"""
import os, sys
root = sys.argv[1]
try:
    {statement}
except OSError as error:
    sys.exit(error.errno)
"""
    done = as_user(user, "/usr/bin/env", "python3", "-c", script, root)
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.fixture
def users_mount(open_device: None, everybodys: Path, start_mount: StartMount) -> Mount:
    """A mount that an ordinary user has made, by fusermount."""
    return start_mount(directory=everybodys, user=NOBODY)


def test_an_ordinary_user_mounts_and_uses_the_mount(users_mount: Mount) -> None:
    root = users_mount.path
    assert run_as(NOBODY, root, "assert open(root + '/fixed/hello.txt').read() == 'hello\\n'") == 0
    assert run_as(NOBODY, root, "open(root + '/drop/a', 'w').write('x')") == 0
    assert run_as(NOBODY, root, "assert os.stat(root).st_uid == os.getuid()") == 0
    assert users_mount.dropped()["a"]["size"] == 1


def test_nobody_else_sees_it_not_even_root(users_mount: Mount) -> None:
    assert run_as(SOMEBODY, users_mount.path, "os.listdir(root)") == errno.EACCES
    with pytest.raises(PermissionError):
        os.listdir(users_mount.path)


def test_the_owner_is_told_that_it_is_read_only(users_mount: Mount) -> None:
    root = users_mount.path
    assert run_as(NOBODY, root, "open(root + '/fixed/new', 'w')") == errno.EROFS
    assert run_as(NOBODY, root, "open(root + '/fixed/hello.txt', 'r+')") == errno.EROFS
    assert run_as(NOBODY, root, "os.mkdir(root + '/new')") == errno.EROFS
    assert run_as(NOBODY, root, "assert not os.access(root + '/fixed', os.W_OK)") == 0
    assert run_as(NOBODY, root, "assert os.access(root + '/drop', os.W_OK | os.X_OK)") == 0


def test_the_owner_may_set_a_command_on_a_read_only_node(users_mount: Mount) -> None:
    for path in ("", "/fixed", "/fixed/hello.txt"):
        setting = f"os.setxattr(root + '{path}', 'user.artifactfs.pin', b'1')"
        assert run_as(NOBODY, users_mount.path, setting) == 0


def test_the_owner_may_unmount_and_nobody_else(users_mount: Mount) -> None:
    script = """
import sys
from artifactfs.errors import MountError
from artifactfs.fuse.mount_checks import unmount
try:
    unmount(sys.argv[1])
except MountError as error:
    sys.exit(7)
"""
    repository = Path(__file__).resolve().parents[2]

    def unmount_as(user: int) -> int:
        return subprocess.run(
            [sys.executable, "-c", SETTLE.format(user=user) + script, users_mount.path],
            cwd=repository,
            check=False,
        ).returncode

    assert unmount_as(SOMEBODY) == 7
    assert is_mounted(users_mount.path)
    assert unmount_as(NOBODY) == 0
    assert users_mount.wait_ended() is None


SETTLE = """
import os
import artifactfs.fuse.mount_checks
os.setgroups([]); os.setgid({user}); os.setuid({user})
"""


def test_an_open_mount_serves_others_as_the_modes_say(
    everybodys: Path, start_mount: StartMount
) -> None:
    mount = start_mount(directory=everybodys, allow_other=True)
    (mount / "drop/a").write_bytes(b"mine")
    os.chmod(mount / "drop/a", 0o600)
    root = mount.path
    assert run_as(NOBODY, root, "assert open(root + '/fixed/hello.txt').read() == 'hello\\n'") == 0
    assert run_as(NOBODY, root, "open(root + '/drop/a')") == errno.EACCES
    assert run_as(NOBODY, root, "open(root + '/drop/b', 'w')") == errno.EACCES
    assert run_as(NOBODY, root, "os.unlink(root + '/drop/a')") == errno.EACCES
    assert run_as(NOBODY, root, "os.chmod(root + '/drop/a', 0o777)") == errno.EPERM
    refused = run_as(NOBODY, root, "os.setxattr(root, 'user.artifactfs.pin', b'1')")
    assert refused in (errno.EACCES, errno.EPERM)


def test_a_closed_mount_serves_nobody_else(everybodys: Path, start_mount: StartMount) -> None:
    mount = start_mount(directory=everybodys)
    assert run_as(NOBODY, mount.path, "os.listdir(root)") == errno.EACCES


def test_opening_a_mount_to_others_needs_the_administrators_word(
    open_device: None, everybodys: Path, start_mount: StartMount
) -> None:
    allowed = FUSE_CONF.exists() and "\nuser_allow_other" in f"\n{FUSE_CONF.read_text()}"
    mount = start_mount(directory=everybodys, user=NOBODY, allow_other=True, wait=allowed)
    if not allowed:
        ended = mount.wait_ended()
        assert ended is not None
        assert "add the line user_allow_other to /etc/fuse.conf" in ended


def test_a_closed_device_is_named(everybodys: Path, start_mount: StartMount) -> None:
    if os.stat(FUSE_DEVICE).st_mode & 0o006 == 0:
        mount = start_mount(directory=everybodys, user=NOBODY, wait=False)
        ended = mount.wait_ended()
        assert ended is not None
        assert "/dev/fuse is not open to this user (chmod 666 /dev/fuse" in ended
