"""Sums a data set in parts with Dask on two worker processes, one of which is killed at its work.

``python -m tests.fsspec.dask_sum DIRECTORY`` in an environment with ``ARTIFACTFS_URL``,
``ARTIFACTFS_CACHE_DIR`` and a token for the client; the tokens of the workers are in
``DIRECTORY/token-0`` and ``-1``. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import dask
import dask.dataframe
import distributed
import pandas as pd

WITHIN_S = 120.0


def settings_of_worker(directory: Path, number: int) -> dict[str, str]:
    """Each worker finds its token in its own way; both share a cache directory."""
    file = directory / f"token-{number}"
    nothing = dict.fromkeys(("ARTIFACTFS_TOKEN", "ARTIFACTFS_TOKEN_FILE"), "")
    token = (
        {"ARTIFACTFS_TOKEN": file.read_text()}
        if number == 0
        else {"ARTIFACTFS_TOKEN_FILE": str(file)}
    )
    return nothing | token | {"ARTIFACTFS_CACHE_DIR": str(directory / "cache")}


def of_worker() -> tuple[int, int]:
    """How many files a worker sees by its own token, and how much it has downloaded so far."""
    import fsspec

    fs = fsspec.filesystem("artifact")
    return len(fs.ls("set")), fs.rooms.client.store.statistics().fetched_bytes


def held(part: pd.DataFrame, directory: str) -> pd.DataFrame:
    """The same; but says who is at work, and waits for the word to go on."""
    Path(directory, f"working-{os.getpid()}").touch()
    until_s = time.monotonic() + WITHIN_S
    while not Path(directory, "go").exists() and time.monotonic() < until_s:
        time.sleep(0.02)
    return part


def kill_one_at_work(directory: Path) -> int:
    """End the first worker that is seen at work, as the kernel would; its process."""
    until_s = time.monotonic() + WITHIN_S
    while not (working := list(directory.glob("working-*"))):
        if time.monotonic() > until_s:
            raise TimeoutError("nobody is at work")
        time.sleep(0.02)
    victim = int(working[0].name.rpartition("-")[2])
    os.kill(victim, signal.SIGKILL)
    (directory / "go").touch()
    return victim


def main() -> None:
    directory = Path(sys.argv[1])
    workers = {
        number: {
            "cls": distributed.Nanny,
            "options": {
                "nthreads": 1,
                "env": settings_of_worker(directory, number),
                "local_directory": str(directory),
            },
        }
        for number in range(2)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"dashboard_address": "127.0.0.1:0", "dashboard": False},
    }
    result: dict[str, Any] = {}
    with (
        distributed.SpecCluster(workers=workers, scheduler=scheduler) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        frames = dask.dataframe.read_parquet("artifact://set")
        result["first"] = int(frames["first"].sum().compute())
        result["of_workers"] = list(client.run(of_worker).values())
        second = frames["second"].map_partitions(held, str(directory), meta=frames["second"]._meta)
        running = client.compute(second.sum())
        result["killed"] = kill_one_at_work(directory)
        result["second"] = int(running.result(WITHIN_S))
        result["workers"] = list(client.run(os.getpid).values())
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
