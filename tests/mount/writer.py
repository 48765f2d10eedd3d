"""Writes files into a directory until it is told to stop, whatever happens to the mount below.

    python writer.py DIRECTORY LOG SEED SIZE,SIZE,… COUNT

Each line of LOG is an event: ``closing NAME SHA256`` before a close is called, ``closed NAME`` when
it has returned. A file that fails in between is left, and the next has another name. It ends after
COUNT files once a file ``LOG.stop`` is there.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from pathlib import Path


def main() -> None:
    directory, log, seed, sizes, count = sys.argv[1:]
    dice = random.Random(int(seed))
    chosen = [int(size) for size in sizes.split(",")]
    stop = Path(log + ".stop")
    number = 0
    with open(log, "a", buffering=1) as events:
        while number < int(count) or not stop.exists():
            number += 1
            # Now and then as atomic writers do it: another name first.
            name = f"{seed}-{number:04}.bin"
            first = name + ".tmp" if dice.random() < 0.25 else name
            size = dice.choice(chosen)
            try:
                write(Path(directory), first, name, size, dice, events)
            except OSError:
                time.sleep(0.05)


def write(
    directory: Path, first: str, name: str, size: int, dice: random.Random, events: object
) -> None:
    digest = hashlib.sha256()
    descriptor = os.open(directory / first, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        left = size
        while left:
            piece = dice.randbytes(min(left, dice.choice((1000, 65536, 1 << 20))))
            left -= os.write(descriptor, piece)
            digest.update(piece)
        print("closing", name, digest.hexdigest(), file=events)  # type: ignore[call-overload]
    except OSError:
        print("failed", name, file=events)  # type: ignore[call-overload]
        try:
            os.close(descriptor)
        finally:
            raise
    os.close(descriptor)
    if first != name:
        os.rename(directory / first, directory / name)
    print("closed", name, file=events)  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
