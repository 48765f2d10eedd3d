"""``-o``: settings, generic options of mount(8), their order, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from artifactfs.cli.mount_options import (
    FLAGS,
    KNOWN,
    parse_options,
)
from artifactfs.errors import ConfigError


def flags(*texts: str) -> tuple[str | None, str | None]:
    """What `texts` say of read_only and noexec; None where they say nothing."""
    values = parse_options(texts)
    assert set(values) <= {"mount.read_only", "mount.noexec"}
    return values.get("mount.read_only"), values.get("mount.noexec")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ro", ("true", None)),
        ("rw", ("false", None)),
        ("noexec", (None, "true")),
        ("exec", (None, "false")),
        ("ro,rw", ("false", None)),
        ("rw,ro", ("true", None)),
        ("mount.read_only=true,rw", ("false", None)),
        ("noexec,exec,noexec", (None, "true")),
        ("user", (None, "true")),
        ("users,exec", (None, "false")),
        ("exec,user=ada", (None, "true")),
        ("owner,group", (None, None)),
        ("rw,noexec,nosuid,nodev,users", ("false", "true")),
        ("ro,,noexec,", ("true", "true")),
    ],
)
def test_generic_options_are_settings_and_the_last_one_counts(
    text: str, expected: tuple[str | None, str | None]
) -> None:
    assert flags(text) == expected
    assert flags(*text.split(",")) == expected, "the same as several -o"


@pytest.mark.parametrize("text", ["ro", "noexec"])
def test_restrictions_stand_beside_settings(text: str) -> None:
    values = parse_options([f"cache.size=1G,{text},allow_other"])
    assert values.pop("cache.size") == "1G"
    assert values.pop("allow_other") == "true"
    assert list(values.values()) == ["true"]


def test_what_has_no_effect_here_is_accepted() -> None:
    text = (
        "defaults,auto,noauto,nouser,owner,group,nofail,_netdev,nosuid,nodev,atime,noatime,"
        "relatime,norelatime,strictatime,lazytime,diratime,nodiratime,sync,async,dirsync,"
        "x-systemd.automount,x-systemd.mount-timeout=30,comment=none"
    )
    assert parse_options([text]) == {}


@pytest.mark.parametrize("option", ["suid", "dev", "remount", "nosuid,suid", "ro,remount"])
def test_what_is_refused_is_named(option: str) -> None:
    with pytest.raises(ConfigError, match=f"-o {option.rpartition(',')[2]}: a mount of artifactfs"):
        parse_options([option])
    with pytest.raises(ConfigError):
        parse_options([option], sloppy=True)


@pytest.mark.parametrize("text", ["suid,nosuid", "dev,nodev", "suid,dev,users", "suid,dev,owner"])
def test_a_later_option_revokes_what_would_be_refused(text: str) -> None:
    parse_options([text])


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("noexce", "noexec"),
        ("nosuidd", "nosuid"),
        ("cache.siz=1", "cache.size"),
        ("mount.readonly", "mount.read_only"),
        ("ro=1", "ro"),
        ("noexec=0", "noexec"),
        ("nosymfollow", None),
        ("uid=1000", None),
        ("gid=1000", None),
        ("commentary", "comment"),
        ("zzz", None),
    ],
)
def test_an_unknown_option_is_an_error_with_the_nearest_known_one(
    option: str, nearest: str | None
) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_options([f"rw,{option}"])
    assert f"-o {option.partition('=')[0]}: unknown option" in str(raised.value)
    if nearest is not None:
        assert f"did you mean {nearest}?" in str(raised.value)
    assert parse_options([f"ro,{option}"], sloppy=True) == {"mount.read_only": "true"}


def test_every_known_option_is_accepted_refused_or_a_setting() -> None:
    for name in KNOWN:
        try:
            values = parse_options([name])
        except ConfigError as error:
            assert "a mount of artifactfs" in str(error)
        else:
            assert bool(values) is (name in FLAGS), name


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*words], capture_output=True, text=True, check=False, timeout=60)


def _mount(text: str, where: Path) -> subprocess.CompletedProcess[str]:
    return _run(sys.executable, "-m", "artifactfs", "mount", "-o", text, str(where))


def _helper(text: str, where: Path, *more: str) -> subprocess.CompletedProcess[str]:
    script = "from artifactfs.cli.mount_helper import main; main()"
    words = ("http://127.0.0.1:9", str(where), "-n", "-v", "-f", *more, "-o", text)
    return _run(sys.executable, "-c", script, *words)


@pytest.mark.parametrize("command", [_mount, _helper], ids=["mount", "mount.artifactfs"])
@pytest.mark.parametrize("option", ["noexce", "suid", "remount", "uid=0"])
def test_both_commands_refuse_alike(
    command: Callable[..., subprocess.CompletedProcess[str]], option: str, tmp_path: Path
) -> None:
    done = command(f"rw,{option}", tmp_path)
    assert done.returncode == 2
    assert f"-o {option.partition('=')[0]}: " in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_helper_is_sloppy_when_told(tmp_path: Path) -> None:
    assert _helper("rw,noexce,http.retry_for=0", tmp_path).returncode == 2
    assert _helper("rw,noexce,http.retry_for=0", tmp_path, "-s").returncode == 0
