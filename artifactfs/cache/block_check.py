"""Looks at contents that nobody has open: what their sidecars say, and whether it is true."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from artifactfs.cache import eviction_order
from artifactfs.cache.blocks import (
    block_count,
    checksum,
    range_of,
)
from artifactfs.cache.cache_layout import CachePaths
from artifactfs.cache.disk_format import (
    HEADER_BYTES,
    Sidecar,
    peek,
)


def header_of(place: CachePaths) -> tuple[int, int, bool] | None:
    """Size, cached bytes and "verified", as its sidecar's header says; None if there is none."""
    try:
        descriptor = os.open(place.sidecar, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return peek(os.read(descriptor, HEADER_BYTES))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def check_grains(place: CachePaths) -> tuple[int, int]:
    """Read every grain that is stored, and drop those that are wrong: how many of each."""
    header = header_of(place)
    if header is None:
        eviction_order.remove(place)
        return 0, 0
    size_bytes = header[0]
    checked = bad = right_bytes = 0
    with contextlib.suppress(OSError), contextlib.ExitStack() as files:
        file = files.enter_context(Path(place.path).open("rb", buffering=0))
        sidecar = Sidecar.existing(place.sidecar, size_bytes, os.fstat(file.fileno()).st_ino)
        if sidecar is None:
            eviction_order.remove(place)
            return 0, 0
        files.callback(sidecar.close)
        sums = sidecar.sums(0, block_count(size_bytes))
        for grain, total in enumerate(sums):
            if not total:
                continue
            checked += 1
            span = range_of(grain, grain + 1, size_bytes)
            data = os.pread(file.fileno(), len(span), span.start)
            if len(data) != len(span) or checksum(data) != total:
                sidecar.forget(grain, grain + 1)
                bad += 1
            else:
                right_bytes += len(span)
        if bad:
            sidecar.describe(right_bytes, verified=False)
    return checked, bad
