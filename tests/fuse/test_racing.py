"""Programs that race each other in drop/ may get refusals, but break nothing and leave nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fuse.memory_tree import FETCHED
from tests.fuse.mounted import Mount, wait_until

pytestmark = pytest.mark.fuse

# What a race may end with on a local disk too; anything else is the driver's fault.
RACER = """
import errno, os, random, sys
root, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
allowed = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL,
           errno.EBADF, errno.ESTALE, errno.EPERM}
chance, fds = random.Random(seed), []
names = ["a", "b", "c", "d", "d/a", "d/b", "e", "e/a"]
flags = [os.O_RDWR | os.O_CREAT, os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_TRUNC]

def one(number, path, other):
    if number == 0: fds.append(os.open(path, chance.choice(flags), 0o644))
    elif number == 1 and fds: os.close(fds.pop(chance.randrange(len(fds))))
    elif number == 2 and fds: os.pwrite(chance.choice(fds), os.urandom(50_000), 100)
    elif number == 3 and fds: os.pread(chance.choice(fds), 100_000, 0)
    elif number == 4: os.unlink(path)
    elif number == 5: os.mkdir(path)
    elif number == 6: os.rmdir(path)
    elif number == 7: os.rename(path, other)
    elif number == 8: os.listdir(root + "/drop")
    elif number == 9: os.truncate(path, chance.randrange(5000))
    elif number == 10: os.utime(path)
    elif number == 11 and fds: os.fstat(chance.choice(fds))

for _ in range(rounds):
    try:
        one(chance.randrange(12), f"{root}/drop/{chance.choice(names)}",
            f"{root}/drop/{chance.choice(names)}")
    except OSError as error:
        if error.errno not in allowed:
            raise
    while len(fds) > 8:
        os.close(fds.pop(0))
"""


def test_programs_that_race_break_nothing_and_leave_nothing(mount: Mount) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, mount.path, str(seed), "1500"])
        for seed in range(6)
    ]
    try:
        assert [racer.wait(60) for racer in racers] == [0] * len(racers)
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    wait_until(lambda: not any(one["handles"] for one in mount.dropped().values()))
    for above, _, names in os.walk(mount / "drop"):
        assert not [name for name in names if name.startswith(".fuse_hidden")], above
    assert not [name for name in mount.dropped() if ".fuse_hidden" in name]
    assert (mount / "fixed/fetched.bin").read_bytes() == FETCHED
