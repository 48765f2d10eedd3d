"""Each way to a mounted descriptor, and the words for each way it can fail."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifactfs.errors import MountError
from artifactfs.fuse.binding import MountOptions
from artifactfs.fuse.native import NativeBinding
from artifactfs.fuse.native.mount import is_stacked, mount_device
from tests.fuse.conftest import StartMount
from tests.fuse.memory_tree import BACKED, MANY
from tests.fuse.mounted import REPOSITORY, is_mounted
from tests.fuse.native.mixing import content_of

pytestmark = [pytest.mark.fuse, pytest.mark.xdist_group("ordinary users")]

NOBODY = 65534
FUSE_DEVICE = Path("/dev/fuse")
OPTIONS = MountOptions("service.example", 0, 0)

if os.getuid() != 0:
    pytest.skip("only root can narrow the world", allow_module_level=True)


def saw_all(output: str) -> dict[str, Any]:
    """What ``inside`` saw, after it was checked."""
    seen: dict[str, Any] = json.loads(output)
    assert seen["hello"] == "hello\n"
    assert seen["backed"] == len(BACKED)
    assert seen["listed"] == MANY
    assert seen["link"] == "hello.txt"
    assert seen["dropped"] == "dropped"
    assert seen["owner"] is True
    assert seen["ended"] is None
    assert seen["left"] == []
    return seen


def run(*command: object, **settings: Any) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        **settings,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def open_device() -> Iterator[None]:
    """``/dev/fuse`` is open to everybody, as distributions have it, and put back afterwards."""
    with FUSE_DEVICE.open("rb") as device:
        fcntl.flock(device, fcntl.LOCK_EX)
        before = stat.S_IMODE(FUSE_DEVICE.stat().st_mode)
        FUSE_DEVICE.chmod(0o666)
        yield
        FUSE_DEVICE.chmod(before)


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A directory that every user can reach."""
    path = Path(tempfile.mkdtemp(prefix="artifactfs-ways-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def test_root_mounts_without_any_program(tmp_path: Path) -> None:
    output = run(
        sys.executable,
        "-m",
        "tests.fuse.native.inside",
        tmp_path,
        env={**os.environ, "PATH": "/nowhere"},
    )
    assert saw_all(output)["facts"]["mounted_by"] == "mount(2)"


def test_in_a_user_namespace_mount_works_directly_and_without_passthrough(tmp_path: Path) -> None:
    """What a rootless container is."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    output = run("unshare", "-Urm", sys.executable, "-m", "tests.fuse.native.inside", tmp_path)
    facts = saw_all(output)["facts"]
    assert facts["mounted_by"] == "mount(2)"
    assert facts["passthrough"] is False
    assert "CAP_SYS_ADMIN" in facts["passthrough_reason"]
    assert not is_mounted(tmp_path / "mnt")


def test_an_ordinary_user_gets_it_from_fusermount_without_passthrough(
    open_device: None, everybodys: Path, start_mount: StartMount
) -> None:
    mount = start_mount(directory=everybodys, user=NOBODY)
    facts = mount.command("facts")
    assert facts["mounted_by"] == "fusermount"
    assert facts["passthrough"] is False
    assert "CAP_SYS_ADMIN" in facts["passthrough_reason"]


CHROOT = """
set -e
cd {root}
for path in {paths}; do
    if [ -d "$path" ]; then
        mkdir -p ".$path" && mount --rbind "$path" ".$path" && mount -o remount,bind,ro ".$path"
    fi
done
mkdir -p dev tmp
mknod dev/fuse c 10 229
mknod -m 666 dev/null c 1 3
{more}
exec chroot . /usr/bin/env -i PATH=/nowhere PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8 \\
    {python} -c 'import os, sys; os.chdir("{repository}"); sys.path.insert(0, ".")
sys.argv = ["inside", "/tmp"]
import runpy; runpy.run_module("tests.fuse.native.inside", run_name="__main__")'
"""


@pytest.mark.parametrize("proc", [True, False], ids=["with /proc", "without /proc"])
def test_in_a_bare_root_with_nothing_but_python_and_the_device(tmp_path: Path, proc: bool) -> None:
    if shutil.which("unshare") is None or not Path("/usr/bin/env").exists():
        pytest.skip("no unshare")
    paths = {"/usr/lib", "/lib", "/lib64", "/usr/lib64", str(REPOSITORY)}
    paths |= {sys.prefix, sys.base_prefix}
    (tmp_path / "usr/bin").mkdir(parents=True)
    shutil.copy2("/usr/bin/env", tmp_path / "usr/bin/env")
    script = CHROOT.format(
        root=tmp_path,
        paths=" ".join(sorted(paths)),
        python=sys.executable,
        repository=REPOSITORY,
        more="mkdir proc && mount -t proc none proc" if proc else "",
    )
    before = set(os.listdir(tmp_path))
    output = run("unshare", "-m", "sh", "-c", script)
    facts = saw_all(output)["facts"]
    assert facts["mounted_by"] == "mount(2)"
    assert before <= set(os.listdir(tmp_path))


class HandedIn:
    """A descriptor that someone privileged has mounted, and the driver that got it."""

    def __init__(self, directory: Path, fd: int, user: int | None = None) -> None:
        settings = {
            "binding": "native",
            "mountpoint": f"/dev/fd/{fd}",
            "backing": str(directory / "backed.bin"),
            "source": "service.example",
            "allow_other": False,
            "user": user,
            "ready_fails": False,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuse.driver", json.dumps(settings)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            pass_fds=[fd],
        )

    def says(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def mounted_fd(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """/dev/fuse, mounted by this process."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    fd = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    data = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"x", os.fsencode(mountpoint), b"fuse.artifactfs", 6, data) == 0
    yield fd, mountpoint
    libc.umount2(os.fsencode(mountpoint), 2)
    if fd >= 0:
        os.close(fd)


def test_a_descriptor_that_was_handed_in_is_served_by_who_may_not_mount(
    mounted_fd: tuple[int, Path], everybodys: Path
) -> None:
    fd, mountpoint = mounted_fd
    driver = HandedIn(everybodys, fd, NOBODY)
    try:
        assert driver.says() == {"ready": True}
        assert (mountpoint / "fixed/hello.txt").read_text() == "hello\n"
        (mountpoint / "drop/a").write_text("x")
        subprocess.run(["umount", mountpoint], check=True)
        assert driver.says() == {"ended": None}
        assert driver.process.wait(10) == 0
    finally:
        driver.end()


def test_stopping_leaves_the_mount_to_who_has_made_it(
    mounted_fd: tuple[int, Path], tmp_path: Path
) -> None:
    fd, mountpoint = mounted_fd
    driver = HandedIn(tmp_path, fd)
    try:
        assert driver.says() == {"ready": True}
        driver.process.terminate()
        assert driver.says() == {"ended": None}
        assert driver.process.wait(10) == 0
        assert is_mounted(mountpoint)
    finally:
        driver.end()


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(MountError) as raised:
        act()
    assert raised.value.remedy
    return str(raised.value)


def test_a_descriptor_that_is_not_there_is_named() -> None:
    assert "no descriptor 987" in refusal(lambda: mount_device(Path("/dev/fd/987"), OPTIONS))


def test_a_descriptor_of_something_else_is_named(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        mountpoint = Path(f"/dev/fd/{file.fileno()}")
        assert "not one of /dev/fuse" in refusal(lambda: mount_device(mountpoint, OPTIONS))


def test_a_descriptor_that_nobody_has_mounted_is_told_so(tmp_path: Path) -> None:
    fd = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    driver = HandedIn(tmp_path, fd)
    os.close(fd)
    try:
        assert "mounted already" in driver.says()["ended"]
        assert driver.process.wait(10) == 1
    finally:
        driver.end()


def test_a_mount_point_that_is_a_file_is_refused_with_nothing_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in refusal(lambda: mount_device(tmp_path / "file", OPTIONS))
    assert not is_mounted(tmp_path / "file")


def test_fusermounts_own_words_are_passed_on(open_device: None, everybodys: Path) -> None:
    """It refuses a directory that the user may not write to."""
    (everybodys / "roots").mkdir(mode=0o755)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from artifactfs.errors import MountError\n"
        "from artifactfs.fuse.binding import MountOptions\n"
        "from artifactfs.fuse.native.mount import mount_device\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "try:\n"
        "    mount_device(Path(sys.argv[1]), MountOptions('x', 0, 0))\n"
        "except MountError as error:\n"
        "    print(error)\n"
    )
    said = run(sys.executable, "-c", script, everybodys / "roots")
    assert "no write access" in said
    assert not is_mounted(everybodys / "roots")


def test_who_cannot_mount_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        with pytest.raises(MountError):
            NativeBinding().run(None, tmp_path / "file", OPTIONS, lambda: None)  # type: ignore[arg-type]
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_cache_on_a_stacked_file_system_is_recognised_and_passed_through_all_the_same(
    tmp_path: Path,
) -> None:
    assert not is_stacked(tmp_path)
    assert not is_stacked(tmp_path / "absent")
    lower, upper, work, merged = (tmp_path / name for name in ("l", "u", "w", "m"))
    for directory in (lower, upper, work, merged):
        directory.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    done = subprocess.run(
        ["mount", "-t", "overlay", "none", "-o", options, merged], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("no overlay here")
    try:
        assert is_stacked(merged)
        assert not is_stacked(lower)
        facts = facts_with_cache_on(merged, tmp_path)
    finally:
        subprocess.run(["umount", merged], check=True)
    assert facts["passthrough"] or "stacked" not in facts["passthrough_reason"]
    assert facts["passthrough"] == facts_with_cache_on(lower, tmp_path)["passthrough"]


def facts_with_cache_on(directory: Path, tmp_path: Path) -> dict[str, Any]:
    """What a driver says of itself whose cache is in `directory`."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fuse.native.mixing", "serve", mountpoint, directory],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        for number in range(3):
            assert (mountpoint / str(number)).read_bytes() == content_of(number)
        driver.terminate()
        facts: dict[str, Any] = json.loads(driver.stdout.readline())
    return facts
