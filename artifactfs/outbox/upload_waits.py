"""Waiting until things are on the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from artifactfs.outbox.entry_view import EntryView
from artifactfs.outbox.filenames import lies_below
from artifactfs.outbox.state import EntryState, OutboxEntry

_LOOK_S = 1.0
_ENDED = frozenset({EntryState.FAILED, EntryState.INTERRUPTED})


class UploadWaits:
    """Who waits for what. `_changed` is notified after every change, and at the end."""

    def __init__(self, view: EntryView) -> None:
        self._view = view
        self._changed = threading.Condition()
        self._waiters = 0
        self._over = False

    def tell(self) -> None:
        """Something has changed."""
        if self._waiters:
            with self._changed:
                self._changed.notify_all()

    def end(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def until_settled(self, path: str | None, timeout_s: float | None) -> list[OutboxEntry]:
        """Wait until nothing at or below `path` is on its way.

        Returns what is not uploaded then: failed, interrupted, waiting for its name, still open,
        or, after the time-out, still on its way.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._wait(lambda: not self._is_pending(path), deadline_s)
        return [one for one in self.chosen(path) if one.state is not EntryState.UPLOADED]

    def for_entry(self, entry_id: int, timeout_s: float) -> OutboxEntry | None:
        """Wait until one entry is uploaded or will not be by itself; how it is then.

        None if it has gone. One that is returned still pending was waited for too long.
        """

        def is_over() -> bool:
            entry = self._view.by_id(entry_id)
            return entry is None or not entry.is_pending or entry.state in _ENDED

        self._wait(is_over, time.monotonic() + timeout_s)
        return self._view.by_id(entry_id)

    @property
    def is_over(self) -> bool:
        """Whether `end` was called."""
        return self._over

    def _wait(self, is_over: Callable[[], bool], deadline_s: float | None) -> None:
        with self._changed:
            self._waiters += 1
            try:
                while not self._over and not is_over():
                    left_s = None if deadline_s is None else deadline_s - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        return
                    self._changed.wait(_LOOK_S if left_s is None else min(_LOOK_S, left_s))
            finally:
                self._waiters -= 1

    def _is_pending(self, path: str | None) -> bool:
        if not path:
            return self._view.tally().pending_files > 0
        return any(entry.is_pending for entry in self.chosen(path))

    def chosen(self, path: str | None) -> list[OutboxEntry]:
        """Every entry at or below `path`."""
        if not path:
            return self._view.entries()
        found = self._view.find(path)
        if isinstance(found, OutboxEntry):
            return [found]
        return [one for one in self._view.entries() if lies_below(one.path, path)]
