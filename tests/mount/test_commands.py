"""Every command against a real service and a real mount."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from artifactfs.cache.blocks import block_count
from artifactfs.server.testing import LocalController
from tests.fault_proxy import FaultProxy

from .conftest import ServiceClient, UserMount, alive, sha256, wait_until
from .terminal import Terminal

pytestmark = pytest.mark.fuse


@pytest.fixture
def binding() -> str:
    return "native"


def test_put_ls_get_and_what_they_print(
    user: UserMount, service: ServiceClient, tmp_path: Path
) -> None:
    (tmp_path / "a.bin").write_bytes(b"a" * 5000)
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "sub" / "b.bin").write_bytes(b"b")
    user.command("put", tmp_path / "a.bin")
    user.command("put", "--name", "renamed/c.bin", tmp_path / "a.bin")
    user.command("put", "-r", tmp_path / "dir")
    assert user.command("ls").stdout.split() == ["a.bin", "dir/sub/b.bin", "renamed/c.bin"]
    listed = json.loads(user.command("ls", "--json").stdout)
    assert listed[0]["sha256"] == sha256(b"a" * 5000)
    assert "5.0 kB" in user.command("ls", "-l", "a.bin").stdout
    user.command("get", "a.bin", cwd=tmp_path / "dir")
    assert (tmp_path / "dir" / "a.bin").read_bytes() == b"a" * 5000
    assert user.command("get", "a.bin", check=False, cwd=tmp_path / "dir").returncode == 1
    user.command("get", "-f", listed[0]["id"], sha256(b"b")[:12], "-o", tmp_path / "dir")
    assert user.command("get", "-o", "-", "dir/sub/b.bin").stdout == "b"
    missing = user.command("get", "a.bni", check=False)
    assert missing.returncode == 1
    assert "did you mean a.bin?" in missing.stderr


def test_put_goes_on_after_a_file_that_fails(user: UserMount, tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"good")
    done = user.command("put", "--json", tmp_path / "missing", tmp_path / "good", check=False)
    assert done.returncode == 1
    assert [one["name"] for one in json.loads(done.stdout)] == ["good"]
    assert "missing" in done.stderr


def test_an_external_reference_is_listed(user: UserMount) -> None:
    user.command("put", "--url", "http://127.0.0.1:9/x", "--name", "ref")
    assert json.loads(user.command("ls", "--json").stdout)[0]["external_url"] == (
        "http://127.0.0.1:9/x"
    )


def test_ctrl_c_in_get_and_put_leaves_nothing_behind(
    user: UserMount, controller: LocalController, service: ServiceClient, tmp_path: Path
) -> None:
    service.upload("big.bin", os.urandom(3_000_000))
    (tmp_path / "large").write_bytes(os.urandom(70 << 20))
    with FaultProxy(controller.url) as proxy:
        proxy.break_with(method="GET", path="/artifacts/art_", stall_after=1_000_000, times=99)
        proxy.break_with(method="PUT", path="/objects/parts", delay_s=5, times=99)
        user.url = proxy.url
        for words, request in (
            (["get", "-o", tmp_path / "out", "big.bin"], ("GET", "/artifacts/art_")),
            (["put", tmp_path / "large"], ("PUT", "/objects/parts")),
        ):
            running = subprocess.Popen(
                [sys.executable, "-m", "artifactfs", *map(str, words)],
                env=user.environment, stderr=subprocess.PIPE,
            )  # fmt: skip
            wait_until(lambda request=request: proxy.count(*request), 20, "it runs")
            running.send_signal(signal.SIGINT)
            assert running.wait(30) == 130
            assert running.stderr is not None
            assert b"Traceback" not in running.stderr.read()
            running.stderr.close()
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    assert [one["filename"] for one in service.artifacts()] == ["big.bin"]


def test_status_in_words_in_json_and_as_a_check(mounted: UserMount, service: ServiceClient) -> None:
    service.upload("only.bin", b"only")
    os.listdir(mounted.path / "artifacts")
    (mounted.path / "drop" / "waiting.tmp").write_bytes(b"w")
    shown = mounted.command("status", mounted.path).stdout
    assert str(mounted.path) in shown
    assert " 1 artifact, listed " in shown
    assert " 0 files, 0 B pending" in shown
    assert mounted.token not in shown
    document = json.loads(mounted.command("status", "--json", mounted.path).stdout)
    assert document["mountpoint"] == str(mounted.path)
    assert mounted.command("status", "--check", mounted.path).stdout == ""


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_status_on_a_terminal_has_every_name_and_number_whole(
    mounted: UserMount, columns: int
) -> None:
    name = "n" * 90 + ".tmp"
    (mounted.path / "drop" / name).write_bytes(b"w" * 1500)
    words = [sys.executable, "-m", "artifactfs", "status", mounted.path]
    with Terminal(words, mounted.environment, columns=columns) as terminal:
        assert terminal.end() == 0
        text = terminal.text
    for one in (str(mounted.path), mounted.url, name, "waits for its name", "1.5 kB"):
        assert one in text
    shown = mounted.command("status", mounted.path).stdout
    (line,) = (line for line in shown.splitlines() if name in line)
    assert re.split(" {2,}", line.strip()) == [name, "waits for its name", "1.5 kB"]


def test_a_watched_status_goes_on_with_rates_until_ctrl_c(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = os.urandom(3_000_000)
    service.upload("x.bin", data)
    for words in (["--json"], []):
        watching = subprocess.Popen(
            [sys.executable, "-m", "artifactfs", "status", "--watch", *words, mounted.path],
            env=mounted.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert watching.stdout is not None and watching.stderr is not None
        first = watching.stdout.readline()
        assert (mounted.path / "artifacts" / "x.bin").read_bytes() == data
        second = watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
        assert "Traceback" not in watching.stderr.read()
        watching.stdout.close()
        watching.stderr.close()
        if words:
            assert json.loads(first)["rates"]["fetched_bytes_s"] is None
            assert json.loads(second)["rates"]["fetched_bytes_s"] > 0
        else:
            assert "down -" in first
            assert "B/s" in second


def test_refresh_pin_and_unpin(user: UserMount, service: ServiceClient) -> None:
    user.settings = {"list.ttl": "1h"}
    user.mount()
    os.listdir(user.path / "artifacts")
    data = os.urandom(1_000_000)
    service.upload("late.bin", data)
    user.command("refresh", user.path)
    assert os.listdir(user.path / "artifacts") == ["late.bin"]
    path = user.path / "artifacts" / "late.bin"
    user.command("pin", path)
    wait_until(lambda: os.getxattr(path, "user.artifactfs.cached") == b"100", 10)
    user.command("unpin", path)


def by_command(user: UserMount, path: Path, pinned: bool) -> None:
    user.command("pin" if pinned else "unpin", path)


def by_attribute(user: UserMount, path: Path, pinned: bool) -> None:
    subprocess.run(
        ["setfattr", "-n", "user.artifactfs.pin", "-v", str(int(pinned)), path], check=True
    )


@pytest.mark.parametrize("pin", [by_command, by_attribute])
def test_what_was_unpinned_leaves_the_cache_when_room_is_needed(
    user: UserMount, service: ServiceClient, pin: Callable[[UserMount, Path, bool], None]
) -> None:
    user.settings = {"list.ttl": "1h", "cache.size": "8M"}
    names = ["pinned.bin", *(f"{number}.bin" for number in range(12))]
    for name in names:
        service.upload(name, os.urandom(2_000_000))
    user.mount()
    pinned, *others = (user.path / "artifacts" / name for name in names)

    def cached(path: Path) -> int:
        return int(os.getxattr(path, "user.artifactfs.cached"))

    def others_push_out(path: Path) -> None:
        """Read the others, which are more than there is room for, until `path` has gone."""

        def is_gone() -> bool:
            for other in others:
                other.read_bytes()
            return cached(path) < 100

        wait_until(is_gone, 60, f"{path.name} leaves")

    pin(user, pinned, True)
    wait_until(lambda: cached(pinned) == 100, 20, "it is here")
    others[0].read_bytes()
    assert cached(others[0]) == 100
    witness, *others = others
    others_push_out(witness)
    assert cached(pinned) == 100, "it was used before the one that has gone"
    pin(user, pinned, False)
    assert cached(pinned) == 100, "nothing needs its room yet"
    others_push_out(pinned)
    assert len(pinned.read_bytes()) == 2_000_000
    user.unmount()
    contents = json.loads(user.command("cache", "--json").stdout)["contents"]
    assert not any(one["pinned"] for one in contents)


def test_cache_shows_what_is_there_and_clears_it(
    mounted: UserMount, service: ServiceClient
) -> None:
    data = os.urandom(500_000)
    for name in ("x.bin", "y.bin"):
        service.upload(name, data)
    service.upload("part.bin", os.urandom(50_000_000))
    (mounted.path / "artifacts" / "x.bin").read_bytes()
    with (mounted.path / "artifacts" / "part.bin").open("rb") as file:
        file.read(1)
    mounted.command("pin", mounted.path / "artifacts" / "x.bin")
    wait_until(lambda: mounted.status()["cache"]["verified_bytes"] >= 500_000, what="verified")
    mounted.unmount()
    document = json.loads(mounted.command("cache", "--json").stdout)
    shown = {"".join(one["names"]): one for one in document["contents"]}
    assert set(shown) == {"x.biny.bin", "part.bin"}
    whole, part = shown["x.biny.bin"], shown["part.bin"]
    assert whole["key"] == sha256(data)
    assert (whole["size_bytes"], whole["cached_bytes"]) == (500_000, 500_000)
    assert (whole["verified"], whole["pinned"]) == (True, True)
    assert 0 < part["cached_bytes"] < part["size_bytes"]
    assert (part["verified"], part["pinned"]) == (False, False)
    assert document["used_bytes"] == sum(one["disk_bytes"] for one in document["contents"])
    lines = mounted.command("cache").stdout.splitlines()
    assert lines[0].split() == ["size", "cached", "verified", "pinned", "used", "name"]
    (row,) = (line for line in lines if "x.bin" in line)
    assert row.split()[:5] == ["500.0", "kB", "100%", "yes", "yes"]
    assert row.endswith("x.bin (and 1 more)")
    assert ": 2 contents, " in lines[-1]
    report = json.loads(mounted.command("cache", "verify", "--json").stdout)
    assert report["dropped_grains"] == 0
    assert report["grains"] >= block_count(500_000)
    assert json.loads(mounted.command("cache", "clear", "--json").stdout)["freed_bytes"] > 0
    (left,) = json.loads(mounted.command("cache", "stats", "--json").stdout)["contents"]
    assert left["pinned"]
    assert ": 1 content, " in mounted.command("cache").stdout
    assert mounted.command("cache", "verify").stdout.startswith("1 content, ")


def test_cache_shows_what_is_there_without_the_service(
    mounted: UserMount, service: ServiceClient, controller: LocalController
) -> None:
    data = os.urandom(500_000)
    service.upload("x.bin", data)
    (mounted.path / "artifacts" / "x.bin").read_bytes()
    mounted.unmount()
    controller.stop()
    done = mounted.command("cache")
    assert "names are not known" in done.stderr
    assert sha256(data)[:12] in done.stdout


def test_doctor_and_status_say_who_reads_cached_files_and_why(user: UserMount) -> None:
    user.mount()
    facts = user.status()["binding"]
    shown = user.command("status", user.path).stdout
    (line,) = [
        line for line in user.command("doctor").stdout.splitlines() if f" {user.binding} " in line
    ]
    if facts["passthrough"]:
        assert f"{user.binding}, passthrough)" in shown
        assert "passthrough" in line
        assert "no passthrough" not in line
    else:
        assert f"{user.binding}, no passthrough: {facts['passthrough_reason']})" in shown
        assert f"no passthrough: {facts['passthrough_reason']}" in line


@pytest.mark.parametrize("binding", ["native"])
def test_doctor_knows_that_a_user_namespace_has_no_passthrough(user: UserMount) -> None:
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-m", "artifactfs", "doctor"],
        env=user.environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "no passthrough: CAP_SYS_ADMIN is missing" in done.stdout


def test_doctor_finds_this_machine_well_and_a_wrong_token_not(user: UserMount) -> None:
    done = user.command("doctor")
    assert "answers and takes the token" in done.stdout
    assert "agrees with the service's" in done.stdout
    user.token = "flk_wrong"
    done = user.command("doctor", "--json", check=False)
    assert done.returncode == 1
    failed = [one for one in json.loads(done.stdout) if one["state"] == "fail"]
    assert [one["name"] for one in failed] == ["service"]
    assert failed[0]["remedy"]


def test_unmount_waits_for_uploads_and_says_what_remains(
    user: UserMount, controller: LocalController, service: ServiceClient
) -> None:
    user.mount()
    (user.path / "drop" / "quick.bin").write_bytes(b"quick")
    user.unmount()
    assert service.named("quick.bin")
    user.mount()
    controller.stop()
    (user.path / "drop" / "left.bin").write_bytes(b"left")
    pid = user.pid
    done = user.command("unmount", "--timeout", "1", user.path, check=False)
    assert done.returncode == 3
    assert "left.bin" in done.stderr
    assert str(user.path) not in Path("/proc/self/mountinfo").read_text()
    assert not alive(pid), "the driver waited once more"
    controller.start()
    user.mount()
    user.settle()
    assert service.named("left.bin")


def test_unmount_by_force_ends_a_mount_that_is_stuck(
    user: UserMount, controller: LocalController, service: ServiceClient
) -> None:
    with FaultProxy(controller.url) as proxy:
        user.url = proxy.url
        user.settings = {"list.ttl": "0"}
        user.mount()
        service.upload("stuck.bin", os.urandom(1_000_000))
        path = user.path / "artifacts" / "stuck.bin"
        path.stat()
        proxy.break_with(method="GET", path="/artifacts/art_", delay_s=300, times=999)
        reader = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_until(lambda: proxy.count("GET", "/artifacts/art_"), 10, "the reader waits")
        pid = user.pid
        assert os.listdir(user.path)
        user.command("unmount", "--force", user.path, timeout_s=20)
        assert reader.wait(10) != 0
        assert reader.stderr is not None
        reader.stderr.close()
        assert str(user.path) not in Path("/proc/self/mountinfo").read_text()
        wait_until(lambda: not alive(pid), 40, "the driver ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_cleanly(mounted: UserMount, number: signal.Signals) -> None:
    pid = mounted.pid
    os.kill(pid, number)
    wait_until(lambda: not alive(pid), 20, "the driver ended")
    assert str(mounted.path) not in Path("/proc/self/mountinfo").read_text()
    assert os.listdir(mounted.path) == []


def test_the_foreground_mount_says_that_it_is_there_and_ends_with_ctrl_c(
    user: UserMount,
) -> None:
    user.path.mkdir()
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(user.home / "notify"))
    manager.settimeout(60)
    running = subprocess.Popen(
        [sys.executable, "-m", "artifactfs", "mount", "--foreground", "--log-format", "json",
         "--metrics-listen", "127.0.0.1:0", user.path],
        env=user.environment | {"NOTIFY_SOCKET": str(user.home / "notify")},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    metrics_url = ""
    for line in running.stderr:
        if "metrics are at" in line:
            metrics_url = json.loads(line)["message"].split()[-1]
        if "mounted at" in line:
            break
    assert "artifacts" in os.listdir(user.path)
    assert manager.recv(4096).startswith(b"READY=1\nSTATUS=")
    assert "artifactfs_up 1" in requests.get(metrics_url, timeout=60).text
    running.send_signal(signal.SIGINT)
    wait_until(lambda: manager.recv(4096).startswith(b"STOPPING=1"), 60)
    manager.close()
    running.stderr.read()
    assert running.wait(20) == 0
    running.stderr.close()
    assert os.listdir(user.path) == []


def test_the_token_is_in_no_file_and_no_argument_of_the_mount(
    mounted: UserMount, service: ServiceClient
) -> None:
    service.upload("x", b"x")
    (mounted.path / "artifacts" / "x").read_bytes()
    (mounted.path / "drop" / "y").write_bytes(b"y")
    mounted.settle()
    secret = mounted.token.encode()
    assert secret not in Path(f"/proc/{mounted.pid}/cmdline").read_bytes()
    assert mounted.token not in Path("/proc/self/mountinfo").read_text()
    mounted.unmount()
    for path in mounted.home.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path


def test_two_mounts_of_one_service_live_side_by_side(
    mounted: UserMount, service: ServiceClient, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.mkdir()
    mounted.command("mount", "-o", "list.ttl=0,drop.linger=0", second)
    try:
        (mounted.path / "drop" / "one").write_bytes(b"1")
        (second / "drop" / "two").write_bytes(b"2")
        mounted.settle()
        mounted.command("flush", second)
        for mount in (mounted.path, second):
            assert sorted(os.listdir(mount / "artifacts")) == ["one", "two"]
        both = mounted.command("status", check=False)
        assert both.returncode == 1
        assert "several" in both.stderr
    finally:
        mounted.command("unmount", second)


def test_the_demo_starts_and_undoes_everything(user: UserMount) -> None:
    done = user.command("demo", "--exit", "--job")
    assert "results/a.csv" in done.stdout
    lines = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("epoch ")]
    first, second = [f"{n}/30" for n in range(1, 8)], [f"{n}/30" for n in range(1, 31)]
    assert lines == first + second  # the attempt that fails, and the one after it
    assert "a new attempt began" in done.stdout
    assert "artifactfs-demo" not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("foreground", [False, True])
def test_mount_makes_the_directory_and_removes_it_when_it_fails(
    user: UserMount, foreground: bool
) -> None:
    words = ["--foreground"] if foreground else []
    failing = {"ARTIFACTFS_FUSE": "native", "ARTIFACTFS_CACHE_DIR": "/proc/nowhere"}
    for more, status in (
        (["-o", "nonsense=1"], 2),
        (["--cache-size", "x"], 2),
        ([], 1),
    ):
        done = user.command("mount", *words, *more, user.path, check=False, environment=failing)
        assert done.returncode == status, done.stderr
        assert not os.path.lexists(user.path)
    user.path.mkdir()
    assert user.command("mount", *words, user.path, check=False, environment=failing).returncode
    assert user.path.is_dir(), "it is the user's own"


def test_mount_makes_one_directory_with_the_users_umask_and_no_parents(
    user: UserMount, tmp_path: Path
) -> None:
    done = user.command("mount", user.home / "no" / "mnt", check=False)
    assert done.returncode == 1
    assert f"{user.home}/no does not exist (mkdir -p {user.home}/no/mnt)" in done.stderr
    assert not (user.home / "no").exists()
    (user.home / "file").write_bytes(b"")
    done = user.command("mount", user.home / "file" / "mnt", check=False)
    assert "cannot be made: Not a directory" in done.stderr
    done = user.command("mount", "/proc/mnt", check=False)
    assert "/proc/mnt cannot be made: No such file or directory" in done.stderr
    script = f'umask 027; exec "{sys.executable}" -m artifactfs mount "{user.path}"'
    subprocess.run(["sh", "-c", script], env=user.environment, check=True, timeout=60)
    assert os.path.ismount(user.path)
    user.unmount()
    assert user.path.stat().st_mode & 0o777 == 0o750


def test_put_names_a_file_that_cannot_be_read_once(user: UserMount, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    (tmp_path / "there").write_bytes(b"there")
    done = user.command("put", missing, tmp_path / "there", check=False)
    assert done.returncode == 1
    assert done.stderr == f"artifactfs: {missing}: No such file or directory\n"
    assert done.stdout.endswith("  there\n")


def test_a_url_that_is_not_the_base_of_the_service_is_named(user: UserMount) -> None:
    for url in (f"{user.url}/api/v1", f"{user.url}/elsewhere"):
        for words in (["ls"], ["mount", user.path]):
            done = user.command(*words, check=False, environment={"ARTIFACTFS_URL": url})
            assert done.returncode == 1
            assert f"set url to the service's base URL, which {url} is not" in done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_state_directory_that_cannot_be_written_is_named_with_its_setting(
    user: UserMount,
) -> None:
    (user.home / "file").write_bytes(b"")
    state = {"ARTIFACTFS_STATE_DIR": str(user.home / "file" / "state")}
    for words in ([], ["--foreground"]):
        done = user.command("mount", *words, user.path, check=False, environment=state)
        assert done.returncode == 1
        assert str(user.home / "file" / "state") in done.stderr
        assert "state.dir" in done.stderr.partition("(")[2], done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.fixture
def demo(user: UserMount, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that runs, mounted at the user's place; its own directory lies below tmp/."""
    (tmp_path / "tmp").mkdir()
    running = subprocess.Popen(
        [sys.executable, "-m", "artifactfs", "demo", user.path],
        env=user.environment | {"TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("Ctrl-C"):
            break
    try:
        yield running
    finally:
        running.terminate()
        running.communicate(timeout=60)


def ended(demo: subprocess.Popen[str]) -> tuple[int, str]:
    demo.send_signal(signal.SIGINT)
    _, said = demo.communicate(timeout=60)
    return demo.returncode, said


def kept(tmp_path: Path) -> set[bytes]:
    return {path.read_bytes() for path in (tmp_path / "tmp").glob("*/state/spool/*/*/files/*")}


def test_a_demo_removes_all_that_it_made_once_all_is_uploaded(
    demo: subprocess.Popen[str], user: UserMount, tmp_path: Path
) -> None:
    (user.path / "drop" / "mine").write_bytes(b"mine")
    assert ended(demo) == (0, "")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not user.path.exists()


def test_a_demo_keeps_what_is_not_uploaded_and_says_where(
    demo: subprocess.Popen[str], user: UserMount, tmp_path: Path
) -> None:
    (user.path / "drop" / "mine.tmp").write_bytes(b"mine")
    status, said = ended(demo)
    assert status == 3
    (directory,) = (tmp_path / "tmp").iterdir()
    assert f"{directory} is kept: what is not uploaded is in {directory}/state/spool" in said
    assert b"mine" in kept(tmp_path)
    assert not os.path.ismount(user.path)


def test_a_demo_never_removes_through_a_mount_that_is_in_use(
    demo: subprocess.Popen[str], user: UserMount, tmp_path: Path
) -> None:
    (user.path / "drop" / "mine.tmp").write_bytes(b"mine")
    with (user.path / "artifacts" / "hello.txt").open("rb"):
        status, said = ended(demo)
    assert status == 1
    (directory,) = (tmp_path / "tmp").iterdir()
    assert f"{user.path} is still mounted: unmount it, then remove {directory}" in said
    assert (user.path / "drop" / "mine.tmp").read_bytes() == b"mine"
    user.command("unmount", "--force", user.path)
    assert b"mine" in kept(tmp_path)


def test_a_demo_that_cannot_mount_removes_all_that_it_made(
    demo: subprocess.Popen[str], user: UserMount, tmp_path: Path
) -> None:
    """What is mounted at its place belongs to another."""
    (directory,) = (tmp_path / "tmp").iterdir()
    another = {"TMPDIR": str(tmp_path / "tmp")}
    done = user.command("demo", user.path, check=False, environment=another)
    assert done.returncode == 1
    assert f"{user.path} is mounted already" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert list((tmp_path / "tmp").iterdir()) == [directory]
    assert (user.path / "artifacts" / "hello.txt").exists()


@pytest.mark.parametrize("how", ["killed", "unmounted"])
def test_a_demo_whose_mount_has_gone_still_loses_nothing(
    demo: subprocess.Popen[str], user: UserMount, tmp_path: Path, how: str
) -> None:
    (user.path / "drop" / "mine.tmp").write_bytes(b"mine")
    if how == "killed":
        user.kill()
    else:
        user.command("unmount", "--timeout", "0", user.path, check=False)
    status, _ = ended(demo)
    assert status == 3
    assert b"mine" in kept(tmp_path)
    assert not os.path.ismount(user.path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_demo_never_removes_what_is_mounted_in_its_directory(
    demo: subprocess.Popen[str], tmp_path: Path
) -> None:
    (directory,) = (tmp_path / "tmp").iterdir()
    other = directory / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", other], check=True)
    try:
        (other / "precious").write_bytes(b"precious")
        _, said = ended(demo)
        assert f"{directory} could not be removed whole" in said
        assert (other / "precious").read_bytes() == b"precious"
    finally:
        subprocess.run(["umount", other], check=True)


def test_serve_prints_one_line_and_keeps_its_token_to_itself(
    user: UserMount, tmp_path: Path
) -> None:
    environment = {**user.environment}
    environment.pop("ARTIFACTFS_TOKEN")
    running = subprocess.Popen(
        [sys.executable, "-m", "artifactfs", "serve", "--port", "0", "--data", tmp_path / "d"],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    line = running.stdout.readline()
    assert line.startswith("artifactfs controller on http://127.0.0.1:")
    token = tmp_path / "d" / "token"
    assert token.stat().st_mode & 0o077 == 0
    user.url, user.token = line.split()[-1], token.read_text().strip()
    assert user.command("ls").stdout == ""
    running.send_signal(signal.SIGTERM)
    assert running.stdout.read() == ""
    assert running.wait(10) == 0
    running.stdout.close()
