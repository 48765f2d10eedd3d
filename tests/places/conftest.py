"""The wheel, installed for a machine by scripts/install, and a machine of its own that boots it.

The machine is this one's root directory under an overlay in memory, with what scripts/install made
below a root of its own laid over it, booted by systemd-nspawn: systemd is its first process, it has
nobody's network, and nothing of it remains. All tests here share one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import wait_until

REPOSITORY = Path(__file__).parents[2]
MACHINES_PYTHON = "/usr/bin/python3"  # what the service's user may run, too
IN_PLACE = ("usr", "etc")
BOOT_S = 120.0


def done(*words: str | Path, **more: Any) -> str:
    """Run a command that must succeed and be silent on standard error."""
    ran = subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=False, timeout=300, **more
    )
    assert ran.returncode == 0, f"{words}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``python -m build`` makes: the wheel, by way of the source archive."""
    target = tmp_path_factory.mktemp("dist")
    done(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", target, REPOSITORY,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1760000000"},
    )  # fmt: skip
    (made,) = target.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory that holds what scripts/install made there."""
    root = tmp_path_factory.mktemp("root")
    root.chmod(0o755)
    said = done(
        REPOSITORY / "scripts/install", "--root", root, "--wheel", wheel, "--with", "server",
        env=os.environ | {"PYTHON": MACHINES_PYTHON},
    )  # fmt: skip
    assert "is installed" in said
    return root


@dataclass(frozen=True, slots=True)
class Machine:
    """A booted one: `root` is its root directory as seen from here."""

    root: Path
    init: int

    def command(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "--wdns=/",
             "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
             "LC_ALL=C.UTF-8", "bash", "-ec", script],
            capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip

    def run(self, script: str) -> str:
        """What a script prints that root runs there; it must succeed."""
        ran = self.command(script)
        assert ran.returncode == 0, f"{script}\n{ran.stdout}\n{ran.stderr}\n{self.journal()}"
        return ran.stdout.strip()

    def until(self, script: str, within_s: float = 60.0) -> None:
        """Wait until a script succeeds."""
        wait_until(lambda: self.command(script).returncode == 0, within_s, script)

    def journal(self) -> str:
        return self.command("journalctl --no-pager -n 60 -o cat").stdout


@pytest.fixture(scope="session")
def overlay(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This machine's root directory with the installation laid over it; writes go to memory."""
    place = tmp_path_factory.mktemp("overlay")
    done("mount", "-t", "tmpfs", "none", place)
    merged = place / "merged"
    try:
        for name in ("upper", "work", "merged"):
            (place / name).mkdir()
        layers = f"lowerdir=/,upperdir={place}/upper,workdir={place}/work"
        done("mount", "-t", "overlay", "overlay", "-o", layers, merged)
        for name in IN_PLACE:
            done("cp", "-a", f"{installed}/{name}/.", merged / name)
        (merged / "opt/artifactfs").symlink_to(installed / "opt/artifactfs")
        same_place = merged / installed.relative_to("/")
        same_place.mkdir(parents=True, exist_ok=True)  # /tmp can be another file system
        done("mount", "--bind", installed, same_place)
        for name in ("fuse", "null"):
            (merged / "dev" / name).unlink(missing_ok=True)
            number = os.stat("/dev/" + name).st_rdev
            os.mknod(merged / "dev" / name, 0o020666, number)
            os.chmod(merged / "dev" / name, 0o666)
        done("chroot", merged, "useradd", "--system", "--user-group", "--no-create-home",
             "--home-dir", "/var/lib/artifactfs", "artifactfs")  # fmt: skip
        (merged / "etc/machine-id").write_text("")
        yield merged
    finally:
        for mounted in (merged / installed.relative_to("/"), merged, place):
            subprocess.run(["umount", "-l", mounted], check=False, capture_output=True)


def first_process(parent: int) -> int | None:
    """The child of `parent` that is process 1 of a namespace of its own, once there is one."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{child}/status").read_text()
            if re.search(r"^NSpid:\t.*\t1$", status, re.MULTILINE):
                return int(child)
    return None


@pytest.fixture(scope="session")
def machine(overlay: Path, installed: Path) -> Iterator[Machine]:
    """Booted, with a service on its loopback and the token where the units look for it."""
    booting = subprocess.Popen(
        ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--directory={overlay}",
         "--private-network", f"--bind={installed}", "--console=pipe", "--boot",
         "systemd.unit=basic.target"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        init = wait_until(
            lambda: booting.poll() is not None or first_process(booting.pid), 60, "a process 1"
        )
        assert booting.poll() is None, booting.stdout and booting.stdout.read()
        up = Machine(overlay, init)
        up.until("systemctl is-system-running | grep -E 'running|degraded'", BOOT_S)
        up.run("rm -f /dev/fuse; mknod -m 666 /dev/fuse c 10 229; mknod /dev/autofs c 10 235;"
               "systemctl daemon-reexec")  # fmt: skip
        up.until("systemctl is-system-running | grep -E 'running|degraded'", BOOT_S)
        up.run("systemd-run --quiet --unit=service --setenv=HOME=/root"
               " artifactfs serve --port 8480 --data /srv/service")  # fmt: skip
        up.until("test -s /srv/service/token && artifactfs ls --url http://127.0.0.1:8480"
                 " --token-file /srv/service/token")  # fmt: skip
        up.run("install -m 600 /srv/service/token /etc/artifactfs/token;"
               "echo 'url = \"http://127.0.0.1:8480\"' > /etc/artifactfs/config.toml")  # fmt: skip
        yield up
    finally:
        booting.terminate()  # systemd-nspawn ends all of it
        try:
            booting.wait(30)
        except subprocess.TimeoutExpired:
            booting.kill()
            booting.wait()
        if booting.stdout is not None:
            booting.stdout.close()


def copy_of(root: Path, target: Path) -> Path:
    """The same files under another root, in no time."""
    shutil.copytree(root, target, copy_function=os.link, symlinks=True)
    return target
