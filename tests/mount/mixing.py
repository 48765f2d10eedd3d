"""A reader of a real mount whose files come, become whole and are evicted while it reads.

``python -m tests.mount.mixing MOUNTPOINT SEED SECONDS`` opens, reads, holds and maps artifacts at
random, and fails at the first error or wrong byte. It prints how many things it has done, and how
often it saw the kernel read a file past the driver.

What file `number` holds follows from its number (`content_of`), so readers need nobody to ask.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import sys
import time
from functools import lru_cache
from pathlib import Path

SIZES = (1, 4096, 65_536, 300_001, 1 << 20, (2 << 20) + 7, 5_000_000)
FILES = 24
HELD_AT_MOST = 2
LOOK_EVERY = 200


@lru_cache(FILES)
def content_of(number: int) -> bytes:
    """The right bytes of file `number`."""
    return random.Random(number).randbytes(SIZES[number % len(SIZES)])


def names_of(mountpoint: Path, number: int) -> tuple[Path, Path]:
    """Two of the file's names: they share one inode, and so one mode."""
    digest = hashlib.sha256(content_of(number)).hexdigest()
    return mountpoint / "artifacts" / f"{number}.bin", mountpoint / "by-sha256" / digest


def read(mountpoint: Path, seed: int, seconds: float) -> tuple[int, int]:
    """Read at random; how many things were done, and how often passthrough was seen."""
    chance = random.Random(seed)
    names = [names_of(mountpoint, number) for number in range(FILES)]
    held: list[tuple[int, int]] = []
    mapped: list[tuple[int, mmap.mmap]] = []
    done = seen = 0
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        number = chance.randrange(FILES)
        path, right = chance.choice(names[number]), content_of(number)
        match chance.randrange(7):
            case 0:
                held.append((number, os.open(path, os.O_RDONLY)))
            case 1:
                with path.open("rb") as file:
                    mapped.append((number, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)))
            case 2:
                assert path.read_bytes() == right, f"{path} read whole"
            case 3:
                with path.open("rb", buffering=0) as file:
                    start = chance.randrange(len(right))
                    file.seek(start)
                    assert file.read(5000) == right[start : start + 5000], f"{path} at {start}"
            case 4 if held:
                number, fd = chance.choice(held)
                right = content_of(number)
                start = chance.randrange(len(right))
                size = chance.choice((1, 4096, 100_000, 1 << 20))
                got = os.pread(fd, size, start)
                assert got == right[start : start + size], f"{number} held, at {start}"
            case 5 if mapped:
                number, view = chance.choice(mapped)
                right = content_of(number)
                start = chance.randrange(len(right))
                got = view[start : start + 9000]
                assert got == right[start : start + 9000], f"{number} mapped, at {start}"
            case 6:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while len(held) > HELD_AT_MOST or (held and chance.random() < 0.3):
            os.close(held.pop(chance.randrange(len(held)))[1])
        while len(mapped) > HELD_AT_MOST or (mapped and chance.random() < 0.3):
            mapped.pop(chance.randrange(len(mapped)))[1].close()
        done += 1
        if done % LOOK_EVERY == 0:
            status = json.loads((mountpoint / ".artifactfs" / "status.json").read_text())
            seen += bool(status["binding"].get("passthrough_open"))
    return done, seen


if __name__ == "__main__":
    counted = read(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    sys.stdout.write(json.dumps(counted) + "\n")
