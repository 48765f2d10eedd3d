"""The wheel, and what scripts/install and scripts/uninstall do."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from artifactfs import __version__

from .conftest import REPOSITORY, copy_of, done

pytestmark = pytest.mark.xdist_group("places")


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
