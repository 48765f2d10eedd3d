"""More than one process: Dask reads a data set by ``artifact://``, and loses a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from artifactfs.fsspec import ArtifactFileSystem
from artifactfs.server.testing import LocalController

REPOSITORY = Path(__file__).parents[2]
PARTS = 8
ROWS = 50_000


@pytest.fixture
def set_bytes(fs: ArtifactFileSystem) -> int:
    """A data set in eight files, two columns of noise; how large it is."""
    random = np.random.default_rng(7)
    for part in range(PARTS):
        columns = {name: random.integers(0, 1 << 40, ROWS) for name in ("first", "second")}
        with fs.open(f"set/part-{part}.parquet", "wb") as file:
            pa.parquet.write_table(pa.table(columns), file, compression=None)
    return fs.du("set")


def test_the_sum_is_right_also_when_a_worker_is_killed(
    set_bytes: int, fs: ArtifactFileSystem, controller: LocalController, tmp_path: Path
) -> None:
    tokens = [controller.add_token() for _ in range(3)]
    for number, token in enumerate(tokens[1:]):
        (tmp_path / f"token-{number}").write_text(token)
    own = {
        "ARTIFACTFS_TOKEN": tokens[0],
        "ARTIFACTFS_CACHE_DIR": str(tmp_path / "client"),
        "DASK_TEMPORARY_DIRECTORY": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.fsspec.dask_sum", str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    whole = pa.concat_tables(
        pa.parquet.read_table(one, filesystem=fs) for one in fs.glob("set/*.parquet")
    )
    assert result["first"] == sum(whole["first"].to_pylist())
    assert result["second"] == sum(whole["second"].to_pylist())
    assert result["killed"] not in result["workers"]
    assert [files for files, _ in result["of_workers"]] == [PARTS, PARTS]
    fetched_bytes = sum(fetched for _, fetched in result["of_workers"])
    # One column and the footers, once: twice would be more than the whole set.
    assert set_bytes / 2 < fetched_bytes < set_bytes
    assert not any(token in done.stdout + done.stderr for token in tokens)
