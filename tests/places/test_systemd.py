"""The units on a machine that systemd has booted: started, killed, hung, stopped, and by fstab."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import REPOSITORY, Machine

pytestmark = [pytest.mark.xdist_group("places"), pytest.mark.fuse]

UNIT = "artifactfs@srv-artifacts.service"
MOST_EXPOSURE = 4.0


def status(machine: Machine, mountpoint: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(machine.run(f"cat {mountpoint}/.artifactfs/status.json"))
    return found


def test_systemd_finds_nothing_to_say_against_the_units(machine: Machine) -> None:
    checked = machine.command("systemd-analyze verify /etc/systemd/system/artifactfs@.service 2>&1")
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout
    checked = machine.command(
        "XDG_RUNTIME_DIR=/run"
        " systemd-analyze --user verify /etc/systemd/user/artifactfs@.service 2>&1"
    )
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout
    exposure = machine.run(f"systemd-analyze security --no-pager {UNIT}")
    assert float(exposure.split("service: ")[-1].split()[0]) <= MOST_EXPOSURE
    for example in ("srv-artifacts.mount", "srv-artifacts.automount"):
        text = (REPOSITORY / "systemd/examples" / example).read_text()
        machine.run(f"cat > /etc/systemd/system/{example} <<'EOF'\n{text}EOF")
        checked = machine.command(f"systemd-analyze verify /etc/systemd/system/{example} 2>&1")
        assert (checked.returncode, checked.stdout) == (0, ""), example
        machine.run(f"rm /etc/systemd/system/{example}")


@pytest.fixture(scope="module")
def unit(machine: Machine) -> Machine:
    """The mount, started by its unit, which waits for nothing long."""
    machine.run(
        "mkdir -p /run/systemd/system/artifactfs@.service.d;"
        "printf '[Service]\\nRestartSec=100ms\\n'"
        " > /run/systemd/system/artifactfs@.service.d/test.conf;"
        f"systemctl daemon-reload; systemctl start {UNIT}"
    )
    return machine


def test_a_unit_is_started_when_the_mount_answers(unit: Machine) -> None:
    assert unit.run("ls /srv/artifacts").split() == ["artifacts", "by-id", "by-sha256", "drop"]
    said = unit.run(f"systemctl show -P ActiveState -P SubState -P StatusText {UNIT}").split("\n")
    assert {"active", "running"} < set(said)
    assert any(re.fullmatch("[0-9]+ artifacts?", line) for line in said)
    now = status(unit, "/srv/artifacts")
    assert str(now["token"]).startswith("/run/credentials/")
    assert str(now["spool"]).startswith("/var/lib/artifactfs/srv-artifacts/")
    assert isinstance(now["binding"], dict)
    assert now["binding"]["mounted_by"] == "mount(2)"


def test_its_user_uploads_and_everybody_reads(unit: Machine) -> None:
    unit.run("runuser -u artifactfs -- sh -c 'echo hello > /srv/artifacts/drop/hello.txt'")
    unit.run("artifactfs flush /srv/artifacts")
    assert unit.run("runuser -u nobody -- cat /srv/artifacts/artifacts/hello.txt") == "hello"
    refused = unit.command("runuser -u nobody -- sh -c 'echo x > /srv/artifacts/drop/x'")
    assert "Permission denied" in refused.stderr
    token = unit.command("runuser -u nobody -- cat /run/credentials/*/artifactfs-token")
    assert token.returncode != 0


@pytest.mark.parametrize(("signal", "watchdog_s"), [("KILL", 60), ("STOP", 5)])
def test_a_driver_that_dies_or_hangs_is_started_anew(
    unit: Machine, signal: str, watchdog_s: int
) -> None:
    """The watchdog takes one that hangs; what it left mounted is no hindrance."""
    unit.run(
        f"printf '[Service]\\nWatchdogSec={watchdog_s}\\n'"
        " > /run/systemd/system/artifactfs@.service.d/watchdog.conf;"
        f"systemctl daemon-reload; systemctl restart {UNIT}"
    )
    before = unit.run(f"systemctl show -P MainPID {UNIT}")
    unit.run(f"systemctl kill --kill-whom=main --signal={signal} {UNIT}")
    unit.until(
        f"systemctl is-active --quiet {UNIT};"
        f"test $(systemctl show -P MainPID {UNIT}) -gt 1;"
        f"test $(systemctl show -P MainPID {UNIT}) != {before}",
        90,
    )
    unit.run("rm /run/systemd/system/artifactfs@.service.d/watchdog.conf; systemctl daemon-reload")
    assert unit.run("grep -c ' /srv/artifacts ' /proc/self/mountinfo") == "1"
    unit.run("test -d /srv/artifacts/drop")


def test_a_wrong_setting_is_not_tried_again_and_again(unit: Machine) -> None:
    unit.run("mkdir -p /etc/artifactfs; echo ARTIFACTFS_CACHE_SIZE=much > /etc/artifactfs/x.env")
    failed = unit.command("systemctl start artifactfs@x.service")
    assert failed.returncode != 0
    assert unit.run("systemctl show -P ActiveState artifactfs@x.service") == "failed"
    said = unit.run("journalctl -u artifactfs@x.service -o cat --no-pager")
    assert "cache.size: a size such as 20G" in said


def test_a_stopped_unit_leaves_no_mount(unit: Machine) -> None:
    unit.run(f"systemctl start {UNIT}; systemctl stop {UNIT}")
    assert unit.run(f"systemctl show -P Result {UNIT}") == "success"
    assert unit.command("grep -q ' /srv/artifacts ' /proc/self/mountinfo").returncode == 1
    assert unit.run("ls -A /srv/artifacts") == ""


def test_a_line_of_fstab_mounts_when_somebody_looks_and_again(machine: Machine) -> None:
    """By the automounter: the driver comes through to the mount point that others wait for."""
    options = (
        "token_file=/etc/artifactfs/token,state.dir=/var/lib/fstab,allow_other,"
        "_netdev,nofail,x-systemd.automount"
    )
    machine.run(
        f"echo 'http://127.0.0.1:8480 /mnt/artifacts fuse.artifactfs {options} 0 0' >> /etc/fstab;"
        "mkdir -p /mnt/artifacts; systemctl daemon-reload; systemctl start mnt-artifacts.automount"
    )
    assert machine.run("systemctl show -P ActiveState mnt-artifacts.mount") == "inactive"
    machine.run("echo hi > /mnt/artifacts/drop/from-fstab")
    assert machine.run("systemctl show -P ActiveState mnt-artifacts.mount") == "active"
    machine.run("systemctl stop mnt-artifacts.mount")
    # While the first driver still uploads, it has the spool.
    machine.until("systemctl reset-failed; grep -q hi /mnt/artifacts/artifacts/from-fstab")
    machine.run("systemctl stop mnt-artifacts.automount mnt-artifacts.mount")
    assert machine.command("grep -q ' /mnt/artifacts ' /proc/self/mountinfo").returncode == 1


def test_mount_8_mounts_by_either_name(machine: Machine) -> None:
    for kind in ("artifactfs", "fuse.artifactfs"):
        machine.run(
            f"mkdir -p /mnt/once; mount -t {kind} none /mnt/once"
            f" -o token_file=/etc/artifactfs/token,state.dir=/var/lib/{kind};"
            "test -d /mnt/once/drop; umount /mnt/once"
        )
