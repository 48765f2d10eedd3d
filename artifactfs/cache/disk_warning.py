"""Says once what is wrong with the cache's disk.

A disk that is full or fails makes reads slower, and each read and each content would have something
to say about it. One line for each cause is enough.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Final

_REMEDIES: Final = {
    errno.ENOSPC: "`artifactfs cache clear` makes room, cache.dir chooses another disk",
    errno.EDQUOT: "`artifactfs cache clear` makes room, cache.dir chooses another disk",
    errno.EROFS: "remount it for writing, or choose another directory with cache.dir",
}
_OTHERWISE: Final = "look at the disk; `artifactfs cache clear` or another cache.dir may help"

_log = logging.getLogger(__name__)


class DiskWarning:
    """The warnings of one store, once for each errno. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._told: set[int | None] = set()

    def tell(self, what: str, error: OSError) -> None:
        """Log `what` happened because of `error`, unless that cause was logged before."""
        with self._lock:
            if error.errno in self._told:
                return
            self._told.add(error.errno)
        cause = os.strerror(error.errno) if error.errno else str(error)
        remedy = _REMEDIES.get(error.errno or 0, _OTHERWISE)
        _log.warning("%s: %s (cache directory %s); %s", what, cause, self._directory, remedy)
