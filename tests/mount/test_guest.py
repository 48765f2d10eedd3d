"""macOS, as far as Linux can show it: no name, no file and no library call of Linux alone.

``guest`` says what is taken away. libfuse, the kernel and the disk below are Linux's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs import system

from .conftest import ServiceClient, UserMount

pytestmark = pytest.mark.fuse

GUEST = Path(__file__).with_name("guest.py")
PACKAGE = Path(system.__file__).parent

# `run` needs namespaces, which only Linux has.
EXEMPT = {"system.py", "cli/run.py"}

LIST = """#!/bin/sh
awk '{ kind = $3; if (kind ~ /^fuse/) kind = "macfuse";
  print $1 " on " $2 " (" kind ", nodev, nosuid, synchronous, mounted by ada)" }' /proc/self/mounts
"""
UNMOUNT = """#!/bin/sh
[ "$1" != -f ] || { shift; set -- -l "$@"; }
exec umount "$@"
"""


@pytest.fixture
def binding() -> str:
    return "auto"


@pytest.fixture
def programs(tmp_path: Path) -> list[str]:
    made = []
    for name, text in (("mount", LIST), ("umount", UNMOUNT)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
        made.append(str(tmp_path / name))
    return made


def run(programs: list[str], *words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", GUEST, *programs, *words],
        env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_module_but_the_native_binding_is_imported_by_a_guest(programs: list[str]) -> None:
    assert run(programs) == ""


def test_a_guest_mounts_reads_uploads_commands_and_unmounts(
    user: UserMount, service: ServiceClient, programs: list[str]
) -> None:
    service.upload("x.txt", b"from the service")
    user.path.mkdir()
    place = str(user.path)
    run(programs, "mount", place, **user.environment)
    try:
        assert (user.path / "artifacts" / "x.txt").read_bytes() == b"from the service"
        facts = user.status()["binding"]
        assert facts["name"] == "fusepy"
        assert "Linux only" in facts["instead_of_native"]
        (user.path / "drop" / "y.txt").write_bytes(b"from a guest")
        run(programs, "flush", place, **user.environment)
        run(programs, "refresh", **user.environment)  # an attribute, by the C library
        assert "Linux only" in run(programs, "doctor", **user.environment)
    finally:
        run(programs, "unmount", place, **user.environment)
    assert [one["filename"] for one in service.artifacts()] == ["y.txt", "x.txt"]
    assert os.listdir(place) == []


def test_what_differs_between_systems_stands_in_one_file() -> None:
    """And what is looked for by its name, and done without where it is not."""
    differs = re.compile(
        r"\bos\.(fdatasync|posix_fadvise|posix_fallocate|copy_file_range|pidfd_open|splice|\w*xattr)\("
        r"|signal\.pidfd|fcntl\.F_OFD|sys\.platform|platform\.system\("
    )
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE)
        if inside.parts[:2] != ("fuse", "native") and str(inside) not in EXEMPT:
            assert not differs.search(path.read_text()), inside


def test_the_mounts_of_macos_are_read_as_those_of_linux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = tmp_path / "mount"
    listing.write_text("""#!/bin/sh
cat <<'EOF'
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
artifactfs:computalot.com on /Users/ada/my artifacts (old) (macfuse, nodev, nosuid, mounted by ada)
sshfs#host on /Volumes/x (macfuse)
EOF
""")
    listing.chmod(0o755)
    monkeypatch.setattr(system, "MOUNT", str(listing))
    assert list(system.mounted()) == [
        ("/", "apfs", "/dev/disk3s1s1"),
        ("/System/Volumes/Data/home", "autofs", "map auto_home"),
        ("/Users/ada/my artifacts (old)", "fuse.artifactfs", "computalot.com"),
        ("/Volumes/x", "macfuse", "sshfs#host"),
    ]
