"""The programs that find ``artifact://`` by its name, each reading (and some writing) for real."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
import safetensors.numpy

from artifactfs.fsspec import ArtifactFileSystem


@pytest.fixture
def table() -> pa.Table:
    return pa.table({"n": range(10_000), "part": [n % 4 for n in range(10_000)]})


def test_pandas(fs: ArtifactFileSystem) -> None:
    frame = pd.DataFrame({"n": range(1000), "square": [n * n for n in range(1000)]})
    options = {"list_ttl": 0}
    frame.to_csv("artifact://pandas/a.csv", index=False, storage_options=options)
    frame.to_parquet("artifact://pandas/a.parquet", storage_options=options)
    for read in (pd.read_csv, pd.read_parquet):
        suffix = read.__name__.removeprefix("read_")
        again = read(f"artifact://pandas/a.{suffix}", storage_options=options)
        pd.testing.assert_frame_equal(again, frame)


def test_pyarrow_writes_and_reads_a_partitioned_data_set(
    fs: ArtifactFileSystem, table: pa.Table
) -> None:
    pa.parquet.write_to_dataset(table, "arrow/set", partition_cols=["part"], filesystem=fs)
    found = pa.dataset.dataset("arrow/set", filesystem=fs, partitioning="hive")
    assert len(found.files) == 4
    some = found.to_table(filter=pa.dataset.field("part") == 3)
    assert sum(some["n"].to_pylist()) == sum(range(3, 10_000, 4))


def test_duckdb(fs: ArtifactFileSystem, table: pa.Table) -> None:
    import duckdb

    with fs.open("duck/a.parquet", "wb") as file:
        pa.parquet.write_table(table, file)
    with duckdb.connect() as connection:
        connection.register_filesystem(fs)
        found = connection.execute("select sum(n) from 'artifact://duck/*.parquet'").fetchall()
    assert found == [(sum(range(10_000)),)]


def test_safetensors(fs: ArtifactFileSystem) -> None:
    weights = {"w": np.arange(1000, dtype=np.float32).reshape(10, 100)}
    fs.pipe("model.safetensors", safetensors.numpy.save(weights))
    loaded = safetensors.numpy.load(fs.cat_file("model.safetensors"))
    np.testing.assert_array_equal(loaded["w"], weights["w"])


def test_h5py_reads_a_part_of_a_file(fs: ArtifactFileSystem) -> None:
    import h5py

    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        file["x"] = np.arange(1_000_000)
    fs.pipe("cube.h5", made.getvalue())
    with fs.open("cube.h5") as remote, h5py.File(remote) as file:
        np.testing.assert_array_equal(file["x"][500_000:500_010], range(500_000, 500_010))
