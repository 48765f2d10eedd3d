"""Clocks, CPU time, memory and caches.

The machines are virtual, and the first touch of memory is slow on them: directly before each side
whose use of memory counts, `touch_memory` touches and frees as much as both sides use.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096
_MIN_FREE = Path("/sys/module/page_reporting/parameters/min_free_ms")
_MADV_POPULATE_WRITE = 23  # include/uapi/asm-generic/mman-common.h
_TICKS = os.sysconf("SC_CLK_TCK")


def seconds(act: Callable[[], object]) -> float:
    """Return how long `act` takes."""
    began_s = time.perf_counter()
    act()
    return time.perf_counter() - began_s


def run(*words: object, env: dict[str, str] | None = None) -> str:
    """Return a program's output. Raise RuntimeError with its last words if it fails.

    It runs in a session of its own: Ctrl-C ends the benchmark, which then ends the program.
    """
    shown = [str(word) for word in words]
    done = subprocess.run(
        shown, check=False, capture_output=True, text=True, errors="replace",
        start_new_session=True, env=env,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{shown[0]} exited with {done.returncode}: {done.stderr[-300:]}")
    return done.stdout


def read_whole(path: Path, block: str = "1M") -> None:
    """Read a whole file with dd, as any program would."""
    run("dd", f"if={path}", "of=/dev/null", f"bs={block}", "status=none")


def fio_iops(path: Path, jobs: int, runtime_s: float) -> float:
    """Return how many random 4 KiB reads a second `jobs` readers do."""
    shown = run(
        "fio", "--name=r", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k",
        f"--numjobs={jobs}", "--ioengine=psync", "--invalidate=0", "--group_reporting",
        "--time_based", f"--runtime={runtime_s * 1000:.0f}ms", "--output-format=json", "--thread",
    )  # fmt: skip
    return float(json.loads(shown[shown.index("{") :])["jobs"][0]["read"]["iops"])


def drop_caches() -> None:
    """Drop the page cache and the kernel's names, so that the disk is read."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def drop_names() -> None:
    """Drop the kernel's names and attributes, so that file systems are asked for them."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def cpu_seconds(pid: int) -> float:
    """Return the user and system seconds of a process, its threads and its descendants."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
                ticks[int(entry.name)] = sum(map(int, fields[11:15]))  # utime … cstime
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        total += ticks.get(one, 0)
        waiting += children.get(one, [])
    return total / _TICKS


def memory_bytes(pid: int, field: str = "VmHWM") -> int:
    """Return a process's peak resident memory, or another field of its status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(found.split()[1]) * 1024


def touch_memory(size_bytes: int) -> None:
    """Have the machine back this much memory with real pages, then free it.

    A virtual machine's host takes free memory away again: measured, a GiB that it backs is touched
    in 0.6 s and one that it does not in 3.0 s, and of 12 GiB freed together 6 were gone after 25 s.
    Touching it all at the start of a run therefore helps the first side only.
    """
    with mmap.mmap(-1, size_bytes) as memory:
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
            memory.madvise(_MADV_POPULATE_WRITE)
        except (OSError, AttributeError):  # before Linux 5.14
            for start in range(0, size_bytes, PAGE):
                memory[start] = 1


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Where this kernel reports free memory to its host, have it wait for a minute with that.

    Otherwise what `touch_memory` has touched is gone again while a short row is measured.
    """
    try:
        before = _MIN_FREE.read_text()
        _MIN_FREE.write_text("60000")
    except OSError:
        yield
        return
    try:
        yield
    finally:
        _MIN_FREE.write_text(before)


def settle_disk() -> None:
    """Wait until nothing of what was before is still being written."""
    os.sync()


def rate(size_bytes: int, took_s: float) -> str:
    """Return a speed in words."""
    return f"{size_bytes / took_s / 1e6:,.0f} MB/s"
