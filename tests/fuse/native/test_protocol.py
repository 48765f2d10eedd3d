"""The layouts are the kernel's: compared with its own header where a compiler is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from struct import Struct

import pytest

from artifactfs.fuse.native import protocol

HEADER = Path("/usr/include/linux/fuse.h")

# The name of the struct, ours, and its size where the header is not there to ask.
LAYOUTS: list[tuple[str, Struct, int]] = [
    ("fuse_in_header", protocol.IN_HEADER, 40),
    ("fuse_out_header", protocol.OUT_HEADER, 16),
    ("fuse_attr", protocol.ATTR, 88),
    ("fuse_attr_out", protocol.ATTR_OUT, 104),
    ("fuse_entry_out", protocol.ENTRY_OUT, 128),
    ("fuse_dirent", protocol.DIRENT, 24),
    ("fuse_direntplus", protocol.DIRENTPLUS, 152),
    ("fuse_getattr_in", protocol.GETATTR_IN, 16),
    ("fuse_setattr_in", protocol.SETATTR_IN, 88),
    ("fuse_access_in", protocol.ACCESS_IN, 8),
    ("fuse_statfs_out", protocol.STATFS_OUT, 80),
    ("fuse_forget_in", protocol.FORGET_IN, 8),
    ("fuse_batch_forget_in", protocol.BATCH_FORGET_IN, 8),
    ("fuse_forget_one", protocol.FORGET_ONE, 16),
    ("fuse_mknod_in", protocol.MKNOD_IN, 16),
    ("fuse_mkdir_in", protocol.MKDIR_IN, 8),
    ("fuse_rename_in", protocol.RENAME_IN, 8),
    ("fuse_rename2_in", protocol.RENAME2_IN, 16),
    ("fuse_getxattr_in", protocol.GETXATTR_IN, 8),
    ("fuse_getxattr_out", protocol.GETXATTR_OUT, 8),
    ("fuse_open_in", protocol.OPEN_IN, 8),
    ("fuse_create_in", protocol.CREATE_IN, 16),
    ("fuse_open_out", protocol.OPEN_OUT, 16),
    ("fuse_release_in", protocol.RELEASE_IN, 24),
    ("fuse_flush_in", protocol.FLUSH_IN, 24),
    ("fuse_read_in", protocol.READ_IN, 40),
    ("fuse_write_in", protocol.WRITE_IN, 40),
    ("fuse_write_out", protocol.WRITE_OUT, 8),
    ("fuse_fsync_in", protocol.FSYNC_IN, 16),
    ("fuse_fallocate_in", protocol.FALLOCATE_IN, 32),
    ("fuse_copy_file_range_in", protocol.COPY_FILE_RANGE_IN, 56),
    ("fuse_lseek_in", protocol.LSEEK_IN, 24),
    ("fuse_lseek_out", protocol.LSEEK_OUT, 8),
    ("fuse_interrupt_in", protocol.INTERRUPT_IN, 8),
    ("fuse_init_in", protocol.INIT_IN_FLAGS2, 64),
    ("fuse_init_out", protocol.INIT_OUT, 64),
    ("fuse_notify_inval_entry_out", protocol.NOTIFY_INVAL_ENTRY_OUT, 16),
]

# Newer than many a header: sizes from include/uapi/linux/fuse.h of Linux 6.15.
NEWER: list[tuple[str, Struct, int]] = [
    ("fuse_statx_in", protocol.STATX_IN, 24),
    ("fuse_statx_out", protocol.STATX_OUT, 288),
    ("fuse_backing_map", protocol.BACKING_MAP, 16),
]

FLAGS = (
    "ASYNC_READ",
    "ATOMIC_O_TRUNC",
    "BIG_WRITES",
    "AUTO_INVAL_DATA",
    "DO_READDIRPLUS",
    "READDIRPLUS_AUTO",
    "ASYNC_DIO",
    "WRITEBACK_CACHE",
    "PARALLEL_DIROPS",
    "ABORT_ERROR",
    "MAX_PAGES",
    "CACHE_SYMLINKS",
    "EXPLICIT_INVAL_DATA",
    "HANDLE_KILLPRIV_V2",
    "SETXATTR_EXT",
    "INIT_EXT",
    "NOTIFY_INVAL_ENTRY",
)
PLAIN_NAMES = (
    "FOPEN_DIRECT_IO",
    "FOPEN_KEEP_CACHE",
    "FOPEN_CACHE_DIR",
    "FOPEN_NOFLUSH",
    "FATTR_MODE",
    "FATTR_UID",
    "FATTR_GID",
    "FATTR_SIZE",
    "FATTR_ATIME",
    "FATTR_MTIME",
    "FATTR_FH",
    "FATTR_MTIME_NOW",
)


@pytest.mark.parametrize(("name", "layout", "size"), LAYOUTS + NEWER)
def test_each_layout_has_its_size(name: str, layout: Struct, size: int) -> None:
    assert layout.size == size


def in_c(expressions: list[str], directory: Path) -> list[int]:
    """What a C compiler makes of these expressions, with the kernel's header included."""
    compiler = shutil.which("cc")
    if compiler is None or not HEADER.exists():
        pytest.skip("no compiler, or no kernel header")
    lines = "".join(f'printf("%lld\\n", (long long)({one}));\n' for one in expressions)
    source = directory / "ask.c"
    source.write_text(
        f"#include <stdio.h>\n#include <stddef.h>\n#include <linux/fuse.h>\n"
        f"int main(void) {{\n{lines}return 0;\n}}\n"
    )
    program = directory / "ask"
    subprocess.run([compiler, source, "-o", program], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in said.split()]


def test_the_kernels_header_agrees_on_the_sizes(tmp_path: Path) -> None:
    sizes = in_c([f"sizeof(struct {name})" for name, _, _ in LAYOUTS], tmp_path)
    assert sizes == [layout.size for _, layout, _ in LAYOUTS]


def test_the_kernels_header_agrees_on_the_offsets(tmp_path: Path) -> None:
    """Where padding or order could differ although the size does not."""
    expected = {
        "offsetof(struct fuse_in_header, pid)": Struct("=IIQQII").size,
        "offsetof(struct fuse_attr, mode)": Struct("=QQQQQQIII").size,
        "offsetof(struct fuse_entry_out, attr)": Struct("=QQQQII").size,
        "offsetof(struct fuse_setattr_in, mode)": Struct("=IIQQQQQQIII").size,
        "offsetof(struct fuse_setattr_in, uid)": Struct("=IIQQQQQQIIIII").size,
        "offsetof(struct fuse_init_in, flags2)": 16,
        "offsetof(struct fuse_init_out, max_write)": Struct("=IIIIHH").size,
        "offsetof(struct fuse_init_out, flags2)": Struct("=IIIIHHIIHH").size,
        "offsetof(struct fuse_write_in, size)": Struct("=QQ").size,
        "offsetof(struct fuse_statfs_out, st.bsize)": Struct("=QQQQQ").size,
    }
    assert in_c(list(expected), tmp_path) == list(expected.values())


def test_the_kernels_header_agrees_on_the_numbers(tmp_path: Path) -> None:
    newer = {"STATX", "COPY_FILE_RANGE_64"}
    known = {f"FUSE_{op.name}": int(op) for op in protocol.Opcode if op.name not in newer}
    known |= {f"FUSE_{name}": getattr(protocol, name) for name in FLAGS}
    known |= {name: getattr(protocol, name) for name in PLAIN_NAMES}
    assert in_c(list(known), tmp_path) == list(known.values())


def test_a_name_ends_at_its_nul() -> None:
    body = memoryview(b"....name\0other\0")
    assert protocol.split_name(body, 4) == (b"name", 9)
    assert protocol.split_name(body, 9) == (b"other", 15)


def test_a_name_without_an_end_is_no_name() -> None:
    with pytest.raises(ValueError, match="without an end"):
        protocol.split_name(memoryview(b"name"), 0)


def test_a_name_of_255_bytes_is_the_longest() -> None:
    assert protocol.split_name(memoryview(b"x" * 255 + b"\0"), 0) == (b"x" * 255, 256)
    with pytest.raises(protocol.NameTooLong):
        protocol.split_name(memoryview(b"x" * 256 + b"\0"), 0)
