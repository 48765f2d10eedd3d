"""Flags of a mount: ``ro``, ``noexec`` by every command that mounts, and what read-only means."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactfs.cli import mount_helper
from tests.mount.conftest import ServiceClient, UserMount

pytestmark = pytest.mark.fuse


def flags_of(mountpoint: Path) -> set[str]:
    """The flags of the topmost mount there, as the kernel's mount table has them."""
    found: set[str] = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        parts = line.split()
        if parts[4] == str(mountpoint):
            found = set(parts[5].split(","))
    assert found, f"{mountpoint} is not mounted"
    return found


def errno_of(act: Callable[[], object]) -> str:
    with pytest.raises(OSError, match=r".") as raised:
        act()
    return errno.errorcode[raised.value.errno or 0]


def map_executable(path: Path) -> None:
    with path.open("rb") as file:
        mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()


def spool_of(user: UserMount) -> dict[str, bytes]:
    """What lies in the spool, by its path; links and locks included."""
    spool = user.home / ".local/state/artifactfs/spool"
    return {str(path): path.read_bytes() for path in spool.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words", [("--read-only",), ("-o", "ro"), ("-o", "mount.read_only"), ("-o", "rw,ro")]
)
def test_a_read_only_mount_has_no_drop_and_no_spool(
    user: UserMount, service: ServiceClient, words: tuple[str, ...]
) -> None:
    service.upload("a.txt", b"content")
    user.mount(*words)
    assert {"ro", "nosuid", "nodev"} <= flags_of(user.path)
    assert "noexec" not in flags_of(user.path)
    assert "drop" not in os.listdir(user.path)
    assert "artifacts" in os.listdir(user.path)
    assert (user.path / "artifacts/a.txt").read_bytes() == b"content"
    map_executable(user.path / "artifacts/a.txt")
    for name in ("x", "artifacts/x", "by-id/x", ".artifactfs/x"):
        assert errno_of((user.path / name).mkdir) == "EROFS", name
        assert errno_of(lambda name=name: (user.path / name).write_text("x")) == "EROFS", name
    assert errno_of((user.path / "artifacts/a.txt").unlink) == "EROFS"
    assert errno_of(lambda: (user.path / "artifacts/a.txt").chmod(0o600)) == "EROFS"
    assert errno_of(lambda: (user.path / "drop/x").write_text("x")) == "ENOENT"
    status = user.status()
    assert status["read_only"] is True
    assert status["uploads"]["pending_files"] == 0
    assert user.uploads() == {}
    assert (user.path / ".artifactfs/metrics.prom").read_text().endswith("# EOF\n")
    assert spool_of(user) == {}
    assert not (user.home / ".local/state/artifactfs/uploads.log").exists()
    assert "read-only" in user.command("status", user.path).stdout
    started_s = time.monotonic()
    user.command("flush", user.path)
    assert time.monotonic() - started_s < 30
    for command in ("refresh", "retry"):
        refused = user.command(command, user.path, check=False)
        assert refused.returncode == 1
        assert "mounted read-only" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    user.unmount()
    assert not os.path.ismount(user.path)


def test_what_an_earlier_mount_left_stays_where_it_is_and_is_counted(
    user: UserMount, service: ServiceClient
) -> None:
    user.mount()
    (user.path / "drop/waits.part").write_bytes(b"left")  # waits for its own name
    assert user.command("unmount", "--timeout", "0", user.path, check=False).returncode == 3
    before = spool_of(user)
    assert b"left" in before.values()
    user.mount("-o", "ro")
    status = user.status()
    assert status["spool_files"] == 1
    assert f"1 file in {status['spool']}" in user.command("status", user.path).stdout
    assert "read-only mount uploads nothing" in user.log()
    user.unmount()
    assert spool_of(user) == before
    user.mount("-o", "ro,rw")
    assert "ro" not in flags_of(user.path)
    assert (user.path / "drop/waits.part").read_bytes() == b"left"
    assert user.status()["read_only"] is False


def test_under_noexec_no_file_is_executed_or_mapped_executable(user: UserMount) -> None:
    script = b"#!/bin/sh\nexit 7\n"

    def run() -> int:
        path = user.path / "drop/script.sh.part"  # waits for its own name, so it stays
        path.write_bytes(script)
        path.chmod(0o755)
        return subprocess.run([path], check=False, timeout=60).returncode

    user.mount("-o", "noexec")
    assert {"rw", "noexec", "nosuid", "nodev"} <= flags_of(user.path)
    assert errno_of(run) == "EACCES"
    assert errno_of(lambda: map_executable(user.path / "drop/script.sh.part")) == "EPERM"
    (user.path / "drop/script.sh.part").unlink()
    user.unmount()
    user.mount("-o", "noexec,exec")
    assert "noexec" not in flags_of(user.path)
    assert run() == 7
    map_executable(user.path / "drop/script.sh.part")
    (user.path / "drop/script.sh.part").unlink()


def test_a_command_in_a_namespace_of_its_own_sees_the_flags(
    user: UserMount, service: ServiceClient, tmp_path: Path
) -> None:
    service.upload("a.txt", b"content")
    place = tmp_path / "at"
    script = (
        f"cat {place}/artifacts/a.txt; test ! -e {place}/drop || exit 9; "
        f"grep ' {place} ' /proc/self/mountinfo"
    )
    done = user.command(
        "run", "--at", place, "-o", "ro,noexec", "--", "sh", "-c", script, check=False
    )
    if "namespace" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("content")
    flags = done.stdout.removeprefix("content").split()[5].split(",")
    assert {"ro", "noexec", "nosuid", "nodev"} <= set(flags)


@pytest.fixture
def descriptor(user: UserMount) -> Iterator[int]:
    """``/dev/fuse``, mounted without ``ro`` by this process at the user's mount point."""
    if os.getuid() != 0:
        pytest.skip("only root can mount for another process")
    user.path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    taken = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={taken},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"x", os.fsencode(user.path), b"fuse.artifactfs", 6, data) == 0
    yield taken
    os.close(taken)
    libc.umount2(os.fsencode(user.path), 2)


@pytest.mark.parametrize("binding", ["native"])  # fusepy takes no descriptor
def test_a_descriptor_that_was_mounted_by_another_process_is_read_only_in_the_tree(
    user: UserMount, service: ServiceClient, descriptor: int
) -> None:
    service.upload("a.txt", b"content")
    place = f"/dev/fd/{descriptor}"
    driver = subprocess.Popen(
        [sys.executable, "-m", "artifactfs", "mount", "--foreground", "--read-only", place],
        env=user.environment,
        pass_fds=[descriptor],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stderr is not None
        assert any(f"mounted at {place}" in line for line in iter(driver.stderr.readline, ""))
        assert "ro" not in flags_of(user.path)
        assert "drop" not in os.listdir(user.path)
        assert (user.path / "artifacts/a.txt").read_bytes() == b"content"
        for name in ("x", "drop", "artifacts/x"):
            assert errno_of((user.path / name).mkdir) == "EROFS", name
        assert spool_of(user) == {}
        user.command("flush", user.path)
        user.command("refresh", user.path)  # the kernel passes commands to it
        driver.terminate()
        driver.communicate(timeout=60)
        assert driver.returncode == 0
    finally:
        driver.kill()
        driver.communicate()


MOUNT_8 = """
set -e
sbin=$(readlink -f /sbin)
mount -t overlay -o "lowerdir=$HELPERS:$sbin" none "$sbin"
cd /
{mount}
grep " $MOUNTPOINT " /proc/self/mountinfo | cut -d ' ' -f 6
ls "$MOUNTPOINT"
umount "$MOUNTPOINT"
"""


class Mount8:
    """mount(8) in a mount namespace of its own, where ``mount.fuse.artifactfs`` is ours."""

    def __init__(self, user: UserMount, directory: Path) -> None:
        self._user = user
        self._helpers = directory / "helpers"
        self._helpers.mkdir()
        helper = self._helpers / "mount.fuse.artifactfs"
        repository = Path(mount_helper.__file__).parents[2]
        helper.write_text(
            f"#!/bin/sh\nPYTHONPATH={repository} exec {sys.executable} -c "
            '"from artifactfs.cli.mount_helper import main; main()" "$@"\n'
        )
        helper.chmod(0o755)

    def run(self, mount: str, **more: str) -> tuple[set[str], set[str], str]:
        """The flags, the names in the root, and what standard error has, of ``mount``."""
        self._user.path.mkdir(exist_ok=True)
        names = {
            "HELPERS": str(self._helpers),
            "MOUNTPOINT": str(self._user.path),
            "URL": self._user.url,
        }
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", MOUNT_8.format(mount=mount)],
            env=self._user.environment | names | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if "none: " in done.stderr or "overlay" in done.stderr:
            pytest.skip(f"no overlay here: {done.stderr}")
        flags, *shown = done.stdout.splitlines() or [""]
        return set(flags.split(",")), set(shown), done.stderr


@pytest.fixture
def mount_8(user: UserMount, tmp_path: Path) -> Mount8:
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can mount in a namespace of its own")
    return Mount8(user, tmp_path)


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        ("-o ro,noexec", {"ro", "noexec", "nosuid", "nodev"}, {"rw"}),
        ("-o noexec", {"rw", "noexec", "nosuid", "nodev"}, {"ro"}),
        ("-r", {"ro", "nosuid", "nodev"}, {"rw", "noexec"}),
        ("-o ro,rw", {"rw"}, {"ro", "noexec"}),
        ("-o user,exec", {"rw"}, {"noexec"}),
        ("-o users", {"rw", "noexec"}, {"ro"}),
        ("-s -o ro,nonsense", {"ro"}, set()),
    ],
)
def test_mount_8_passes_its_flags_on(
    mount_8: Mount8, options: str, present: set[str], absent: set[str]
) -> None:
    flags, names, said = mount_8.run(f'mount -t fuse.artifactfs {options} "$URL" "$MOUNTPOINT"')
    assert present <= flags, said
    assert not absent & flags
    assert ("drop" in names) is ("ro" not in present)
    assert "artifacts" in names


@pytest.mark.parametrize(
    ("options", "present"),
    [
        ("ro,noexec,_netdev,nofail,x-systemd.automount", {"ro", "noexec", "nosuid", "nodev"}),
        ("defaults,users,comment=none", {"rw", "noexec", "nosuid", "nodev"}),
        ("noauto,ro,noexec,rw,exec", {"rw"}),
    ],
)
def test_a_line_of_fstab_passes_its_flags_on(
    mount_8: Mount8, tmp_path: Path, user: UserMount, options: str, present: set[str]
) -> None:
    table = tmp_path / "fstab"
    table.write_text(f"{user.url} {user.path} fuse.artifactfs {options},list.ttl=1s 0 0\n")
    flags, names, said = mount_8.run('mount -T "$TABLE" "$MOUNTPOINT"', TABLE=str(table))
    assert present <= flags, said
    assert ("noexec" in flags) is ("noexec" in present)
    assert ("drop" in names) is ("ro" not in present)


@pytest.mark.parametrize("option", ["users,suid", "users,dev", "nosymfollow", "noexce"])
def test_mount_8_is_told_what_is_refused(mount_8: Mount8, option: str) -> None:
    _, names, said = mount_8.run(f'mount -t fuse.artifactfs -o {option} "$URL" "$MOUNTPOINT"')
    assert f"-o {option.rpartition(',')[2]}: " in said
    assert names == set()


def test_the_setting_stands_where_mount_8_adds_its_own_rw(mount_8: Mount8) -> None:
    mount = 'mount -t fuse.artifactfs {} "$URL" "$MOUNTPOINT"'
    setting = {"ARTIFACTFS_MOUNT_READ_ONLY": "true"}
    flags, _, said = mount_8.run(mount.format(""), **setting)
    assert "ro" in flags, said
    flags, _, said = mount_8.run(mount.format("-o mount.read_only=false"), **setting)
    assert "rw" in flags, said


def test_the_setting_is_shown(user: UserMount) -> None:
    shown = json.loads(user.command("config", "--json").stdout)
    assert shown["mount.read_only"]["value"] is False
    assert shown["mount.noexec"]["value"] is False
