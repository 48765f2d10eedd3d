"""INIT: what this kernel offers, what of it we take, and why.

Pure but for `deadline_s`, which reads two numbers of /proc.

What is asked for, if it is offered:

* ASYNC_READ, BIG_WRITES and MAX_PAGES (256): several reads of one file at a time, 1 MiB each way;
* DO_READDIRPLUS and its AUTO: a listing brings the attributes along where they are asked for
  afterwards, so ``ls -l`` of 10 000 entries is sixty requests instead of ten thousand, and a plain
  ``ls`` of 100 000 need not make what it does not show: 1.8 s less of 4.8;
* PARALLEL_DIROPS: a look-up that waits does not hold up others in its directory;
* ATOMIC_O_TRUNC: ``open(O_TRUNC)`` is one step;
* CACHE_SYMLINKS: a link's target is asked for once;
* HANDLE_KILLPRIV_V2: without it every write asks for ``security.capability`` first; our modes have
  no set-uid bits to clear;
* EXPLICIT_INVAL_DATA: a size that is new to the kernel does not drop the file's pages: dropping
  pages waits for reads under way, and must not happen to a file that is open;
* ABORT_ERROR: tells an abort from an unmount;
* INIT_EXT and PASSTHROUGH: see `passthrough`;
* DIRECT_IO_ALLOW_MMAP: what is not cached, such as everything in drop/, can be mapped shared, which
  databases and array libraries do.

What is not: WRITEBACK_CACHE (what ``write`` accepted must have reached the driver before ``close``
promises anything), AUTO_INVAL_DATA (drops pages), POSIX and BSD locks (the kernel's own do).

`max_background` is far above its default of 12: reads that wait for a dead service count as
background requests, and twelve of them would hold up everybody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from artifactfs.errors import MountError
from artifactfs.fuse.native import protocol

MAX_PAGES: Final = 256
PAGE_BYTES: Final = 4096
MAX_WRITE_BYTES: Final = MAX_PAGES * PAGE_BYTES
BUFFER_BYTES: Final = MAX_WRITE_BYTES + PAGE_BYTES
MAX_READAHEAD_BYTES: Final = 16 << 20
MAX_BACKGROUND: Final = 1024
CONGESTION: Final = 768
_KERNEL_TIMER_S: Final = 15
_SYSCTL: Final = Path("/proc/sys/fs/fuse")

WANTED: Final = (
    protocol.ASYNC_READ
    | protocol.ATOMIC_O_TRUNC
    | protocol.BIG_WRITES
    | protocol.DO_READDIRPLUS
    | protocol.READDIRPLUS_AUTO
    | protocol.PARALLEL_DIROPS
    | protocol.ABORT_ERROR
    | protocol.MAX_PAGES
    | protocol.CACHE_SYMLINKS
    | protocol.EXPLICIT_INVAL_DATA
    | protocol.HANDLE_KILLPRIV_V2
    | protocol.INIT_EXT
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What the kernel says in INIT."""

    major: int
    minor: int
    max_readahead_bytes: int
    flags: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """What holds for the life of the connection."""

    kernel_minor: int
    minor: int
    flags: int
    max_write_bytes: int
    max_readahead_bytes: int
    stack_depth: int

    @property
    def passthrough(self) -> bool:
        """Whether the kernel will read files by itself, as far as INIT is concerned."""
        return bool(self.flags & protocol.PASSTHROUGH)

    @property
    def maps_direct_io(self) -> bool:
        """Whether files that are not cached can be mapped, and writes to them drop cached pages."""
        return bool(self.flags & protocol.DIRECT_IO_ALLOW_MMAP)

    def pack(self) -> bytes:
        """The answer to INIT."""
        return protocol.INIT_OUT.pack(
            protocol.MAJOR,
            self.minor,
            self.max_readahead_bytes,
            self.flags & 0xFFFFFFFF,
            MAX_BACKGROUND,
            CONGESTION,
            self.max_write_bytes,
            1,
            MAX_PAGES,
            0,
            self.flags >> 32,
            self.stack_depth if self.passthrough else 0,
            0,
        )


def read_offer(body: memoryview) -> Offer:
    """INIT's body. Raises `struct.error` if it is too short to be one."""
    major, minor, readahead, flags = protocol.INIT_IN.unpack_from(body)
    if flags & protocol.INIT_EXT and len(body) >= protocol.INIT_IN_FLAGS2.size:
        (flags2,) = protocol.INIT_IN_FLAGS2.unpack_from(body)
        flags |= flags2 << 32
    return Offer(major, minor, readahead, flags)


def agree(offer: Offer, *, stack_depth: int, passthrough: bool = True) -> Agreement:
    """What to answer. Raises `MountError` if the kernel is too old."""
    if (offer.major, offer.minor) < (protocol.MAJOR, protocol.OLDEST_MINOR):
        raise MountError(
            f"this kernel speaks FUSE {offer.major}.{offer.minor}, "
            f"{protocol.MAJOR}.{protocol.OLDEST_MINOR} (Linux 5.4) is needed",
            remedy="use --fuse fusepy",
        )
    flags = offer.flags & WANTED
    if flags & protocol.INIT_EXT:
        flags |= offer.flags & protocol.DIRECT_IO_ALLOW_MMAP
        if passthrough:
            flags |= offer.flags & protocol.PASSTHROUGH
    return Agreement(
        kernel_minor=offer.minor,
        minor=min(offer.minor, protocol.MINOR),
        flags=flags,
        max_write_bytes=MAX_WRITE_BYTES,
        max_readahead_bytes=min(max(offer.max_readahead_bytes, 1 << 17), MAX_READAHEAD_BYTES),
        stack_depth=stack_depth,
    )


def deadline_s(sysctl: Path = _SYSCTL) -> float | None:
    """How long a request may wait before it must be answered; None: for ever.

    The kernel aborts the whole connection when one request is older than the administrator allows
    (``max_request_timeout``, else ``default_request_timeout``, in seconds, rounded up to its timer
    of 15 s). Two thirds of that leave room for the answer.
    """
    limits = [_number(sysctl / name) for name in ("max_request_timeout", "default_request_timeout")]
    allowed = [limit for limit in limits if limit > 0]
    if not allowed:
        return None
    return max(min(allowed), _KERNEL_TIMER_S) * 2 / 3


def _number(path: Path) -> int:
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return 0
