"""Commands that are spelled as extended attributes to be set.

``artifactfs refresh``, ``retry`` and ``pin`` reach a running mount this way, with no socket and no
signal: whoever may use the mount may use them. They are never listed nor shown, so that copying a
file with its attributes carries none out.

    user.artifactfs.refresh   any directory                  ask the service for its listing now
    user.artifactfs.retry     ``drop/`` and what is in it    queue what failed or was interrupted
    user.artifactfs.leave     the mount's root               "1": do not wait for uploads once it is
                                                             unmounted, "0": do after all
    user.artifactfs.pin       an artifact                    "1" keeps it in the cache, "0" does not

All but ``leave`` are orders (``orders``): setxattr(2) returns when the order is recorded, and
``status.json`` shows its end.

Any other attribute is refused: with EROFS outside ``drop/``, as a read-only file system does, and
with EOPNOTSUPP inside, which ``cp -a`` and ``rsync -X`` take as "cannot be kept here" and go on.
"""

from __future__ import annotations

import errno
import os

from artifactfs.catalog import Catalog
from artifactfs.errors import TimedOut
from artifactfs.jobs import JobRegistry
from artifactfs.model import Artifact
from artifactfs.tree.node import read_only
from artifactfs.tree.orders import Orders, word_of
from artifactfs.tree.rooms import Store

REFRESH = "user.artifactfs.refresh"
RETRY = "user.artifactfs.retry"
PIN = "user.artifactfs.pin"
LEAVE = "user.artifactfs.leave"

REFRESH_WAIT_S = 30.0


class Commands:
    """What a mount can be told to do, each as an order. No method blocks; thread-safe."""

    def __init__(self, catalog: Catalog, store: Store, jobs: JobRegistry | None = None) -> None:
        self.orders = Orders()
        self._catalog = catalog
        self._store = store
        self._jobs = jobs

    def close(self) -> None:
        """Begin no further order."""
        self.orders.close()

    def refresh(self, value: bytes) -> None:
        """Have the service asked for its listings now."""
        self.orders.give(value, self._refresh)

    def refresh_or_refuse(self, name: str, value: bytes) -> None:
        """What a read-only directory can be told."""
        if name != REFRESH:
            read_only()
        self.refresh(value)

    def pin_or_refuse(self, artifact: Artifact, name: str, value: bytes) -> None:
        """What an artifact can be told."""
        if name != PIN:
            read_only()
        act = self._store.pin if yes_or_no(name, value) else self._store.unpin
        self.orders.give(value, lambda: act(artifact))

    def _refresh(self) -> None:
        """Wait for new listings. Raises what it failed with, or `TimedOut`."""
        listed = self._catalog.refresh(REFRESH_WAIT_S)
        failure = self._catalog.failure
        if self._jobs is not None:
            self._jobs.refresh(REFRESH_WAIT_S)
        if listed:
            return
        if failure is not None:
            raise failure
        raise TimedOut(f"the service has not listed its artifacts within {REFRESH_WAIT_S:.0f} s")


def yes_or_no(name: str, value: bytes) -> bool:
    """What "1" or "0" says. Raises `OSError` EINVAL for anything else."""
    word = word_of(value)
    if word not in (b"0", b"1"):
        raise OSError(errno.EINVAL, f"{name} is 1 or 0")
    return word == b"1"


def not_kept(name: str) -> OSError:
    """That ``drop/`` keeps no attributes."""
    return OSError(errno.EOPNOTSUPP, f"{os.strerror(errno.EOPNOTSUPP)}: {name}")
