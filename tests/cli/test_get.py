"""Where ``get`` writes: files, links, FIFOs, devices and directories, as cp(1) does."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactfs.cli import cli
from artifactfs.cli.errors import run_command
from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until

DATA = b"new content\n" * 20_000
OLD = b"old"
Get = Callable[..., int]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalController]:
    with LocalController(tmp_path_factory.mktemp("service") / "data") as running:
        running.make_artifact("a.bin", DATA)
        running.make_artifact("dir/passwd", DATA + b"p")
        yield running


@pytest.fixture
def get(
    service: LocalController,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> Get:
    """``artifactfs get``, in a directory of its own; it leaves no temporary file there."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("ARTIFACTFS_URL", service.url)
    monkeypatch.setenv("ARTIFACTFS_TOKEN", service.token)

    def do(*words: str | Path, status: int = 0) -> str:
        capfd.readouterr()
        done = run_command(cli, ["get", *map(str, words)], "artifactfs")
        said = capfd.readouterr().err
        assert done == status, said
        assert not list(tmp_path.rglob(".*"))
        return said

    return do


def made(name: str, mode: int = 0o644) -> Path:
    path = Path(name)
    path.write_bytes(OLD)
    path.chmod(mode)
    return path


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_mode_that_the_umask_leaves(get: Get, mask: int) -> None:
    with umask(mask):
        get("-o", "x", "a.bin")
    assert Path("x").read_bytes() == DATA
    assert stat.S_IMODE(os.stat("x").st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755, 0o444])
def test_a_file_that_is_replaced_keeps_its_mode(get: Get, mode: int) -> None:
    made("x", mode)
    assert "exists already (-f writes over it)" in get("-o", "x", "a.bin", status=1)
    assert Path("x").read_bytes() == OLD
    get("-f", "-o", "x", "a.bin")
    assert Path("x").read_bytes() == DATA
    assert stat.S_IMODE(os.stat("x").st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_file_that_is_replaced_keeps_its_owner_but_no_set_id_bit(get: Get) -> None:
    path = made("x")
    os.chown(path, 12345, 23456)
    path.chmod(0o6755)
    get("-f", "-o", "x", "a.bin")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o755)


def test_a_file_that_is_replaced_keeps_its_access_list(get: Get) -> None:
    made("x", 0o600)
    # include/uapi/linux/posix_acl_xattr.h: the user 12345 may read it as well.
    entries = ((1, 6, -1), (2, 4, 12345), (4, 0, -1), (0x10, 4, -1), (0x20, 0, -1))
    access = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *one) for one in entries)
    try:
        os.setxattr("x", "system.posix_acl_access", access)
    except OSError:
        pytest.skip("the file system keeps no access lists")
    get("-f", "-o", "x", "a.bin")
    assert Path("x").read_bytes() == DATA
    assert os.getxattr("x", "system.posix_acl_access") == access


def test_other_hard_links_of_a_replaced_file_keep_the_old_content(get: Get) -> None:
    made("x")
    os.link("x", "other")
    get("-f", "-o", "x", "a.bin")
    assert (Path("x").read_bytes(), Path("other").read_bytes()) == (DATA, OLD)


@pytest.mark.parametrize("words", [("-o", "a.bin"), ("-o", "."), ()])
def test_a_link_stays_and_its_file_is_written(get: Get, tmp_path: Path, words: tuple) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "file"
    target.write_bytes(OLD)
    target.chmod(0o600)
    Path("a.bin").symlink_to("../elsewhere/file")
    get(*words, "a.bin", status=1)
    assert target.read_bytes() == OLD
    get("-f", *words, "a.bin")
    assert os.readlink("a.bin") == "../elsewhere/file"
    assert target.read_bytes() == DATA
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_link_that_leads_nowhere_is_an_error_without_force(get: Get) -> None:
    Path("x").symlink_to("later")
    assert "does not exist (-f makes that file)" in get("-o", "x", "a.bin", status=1)
    assert (os.readlink("x"), os.path.lexists("later")) == ("later", False)
    get("-f", "-o", "x", "a.bin")
    assert os.readlink("x") == "later"
    assert Path("later").read_bytes() == DATA
    Path("loop").symlink_to("loop")
    get("-f", "-o", "loop", "a.bin", status=1)
    assert os.readlink("loop") == "loop"


def test_a_directory_gets_the_file_and_a_link_to_one_does_as_well(get: Get) -> None:
    Path("d").mkdir()
    Path("l").symlink_to("d")
    get("-o", "d", "a.bin")
    get("-o", "l/", "dir/passwd")
    assert {one.name for one in Path("d").iterdir()} == {"a.bin", "passwd"}
    assert Path("l").is_symlink()
    Path("d/sub").mkdir()
    for words in (("-o", "new/"), ("-o", "a"), ("-o", "d/a.bin/x")):
        get(*words, "a.bin", "dir/passwd", status=2)
    get("-o", "new/", "a.bin", status=2)
    get("-o", "new/x", "a.bin", status=1)
    assert sorted(os.listdir()) == ["d", "l"]


def test_a_directory_of_the_files_name_is_not_replaced(get: Get) -> None:
    Path("a.bin").mkdir()
    for words in ((), ("-f",)):
        get(*words, "-o", ".", "a.bin", status=1)
    assert Path("a.bin").is_dir()


@pytest.mark.parametrize("words", [(), ("-f",)])
@pytest.mark.parametrize("late", [False, True])
def test_a_fifo_is_written_into(get: Get, words: tuple[str, ...], late: bool) -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    for name in ("pipe", "link"):
        taken: list[bytes] = []

        def read(taken: list[bytes] = taken) -> None:
            if late:
                time.sleep(0.3)
            taken.append(Path("pipe").read_bytes())

        reader = threading.Thread(target=read)
        reader.start()
        get(*words, "-o", name, "a.bin")
        reader.join()
        assert taken == [DATA]
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode)
    assert Path("link").is_symlink()


@pytest.mark.parametrize("words", [(), ("-f",)])
def test_a_device_is_written_into(get: Get, words: tuple[str, ...]) -> None:
    for name, minor, status in (("null", 3, 0), ("full", 7, 1)):
        try:
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(1, minor))
        except PermissionError:
            pytest.skip("this user makes no devices")
        said = get(*words, "-o", name, "a.bin", status=status)
        assert stat.S_ISCHR(os.lstat(name).st_mode)
        assert stat.S_IMODE(os.lstat(name).st_mode) == 0o600
    assert said == "artifactfs: full: No space left on device\n"
    Path("link").symlink_to("null")
    get(*words, "-o", "link", "a.bin")
    assert os.readlink("link") == "null"


@pytest.mark.parametrize("how", ["pipe", "file", "nameless"])
def test_a_link_as_dev_stdout_is_one_leads_to_standard_output(
    service: LocalController, tmp_path: Path, how: str
) -> None:
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    out = tmp_path / "out"
    with out.open("w+b") as file:
        if how == "nameless":
            out.unlink()
        done = subprocess.run(
            [sys.executable, "-m", "artifactfs", "get", "-f", "-o", "stdout", "a.bin"],
            env=os.environ | {"ARTIFACTFS_URL": service.url, "ARTIFACTFS_TOKEN": service.token},
            stdout=subprocess.PIPE if how == "pipe" else file, check=True, cwd=tmp_path,
        )  # fmt: skip
        file.seek(0)
        taken = {"pipe": lambda: done.stdout, "file": out.read_bytes, "nameless": file.read}
        assert taken[how]() == DATA
    assert os.readlink(tmp_path / "stdout") == "/proc/self/fd/1"


def planted(tmp_path: Path, what: str) -> Path:
    """What stands in the target directory under the service's name, and what it could reach."""
    outside = tmp_path / "outside"
    outside.write_bytes(OLD)
    match what:
        case "link":
            Path("passwd").symlink_to(outside)
        case "dangling":
            Path("passwd").symlink_to(tmp_path / "made")
        case "fifo":
            os.mkfifo("passwd")
    return outside


@pytest.mark.parametrize("what", ["link", "dangling", "fifo"])
def test_a_name_that_the_service_chose_leads_nowhere_else(
    get: Get, service: LocalController, tmp_path: Path, what: str
) -> None:
    digest = hashlib.sha256(DATA + b"p").hexdigest()
    outside = planted(tmp_path, what)
    get("-o", ".", digest, status=1)
    assert os.path.lexists("passwd")
    for asked in (digest, digest[:12], f"sha256:{digest}"):
        get("-f", "-o", ".", asked, status=what == "fifo")
        assert outside.read_bytes() == OLD
        assert not (tmp_path / "made").exists()
        if what == "fifo":
            assert Path("passwd").is_fifo()
        else:
            assert not Path("passwd").is_symlink()
            assert Path("passwd").read_bytes() == DATA + b"p"


def test_a_file_that_appears_meanwhile_is_not_replaced(
    get: Get, service: LocalController, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(service.url) as proxy:
        proxy.break_with(method="GET", path="/artifacts/", delay_s=1, times=1)
        monkeypatch.setenv("ARTIFACTFS_URL", proxy.url)

        def appear() -> None:
            wait_until(lambda: list(Path().glob(".a.bin.*")), 30)
            Path("a.bin").write_bytes(OLD)

        appearing = threading.Thread(target=appear)
        appearing.start()
        get("a.bin", status=1)
        appearing.join()
    assert Path("a.bin").read_bytes() == OLD


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("what", ["new", "replaced", "link", "fifo", "fifo without reader"])
def test_a_signal_leaves_no_temporary_file_and_the_old_one(
    service: LocalController, tmp_path: Path, number: signal.Signals, what: str
) -> None:
    target = tmp_path / "out"
    if what in ("replaced", "link"):
        (tmp_path / "old").write_bytes(OLD)
        os.rename(tmp_path / "old", target) if what == "replaced" else target.symlink_to("old")
    if what.startswith("fifo"):
        os.mkfifo(target)
    before = sorted(os.listdir(tmp_path))
    with FaultProxy(service.url) as proxy, contextlib.ExitStack() as closing:
        proxy.break_with(method="GET", path="/artifacts/", stall_after=100_000, times=99)
        if what == "fifo":  # whose reader takes nothing
            closing.callback(os.close, os.open(target, os.O_RDONLY | os.O_NONBLOCK))
        running = subprocess.Popen(
            [sys.executable, "-m", "artifactfs", "get", "-f", "-o", target, "a.bin"],
            env=os.environ | {
                "ARTIFACTFS_URL": service.url if what == "fifo" else proxy.url,
                "ARTIFACTFS_TOKEN": service.token,
            },
            stderr=subprocess.PIPE,
        )  # fmt: skip
        if what == "fifo":
            wait_until(lambda: target_is_open(running.pid, target), 30)
        elif what == "fifo without reader":
            wait_until(lambda: proxy.count("GET", "/artifacts"), 30)
        else:
            wait_until(lambda: sorted(os.listdir(tmp_path)) != before, 30)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert b"Traceback" not in said
    assert sorted(os.listdir(tmp_path)) == before
    if what in ("replaced", "link"):
        assert target.read_bytes() == OLD


def target_is_open(pid: int, target: Path) -> bool:
    links = Path(f"/proc/{pid}/fd").iterdir()
    return any(os.path.realpath(one) == str(target) for one in links)


@pytest.mark.parametrize("force", [True, False])
def test_an_error_names_the_target_and_not_its_temporary_file(get: Get, force: bool) -> None:
    flags = ["-f"] if force else []
    said = get(*flags, "-o", "nowhere/x", "a.bin", status=1)
    assert said == "artifactfs: nowhere/x: No such file or directory\n"


def test_a_full_disk_is_named_with_the_target(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("artifactfs.cli.get_target.os.fsync", full)
    assert get("-o", "x", "a.bin", status=1) == "artifactfs: x: No space left on device\n"
    assert not Path("x").exists()
