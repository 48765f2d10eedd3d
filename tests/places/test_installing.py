"""The wheel, and what scripts/install and scripts/uninstall do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs import __version__
from artifactfs.server.testing import LocalController

from .conftest import MACHINES_PYTHON, REPOSITORY, copy_of, done

pytestmark = [pytest.mark.xdist_group("places"), pytest.mark.timeout(600)]


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"artifactfs-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    assert {name.split("/")[0] for name in names} == {
        "artifactfs", f"artifactfs-{__version__}.dist-info",
    }  # fmt: skip
    package = {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("artifactfs/**/*.py")}
    assert package <= names
    assert "artifactfs/py.typed" in names


@pytest.mark.fuse
def test_what_is_installed_mounts_and_reads_and_knows_its_place(installed: Path) -> None:
    command = installed / "usr/local/bin/artifactfs"
    assert done(command, "--version") == f"artifactfs, version {__version__}\n"
    python = installed / "opt/artifactfs/bin/python"
    where = done(python, "-c", "import artifactfs; print(artifactfs)", cwd="/")
    assert str(installed) in where
    shown = done(command, "demo", "--exit", env={"PATH": "/usr/bin:/bin", "HOME": str(installed)})
    assert "its artifacts are mounted at" in shown


def test_everything_is_where_shells_man_mount_and_systemd_look(installed: Path) -> None:
    for name in (
        "usr/local/bin/mount.artifactfs",
        "usr/sbin/mount.artifactfs",
        "usr/sbin/mount.fuse.artifactfs",
    ):
        assert "mount -t fuse.artifactfs" in done(installed / name, "--help")
    for name, word in (
        ("usr/share/bash-completion/completions/artifactfs", "complete -o"),
        ("usr/share/zsh/vendor-completions/_artifactfs", "#compdef artifactfs"),
        ("usr/share/fish/vendor_completions.d/artifactfs.fish", "complete --no-files"),
        ("usr/local/share/man/man1/artifactfs.1", ".TH ARTIFACTFS 1"),
        ("etc/systemd/system/artifactfs@.service", "CAP_SYS_ADMIN"),
        ("etc/systemd/user/artifactfs@.service", "fusermount3"),
        ("etc/artifactfs/config.toml", "# url ="),
    ):
        assert word in (installed / name).read_text(), name
        assert os.stat(installed / name).st_mode & 0o777 == 0o644


def test_uninstall_leaves_the_settings_and_purge_leaves_nothing(
    installed: Path, tmp_path: Path
) -> None:
    root = copy_of(installed, tmp_path / "root")
    (root / "etc/artifactfs/token").write_text("flk_secret")
    (root / "var/lib/artifactfs").mkdir(parents=True)
    uninstall = REPOSITORY / "scripts/uninstall"
    assert "kept: " in done(uninstall, "--root", root)
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert left == ["etc/artifactfs/config.toml", "etc/artifactfs/token"]
    again = subprocess.run([uninstall, "--root", root], capture_output=True, check=False, text=True)
    assert again.returncode == 1
    assert "is not installed" in again.stderr
    other = copy_of(installed, tmp_path / "other")
    done(uninstall, "--purge", "--root", other)
    assert [path for path in other.rglob("*") if path.is_file() or path.is_symlink()] == []


@pytest.mark.parametrize("script", ["install", "uninstall"])
def test_wrong_words_are_answered_with_the_right_ones(script: str) -> None:
    ran = subprocess.run(
        [REPOSITORY / "scripts" / script, "--nonsense"], capture_output=True, check=False, text=True
    )
    assert ran.returncode == 2
    assert f"scripts/{script} --user" in ran.stdout


README = (REPOSITORY / "README.md").read_text()
FILES = {"model.safetensors": "model", "results/a.csv": "n,square\n0,0\n1,1\n"}


def shell_block(number: int) -> list[str]:
    """The lines of one of the blocks of README's first screen."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return blocks[number].splitlines()


def commands_and_answers() -> list[tuple[str, list[str]]]:
    """What README's second block types, each with what it shows below."""
    found: list[tuple[str, list[str]]] = []
    for line in shell_block(1):
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user with nothing but a fresh home and an empty virtual environment.

    Whatever the README's commands mounted there is unmounted in the end.
    """
    home = tmp_path_factory.mktemp("newcomer")
    done(MACHINES_PYTHON, "-m", "venv", home / "venv")
    kept = ("PIP_", "SSL_", "LC_")
    environment = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    yield environment | {
        "HOME": str(home),
        "PATH": f"{home}/venv/bin:{os.environ['PATH']}",
        "TMPDIR": str(home),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    subprocess.run(["umount", "-l", home / "artifacts"], capture_output=True, check=False)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git has of this repository, as it is here now."""
    target = tmp_path_factory.mktemp("checkout")
    listed = done("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard",
                  cwd=REPOSITORY)  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    return target


@pytest.mark.fuse
def test_the_first_commands_of_the_readme_work_as_they_stand_there(
    newcomer: dict[str, str], checkout: Path, tmp_path: Path
) -> None:
    with LocalController(tmp_path / "service") as service:
        made = [{"filename": name, "text": text} for name, text in FILES.items()]
        service.dev("artifacts", {"artifacts": made})
        (checkout / "new-model.safetensors").write_bytes(b"new model")
        environment = newcomer | {
            "ARTIFACTFS_URL": service.url,
            "ARTIFACTFS_TOKEN_FILE": str(service.data / "token"),
        }
        for line in shell_block(0):
            done("bash", "-ec", line, env=environment, cwd=checkout)
        assert os.listdir(Path(newcomer["HOME"]) / "artifacts")
        for command, answer in commands_and_answers():
            shown = done("bash", "-ec", command, env=environment, cwd=checkout)
            for line in answer:
                assert set(line.split()[-1 if command.startswith("ls -l") else 0 :]) <= set(
                    shown.split()
                )
        listed = done("artifactfs", "ls", env=environment, cwd="/").split()
        assert listed == ["model.safetensors", "new-model.safetensors", "results/a.csv"]


@pytest.mark.fuse
def test_what_the_base_installs_runs_the_demo_and_no_extra_is_missing(
    newcomer: dict[str, str], checkout: Path
) -> None:
    """After the README's own installation; the extra of before names nothing any more."""
    done("bash", "-ec", shell_block(0)[0], env=newcomer, cwd=checkout)
    shown = done("artifactfs", "demo", "--exit", env=newcomer, cwd="/")
    assert "its artifacts are mounted at" in shown
    done("pip", "install", "--quiet", ".[server]", env=newcomer, cwd=checkout)


def test_only_serve_and_demo_import_what_they_need() -> None:
    """What the service needs costs no other command its time."""
    script = """
import sys
from artifactfs.cli import cli
import click
for name in cli.list_commands(click.Context(cli)):
    cli.get_command(click.Context(cli), name)
import artifactfs.cli.mount_helper, artifactfs.fsspec
print(sorted({one.partition(".")[0] for one in sys.modules} & {"aiohttp", "boto3", "sqlalchemy"}))
"""
    assert done(sys.executable, "-c", script) == "[]\n"
