"""Which way a file takes to the service: pure.

Small files go through the controller (one request), larger ones directly to the object store, large
ones in parts. A way that the service refused for this file or does not have at all falls away, and
the next that fits is tried. A file that may be there already (its hash is known, or an earlier
attempt ended without an answer) asks first by ``direct`` or ``multipart``, which answer "exists"
without a byte sent; whether an earlier attempt has arrived is looked for in the list before.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

CONTROLLER_MOST_BYTES = 2_000_000_000
DIRECT_MOST_BYTES = 5 << 30


class Way(Enum):
    """How to upload."""

    CONTROLLER = "controller"
    DIRECT = "direct"
    MULTIPART = "multipart"


def ways(
    size_bytes: int,
    *,
    controller_max_bytes: int,
    multipart_min_bytes: int,
    refused: Collection[Way] = (),
    may_exist: bool = False,
) -> list[Way]:
    """The ways that fit a file of this size, best first."""
    if size_bytes <= controller_max_bytes and not may_exist:
        order = [Way.CONTROLLER, Way.DIRECT, Way.MULTIPART]
    elif size_bytes < multipart_min_bytes:
        order = [Way.DIRECT, Way.MULTIPART, Way.CONTROLLER]
    else:
        order = [Way.MULTIPART, Way.DIRECT, Way.CONTROLLER]
    most_bytes = {Way.CONTROLLER: CONTROLLER_MOST_BYTES, Way.DIRECT: DIRECT_MOST_BYTES}
    return [
        way
        for way in order
        if way not in refused
        and size_bytes <= most_bytes.get(way, size_bytes)
        and (way is not Way.MULTIPART or size_bytes > 0)
    ]
