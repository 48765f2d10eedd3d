"""Record what programs ask of a mount: ``python -m tests.cache.traces.record [NAME…]``, as root.

Each workload runs in processes of its own on a mount of its own, made by the project's native
binding, of a tree with one file in it. The tree's handle takes down every READ that reaches it,
before it answers from a local file: so a trace holds what the kernel asked, in the order in which
the driver saw it, after the kernel's page cache and readahead. A trace is a text file whose first
line is JSON: what ran, in which versions, on which kernel, with which readahead, the file's size.
Each further line is ``HANDLE PAGE PAGES`` or ``HANDLE PAGE PAGES xTIMES``, the latter for so many
reads of equal length one after the other; or ``HANDLE closed``. A page is 4 KiB; handles are
numbered as they were opened.

Some workloads need what the project does not: ``pip install h5py duckdb``.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path

from artifactfs.fuse.binding import MountOptions
from artifactfs.fuse.select import make
from artifactfs.vfs.node import (
    FOREVER_S,
    Attributes,
    Directory,
    DirectoryEntry,
    File,
    FilesystemSpace,
    Handle,
    Kind,
    Node,
)

HERE = Path(__file__).parent
PAGE_BYTES = 4096
MIB = 1 << 20
ROOT_READAHEAD_KB, USER_READAHEAD_KB = 1024, 128

# The mount


class RecordingFile(File):
    """A local file whose reads are written down."""

    def __init__(self, path: Path, log: Path) -> None:
        self._path = path
        self._log = log.open("w", buffering=1)
        self._numbers = count(1)

    @property
    def ino(self) -> int:
        return 2

    @property
    def lifetime_s(self) -> float:
        return FOREVER_S

    def attributes(self) -> Attributes:
        size_bytes = self._path.stat().st_size
        return Attributes(2, Kind.FILE, 0o444, size_bytes, 1, 0, 0, size_bytes // 512)

    def open(self, flags: int) -> Handle:
        return RecordingHandle(self._path, next(self._numbers), self._note)

    def _note(self, handle: int, what: str) -> None:
        self._log.write(f"{handle} {what}\n")


class RecordingHandle(Handle):
    def __init__(self, path: Path, number: int, note) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._number = number
        self._note = note

    @property
    def keep_cache(self) -> bool:
        return True

    def try_read(self, start: int, stop: int) -> bytes:
        self._note(self._number, f"{start} {stop - start}")
        return self.read(start, stop)

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self._descriptor, stop - start, start)

    def release(self) -> None:
        self._note(self._number, "closed")
        os.close(self._descriptor)


class Root(Directory):
    def __init__(self, file: RecordingFile, name: str) -> None:
        self._entries = [DirectoryEntry(name, file)]

    @property
    def ino(self) -> int:
        return 1

    def attributes(self) -> Attributes:
        return Attributes(1, Kind.DIRECTORY, 0o555, 0, 2, 0, 0, 0)

    def find(self, name: str) -> Node | None:
        return next((entry.node for entry in self._entries if entry.name == name), None)

    def entries(self) -> Sequence[DirectoryEntry]:
        return self._entries


class RecordingTree:
    def __init__(self, path: Path, log: Path) -> None:
        self.root = Root(RecordingFile(path, log), path.name)

    def space(self) -> FilesystemSpace:
        return FilesystemSpace(1 << 40, 1 << 40, 1)

    def subscribe(self, listener) -> None:
        """Nothing ever changes."""

    def unsubscribe(self, listener) -> None:
        """See `subscribe`."""


def serve(path: Path, log: Path, mountpoint: Path) -> None:
    """Be the driver until the mount is unmounted; says a line when it answers."""
    options = MountOptions("traces", os.getuid(), os.getgid())
    make("native").run(RecordingTree(path, log), mountpoint, options, _say_ready)


def _say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


# The workloads


@dataclass(frozen=True)
class Workload:
    """What runs on the file FILE: a shell command, where PYTHON is this interpreter."""

    name: str
    made_by: str
    command: str
    packages: tuple[str, ...] = ()
    readahead_kb: int = ROOT_READAHEAD_KB


PARQUET = """
import numpy, pyarrow, pyarrow.parquet
dice = numpy.random.default_rng(1)
rows = (1 << 30) // 800
table = pyarrow.table({f"c{i:03}": dice.random(rows) for i in range(100)})
pyarrow.parquet.write_table(
    table, FILE, row_group_size=rows // 4, compression="none", use_dictionary=False)
"""
SMALL_PARQUET = """
import numpy, pyarrow, pyarrow.parquet
dice = numpy.random.default_rng(1)
rows = (64 << 20) // 160
table = pyarrow.table({f"c{i:03}": dice.random(rows) for i in range(20)})
pyarrow.parquet.write_table(table, FILE, row_group_size=rows // 8)
"""
SAFETENSORS = """
import numpy, safetensors.numpy
dice = numpy.random.default_rng(1)
names = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down"]
safetensors.numpy.save_file(
    {f"layers.{i}.{name}": dice.random((512, 2048 if "mlp" in name else 512), numpy.float32)
     for i in range(16) for name in names}, FILE)
"""
ZIP = """
import os, zipfile
with zipfile.ZipFile(FILE, "w", zipfile.ZIP_DEFLATED) as archive:
    for i in range(400):
        archive.writestr(f"package/module_{i}.py", os.urandom(3000).hex())
    archive.writestr("package/libs/core.so", os.urandom(48 << 20))
    for i in range(400):
        archive.writestr(f"package/more/module_{i}.py", os.urandom(3000).hex())
"""
HDF5 = """
import h5py, numpy
dice = numpy.random.default_rng(1)
with h5py.File(FILE, "w") as file:
    for i in range(8):
        file.create_dataset(f"group{i}/images", data=dice.random((512, 64, 64), numpy.float32),
                            chunks=(32, 64, 64))
        file.create_dataset(f"group{i}/labels", data=numpy.arange(512))
"""
TAR = """
import io, os, tarfile
with tarfile.open(FILE, "w") as archive:
    for i in range(300):
        member = tarfile.TarInfo(f"data/{i:04}.bin")
        member.size = (4 << 10) if i % 3 else (1 << 20)
        archive.addfile(member, io.BytesIO(os.urandom(member.size)))
"""
BYTES = """
import os
with open(FILE, "wb") as file:
    for _ in range(96):
        file.write(os.urandom(1 << 20))
"""
TEXT = """
import os
with open(FILE, "w") as file:
    for _ in range(64):
        file.write("".join(os.urandom(32).hex() + "\\n" for _ in range(16000)))
"""

HDF5_SLICE = """PYTHON -c "
import h5py
with h5py.File('FILE') as file:
    print(file['group3/images'][100:200].sum())" """
HDF5_ALL = """PYTHON -c "
import h5py
with h5py.File('FILE') as file:
    print(sum(group['images'][:].sum() for group in file.values()))" """
SAFETENSORS_ALL = """PYTHON -c "
import safetensors.numpy
print(sum(array.sum() for array in safetensors.numpy.load_file('FILE').values()))" """
SAFETENSORS_MAPPED = """PYTHON -c "
import safetensors
with safetensors.safe_open('FILE', framework='np') as file:
    print(sum(file.get_tensor(name).sum() for name in file.keys()))" """
SAFETENSORS_ONE = """PYTHON -c "
import safetensors
with safetensors.safe_open('FILE', framework='np') as file:
    print(file.get_tensor('layers.7.mlp.up').sum())" """
ZIP_MEMBER = """PYTHON -c "
import zipfile
with zipfile.ZipFile('FILE') as archive:
    print(len(archive.namelist()), len(archive.read('package/libs/core.so')))" """
PARQUET_COLUMN = """PYTHON -c "
import pyarrow.parquet as q
print(q.read_table('FILE', columns=['c042']).num_rows)" """
PARQUET_MAPPED = PARQUET_COLUMN.replace("['c042']", "['c042'], memory_map=True, pre_buffer=False")
PARQUET_ROW_GROUP = """PYTHON -c "
import pyarrow.parquet as q
print(q.ParquetFile('FILE').read_row_group(2).num_rows)" """
DUCKDB = """PYTHON -c "
import duckdb
print(duckdb.sql(\\"SELECT sum(c042) FROM read_parquet('FILE')\\").fetchall())" """
BACKWARD = """PYTHON -c "
import os
at = os.open('FILE', os.O_RDONLY)
for stop in range(os.fstat(at).st_size, 0, -65536):
    os.pread(at, 65536, stop - 65536)" """
SKIPPING = """PYTHON -c "
import os
at = os.open('FILE', os.O_RDONLY)
for start in range(0, os.fstat(at).st_size - (1 << 20), 17 << 20):
    os.pread(at, 1 << 20, start)" """
HINTED = """PYTHON -c "
import os, random
at = os.open('FILE', os.O_RDONLY)
os.posix_fadvise(at, 0, 0, os.POSIX_FADV_HINT)
dice = random.Random(7)
for _ in range(200):
    os.pread(at, 4096, dice.randrange(os.fstat(at).st_size - 4096))" """
WILLNEED = """PYTHON -c "
import os, time
at = os.open('FILE', os.O_RDONLY)
os.posix_fadvise(at, 32 << 20, 8 << 20, os.POSIX_FADV_WILLNEED)
time.sleep(0.5)" """
RECORDS = """PYTHON -c "
import random
with open('FILE', 'rb') as file:
    places = list(range(0, 96 << 20, 150000))
    random.Random(7).shuffle(places)
    for place in places:
        file.seek(place)
        file.read(150000)" """
MAPPED_RANDOM = """PYTHON -c "
import mmap, os, random
at = os.open('FILE', os.O_RDONLY)
with mmap.mmap(at, 0, prot=mmap.PROT_READ) as view:
    dice = random.Random(7)
    print(sum(view[dice.randrange(len(view))] for _ in range(200)))" """

WORKLOADS = (
    Workload("cp", BYTES, "cp FILE /dev/null"),
    Workload("cp-user", BYTES, "cp FILE /dev/null", readahead_kb=USER_READAHEAD_KB),
    Workload("sha256sum", BYTES, "sha256sum FILE"),
    Workload("sha256sum-user", BYTES, "sha256sum FILE", readahead_kb=USER_READAHEAD_KB),
    Workload("grep", TEXT, "grep -c ffff FILE"),
    Workload("head-c", BYTES, "head -c 100000 FILE"),
    Workload("tail-c", BYTES, "tail -c 100000 FILE"),
    Workload("tail-half", BYTES, "tail -c 50331648 FILE"),
    Workload("backward", BYTES, BACKWARD),
    Workload("tac", TEXT, "tac FILE"),
    Workload("skip", "open(FILE, 'wb').truncate(1 << 30)", SKIPPING),
    Workload("skip-user", "open(FILE, 'wb').truncate(1 << 30)", SKIPPING,
             readahead_kb=USER_READAHEAD_KB),
    Workload("random", "open(FILE, 'wb').truncate(1 << 30)", HINTED.replace("HINT", "RANDOM")),
    Workload("random-unhinted", "open(FILE, 'wb').truncate(1 << 30)",
             HINTED.replace("HINT", "NORMAL")),
    Workload("records-shuffled", BYTES, RECORDS, ("python",)),
    Workload("mapped-random", "open(FILE, 'wb').truncate(1 << 30)", MAPPED_RANDOM,
             readahead_kb=USER_READAHEAD_KB),
    Workload("willneed", BYTES, WILLNEED),
    Workload("three-at-once", BYTES,
             "cp FILE /dev/null & sha256sum FILE & tail -c 50331648 FILE & wait"),
    Workload("four-parts", BYTES,
             "for i in 0 1 2 3; do dd if=FILE bs=64K skip=$((i * 384)) count=384 & done; wait",
             readahead_kb=USER_READAHEAD_KB),
    Workload("tar-t", TAR, "tar tf FILE"),
    Workload("tar-x", TAR, "tar xf FILE --to-stdout"),
    Workload("tar-x-one", TAR, "tar xf FILE --to-stdout data/0270.bin"),
    Workload("zip-list", ZIP, "PYTHON -m zipfile -l FILE", ("python",)),
    Workload("zip-member", ZIP, ZIP_MEMBER, ("python",)),
    Workload("zip-member-user", ZIP, ZIP_MEMBER, ("python",), USER_READAHEAD_KB),
    Workload("parquet-whole", SMALL_PARQUET,
             PARQUET_COLUMN.replace(", columns=['c042']", ""), ("pyarrow",)),
    Workload("parquet-column", PARQUET, PARQUET_COLUMN, ("pyarrow",)),
    Workload("parquet-column-user", PARQUET, PARQUET_COLUMN, ("pyarrow",), USER_READAHEAD_KB),
    Workload("parquet-column-mapped", PARQUET, PARQUET_MAPPED, ("pyarrow",)),
    Workload("parquet-row-group", SMALL_PARQUET, PARQUET_ROW_GROUP, ("pyarrow",)),
    Workload("parquet-column-256", PARQUET, PARQUET_COLUMN, ("pyarrow",), 256),
    Workload("duckdb-column", PARQUET, DUCKDB, ("duckdb",)),
    Workload("duckdb-column-user", PARQUET, DUCKDB, ("duckdb",), USER_READAHEAD_KB),
    Workload("safetensors-whole", SAFETENSORS, SAFETENSORS_ALL, ("safetensors", "numpy")),
    Workload("safetensors-mapped", SAFETENSORS, SAFETENSORS_MAPPED, ("safetensors", "numpy")),
    Workload("safetensors-mapped-user", SAFETENSORS, SAFETENSORS_MAPPED,
             ("safetensors", "numpy"), USER_READAHEAD_KB),
    Workload("safetensors-one", SAFETENSORS, SAFETENSORS_ONE, ("safetensors", "numpy")),
    Workload("h5py-slice", HDF5, HDF5_SLICE, ("h5py",)),
    Workload("h5py-all", HDF5, HDF5_ALL, ("h5py",)),
)  # fmt: skip

# Recording


class Stage:
    """The files that workloads read, each made once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[str, Path] = {}

    def file(self, program: str) -> Path:
        """The file that this program makes."""
        if program not in self._made:
            path = self._directory / f"file{len(self._made)}"
            code = program.replace("FILE", repr(str(path)))
            subprocess.run([sys.executable, "-c", code], check=True)
            self._made[program] = path
        return self._made[program]

    def record(self, workload: Workload) -> str:
        """The trace of one workload."""
        path = self.file(workload.made_by)
        mountpoint, log = self._directory / "mnt", self._directory / "log"
        mountpoint.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.cache.traces.record", "--serve", path, log, mountpoint],
            cwd=HERE.parents[2],
            stdout=subprocess.PIPE,
        )
        assert driver.stdout is not None
        try:
            assert driver.stdout.readline() == b"ready\n"
            number = os.minor(mountpoint.stat().st_dev)
            readahead = Path(f"/sys/class/bdi/0:{number}/read_ahead_kb")
            readahead.write_text(str(workload.readahead_kb))
            command = workload.command.replace("PYTHON", sys.executable)
            subprocess.run(
                command.replace("FILE", str(mountpoint / path.name)),
                shell=True,
                check=True,
                stdout=subprocess.PIPE,  # grep and tar do less when it is /dev/null
                stderr=subprocess.DEVNULL,
            )
        finally:
            subprocess.run(["umount", mountpoint], check=True)
            driver.wait(30)
        return _header(workload, path.stat().st_size) + _packed(log.read_text())


def _header(workload: Workload, size_bytes: int) -> str:
    command = workload.command.replace("\n", "; ").strip()
    return (
        json.dumps(
            {
                "command": command,
                "size_bytes": size_bytes,
                "readahead_kb": workload.readahead_kb,
                "linux": platform.release(),
                "versions": {name: _version(name) for name in workload.packages},
            }
        )
        + "\n"
    )


def _version(name: str) -> str:
    try:
        return platform.python_version() if name == "python" else version(name)
    except PackageNotFoundError:
        return "unknown"


def _packed(log: str) -> str:
    """Lines of handle, start and length in bytes as lines of pages, equal successors counted."""
    packed: list[list[int]] = []
    for line in log.splitlines():
        handle, *numbers = line.split()
        if numbers == ["closed"]:
            packed.append([int(handle), 0, 0, 0])
            continue
        start, length = map(int, numbers)
        assert start % PAGE_BYTES == length % PAGE_BYTES == 0, line
        page, pages = start // PAGE_BYTES, length // PAGE_BYTES
        if packed:
            last_handle, first, each, times = packed[-1]
            if times and (int(handle), page, pages) == (last_handle, first + each * times, each):
                packed[-1][3] += 1
                continue
        packed.append([int(handle), page, pages, 1])
    return "".join(_line(*one) for one in packed)


def _line(handle: int, page: int, pages: int, times: int) -> str:
    if not times:
        return f"{handle} closed\n"
    return f"{handle} {page} {pages}" + (f" x{times}" if times > 1 else "") + "\n"


def main(names: list[str]) -> None:
    """Record the workloads of these names, or all."""
    with tempfile.TemporaryDirectory(prefix="traces-") as directory:
        stage = Stage(Path(directory))
        for workload in WORKLOADS:
            if not names or workload.name in names:
                trace = stage.record(workload)
                (HERE / f"{workload.name}.trace").write_text(trace)
                sys.stdout.write(f"{workload.name}: {len(trace)} bytes\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*map(Path, sys.argv[2:]))
    else:
        main(sys.argv[1:])
