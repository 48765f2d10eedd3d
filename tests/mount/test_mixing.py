"""Files become whole, are read past the driver, evicted and fetched again, all at the same time.

The cache is too small for what is listed, so files are evicted and fetched again all the time; in
the second test by another mount of the same cache directory too, and removed by hand besides.
Whatever happens, no reader gets an error or a wrong byte. `ARTIFACTFS_STRESS_S` says how long it is
tried: `scripts/test` sets a minute.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import ServiceClient, UserMount, wait_until
from .mixing import FILES, content_of

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
READERS = 4
IN_ALL_BYTES = sum(len(content_of(number)) for number in range(FILES))
SECONDS = float(os.environ.get("ARTIFACTFS_STRESS_S", "5"))
BRIEFLY_S = min(SECONDS, 20.0)
REMOVE_EVERY_S = 0.1
ROUNDS_AT_MOST = 6  # a busy machine may need more than one
FUSEPY_SECONDS = min(SECONDS, 5.0)  # there is no passthrough to mix with


def start_reader(mount: UserMount, seed: int, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.mount.mixing", mount.path, str(seed), str(seconds)],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def let_loose(mounts: Sequence[UserMount], seconds: float, seeds: Iterator[int]) -> int:
    """Readers at random on all mounts at once; how often a file was seen read past the driver."""
    readers = [
        start_reader(mount, next(seeds), seconds)
        for mount in mounts
        for _ in range(READERS // len(mounts))
    ]  # fmt: skip
    ended = [(reader.communicate(timeout=seconds + 90), reader.returncode) for reader in readers]
    for (_, troubles), status in ended:
        assert status == 0, troubles + "".join(mount.log() for mount in mounts)
    return sum(json.loads(said)[1] for (said, _), _ in ended)


def fetched_bytes(mount: UserMount) -> int:
    statistics = json.loads((mount.path / ".artifactfs" / "cache.json").read_text())
    fetched: int = statistics["fetched_bytes"]
    return fetched


def read_at_random(mounts: Sequence[UserMount], seconds: float) -> None:
    """Let readers loose until enough was evicted and fetched again, and see that all was right."""
    seeds = itertools.count()
    seen = rounds = 0
    while rounds == 0 or sum(map(fetched_bytes, mounts)) < IN_ALL_BYTES:
        rounds += 1
        assert rounds <= ROUNDS_AT_MOST, "too little was evicted and fetched again"
        seen += let_loose(mounts, seconds, seeds)
    logs = "".join(mount.log() for mount in mounts)
    for mount in mounts:
        facts = mount.status()["binding"]
        if facts["passthrough"]:
            assert seen > 0, "nothing was read past the driver"
        if mount.binding == "native":
            wait_until(lambda m=mount: m.status()["binding"]["open_files"] == 0, 5, "all is closed")
        mount.unmount()
    assert "ERROR" not in logs
    assert "Traceback" not in logs


@pytest.mark.timeout(SECONDS + 180)
def test_no_reader_notices_what_becomes_of_the_cache(
    user: UserMount, service: ServiceClient
) -> None:
    for number in range(FILES):
        service.upload(f"{number}.bin", content_of(number))
    user.settings = {"cache.size": str(IN_ALL_BYTES // 3)}
    user.mount()
    read_at_random([user], SECONDS if user.binding == "native" else FUSEPY_SECONDS)


@contextmanager
def removing_cached_files(cache: Path) -> Iterator[None]:
    """Somebody who clears up below the cache directory, a file at a time."""
    end = threading.Event()

    def run() -> None:
        chance = random.Random(0)
        while not end.wait(REMOVE_EVERY_S):
            found = sorted(path for path in cache.glob("v*/sha256/*/*") if path.suffix != ".new")
            if found:
                chance.choice(found).unlink(missing_ok=True)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@pytest.mark.timeout(BRIEFLY_S + 180)
def test_nor_what_others_do_to_it(
    user: UserMount, neighbour: UserMount, service: ServiceClient, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for number in range(FILES):
        service.upload(f"{number}.bin", content_of(number))
    for mount in (user, neighbour):
        mount.settings = {"cache.dir": str(cache), "cache.size": str(IN_ALL_BYTES // 3)}
        mount.mount()
    with removing_cached_files(cache):
        read_at_random([user, neighbour], BRIEFLY_S if user.binding == "native" else FUSEPY_SECONDS)
