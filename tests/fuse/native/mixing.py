"""A driver whose files become complete and are evicted all the time, and readers that check them.

``python -m tests.fuse.native.mixing serve MOUNTPOINT BACKING`` mounts; it prints ``ready``, and
its facts when it has been unmounted. ``… read MOUNTPOINT SEED SECONDS`` opens, reads and maps at
random, and fails at the first error or wrong byte.

A file is complete (its backing file may be passed through) or not (bytes come by `request`, a few
milliseconds later). `Turner` flips that every few milliseconds; an eviction unlinks the backing
file, and the next completion makes another one.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from artifactfs.byte_range import ByteRange
from artifactfs.fuse.binding import MountOptions
from artifactfs.fuse.native import NativeBinding
from artifactfs.vfs.node import (
    FOREVER_S,
    Attributes,
    Directory,
    DirectoryEntry,
    Done,
    EntryChanged,
    File,
    FilesystemSpace,
    Handle,
    Kind,
    Node,
)
from tests.fuse.memory_nodes import PooledTicket

FILES = 5
SIZES = (1, 4096, 300_001, 1 << 20, (2 << 20) + 7)
FLIP_S = 0.003


def content_of(number: int) -> bytes:
    """The right bytes of file `number`."""
    return random.Random(number).randbytes(SIZES[number])


class MixedFile(File):
    """`_lock` guards `_fd`, the backing file's descriptor while the file is complete."""

    def __init__(self, number: int, backing: Path, pool: ThreadPoolExecutor) -> None:
        self.number = number
        self.content = content_of(number)
        self.pool = pool
        self._backing = backing
        self._lock = threading.Lock()
        self._fd: int | None = None

    @property
    def ino(self) -> int:
        return 10 + self.number

    @property
    def lifetime_s(self) -> float:
        return FOREVER_S

    def attributes(self) -> Attributes:
        return Attributes(self.ino, Kind.FILE, 0o444, len(self.content), 1, 0, 0)

    def open(self, flags: int) -> Handle:
        with self._lock:
            return MixedHandle(self, None if self._fd is None else os.dup(self._fd))

    def flip(self) -> None:
        """Complete it, or evict it."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
                return
            path = self._backing / f"{self.number}-{time.monotonic_ns()}"
            path.write_bytes(self.content)
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            path.unlink()


class MixedHandle(Handle):
    def __init__(self, file: MixedFile, fd: int | None) -> None:
        self._file = file
        self._fd = fd

    @property
    def keep_cache(self) -> bool:
        return True

    def try_read(self, start: int, stop: int) -> bytes | None:
        if self._fd is not None:
            return os.pread(self._fd, stop - start, start)
        return self._file.content[start:stop] if random.random() < 0.3 else None

    def request(self, span: ByteRange, done: Done) -> PooledTicket | None:
        if random.random() < 0.2:
            return None
        return PooledTicket(self._file.pool, lambda: time.sleep(random.random() / 200), done)

    def read(self, start: int, stop: int) -> bytes:
        return self._file.content[start:stop]

    def backing_fd(self) -> int | None:
        return self._fd

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)


class MixedDirectory(Directory):
    def __init__(self, files: Sequence[MixedFile]) -> None:
        self.files = files

    @property
    def ino(self) -> int:
        return 1

    def attributes(self) -> Attributes:
        return Attributes(1, Kind.DIRECTORY, 0o555, 0, 2, 0, 0)

    def find(self, name: str) -> Node | None:
        return self.files[int(name)]

    def entries(self) -> list[DirectoryEntry]:
        return [DirectoryEntry(str(file.number), file) for file in self.files]


class MixedTree:
    def __init__(self, root: MixedDirectory) -> None:
        self.root = root

    def space(self) -> FilesystemSpace:
        return FilesystemSpace(1 << 30, 1 << 29, FILES)

    def subscribe(self, listener: Callable[[EntryChanged], None]) -> None:
        """Nothing ever changes but where the bytes are."""

    def unsubscribe(self, listener: Callable[[EntryChanged], None]) -> None:
        """See `subscribe`."""


class Turner:
    """Flips files until it is closed."""

    def __init__(self, files: Sequence[MixedFile]) -> None:
        self._files = files
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(FLIP_S):
            random.choice(self._files).flip()


def serve(mountpoint: Path, backing: Path) -> None:
    pool = ThreadPoolExecutor(4)
    files = [MixedFile(number, backing, pool) for number in range(FILES)]
    turner = Turner(files)
    binding = NativeBinding(backing_directory=backing)
    turner.start()
    try:
        options = MountOptions("mixing", os.getuid(), os.getgid())
        tree = MixedTree(MixedDirectory(files))
        binding.run(tree, mountpoint, options, lambda: print("ready", flush=True))  # noqa: T201
    finally:
        turner.close()
        pool.shutdown()
    sys.stdout.write(json.dumps(binding.facts) + "\n")


def read(mountpoint: Path, seed: int, seconds: float) -> None:
    chance = random.Random(seed)
    contents = [content_of(number) for number in range(FILES)]
    held: list[tuple[int, int]] = []
    mapped: list[tuple[int, mmap.mmap]] = []
    checks = 0
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        number = chance.randrange(FILES)
        right = contents[number]
        match chance.randrange(6):
            case 0:
                held.append((number, os.open(mountpoint / str(number), os.O_RDONLY)))
            case 1:
                with (mountpoint / str(number)).open("rb") as file:
                    mapped.append((number, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)))
            case 2:
                assert (mountpoint / str(number)).read_bytes() == right
            case 3 if held:
                number, fd = chance.choice(held)
                start = chance.randrange(SIZES[number])
                size = chance.choice((1, 4096, 100_000, 1 << 20))
                assert os.pread(fd, size, start) == contents[number][start : start + size]
            case 4 if mapped:
                number, view = chance.choice(mapped)
                start = chance.randrange(SIZES[number])
                assert view[start : start + 9000] == contents[number][start : start + 9000]
            case 5:
                with (mountpoint / str(number)).open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while len(held) > 4 or (held and chance.random() < 0.2):
            os.close(held.pop(chance.randrange(len(held)))[1])
        while len(mapped) > 4 or (mapped and chance.random() < 0.2):
            mapped.pop(chance.randrange(len(mapped)))[1].close()
        checks += 1
    sys.stdout.write(f"{checks}\n")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        read(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
