"""The catalog: the one place that says which artifacts exist now.

It owns the current `Snapshot` and swaps it whole. There are three reasons to:

* the service was asked (see ``refresher`` for when) and answered, or failed to: then the last
listing
  stays, marked stale;
* an upload of our own is complete: `Catalog.add` shows it at once, and a listing that was asked for
  before the upload was complete, and so does not have it, does not take it away again. Uploads that
  become complete while one is being shown are shown together by whoever comes next, because what
  it costs to swap a snapshot grows with its size;
* artifacts expired: a second thread waits for the next `expires_at`, so that a service that hangs
  does not keep the dead alive.

Whoever has to know about changes subscribes. Listeners are called in order, never two at a time,
on the thread that made the change: the listing's, the expiry's, or that of a caller of `add`, for
whom the change is complete, listeners included, when `add` returns. Listeners must not call back
into the catalog, except to read `snapshot`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from artifactfs.catalog import snapshot
from artifactfs.catalog.refresher import (
    CLOSE_WAIT_S,
    RETRY_FIRST_S,
    Refresher,
)
from artifactfs.catalog.snapshot import Snapshot
from artifactfs.clock import SYSTEM_CLOCK, Clock
from artifactfs.model import Artifact

Listener = Callable[[Snapshot, Snapshot], None]

_LONGEST_SLEEP_S = 30.0  # the wall clock may be set, and a suspended machine's timers stand still

_log = logging.getLogger(__name__)


class Catalog:
    """What exists now.

    `list_artifacts` asks the service for everything and may raise. `_publishing` guards every swap
    of the snapshot, the uploads that listings may not know yet, and the calls of the listeners.
    `_wake`, taken inside it, guards `_next_expiry` and `_closed`; `_adding` guards `_to_add`.
    """

    def __init__(
        self,
        list_artifacts: Callable[[], Iterable[Artifact]],
        *,
        ttl_s: float,
        clock: Clock = SYSTEM_CLOCK,
        retry_first_s: float = RETRY_FIRST_S,
    ) -> None:
        self._list_artifacts = list_artifacts
        self._clock = clock
        self._publishing = threading.Lock()
        self._snapshot = Snapshot()
        self._next_expiry: datetime | None = None
        self._own: dict[str, tuple[Artifact, float]] = {}
        self._adding = threading.Lock()
        self._to_add: list[Artifact] = []
        self._listeners: tuple[Listener, ...] = ()
        self._refresher = Refresher(
            self._list_once, ttl_s=ttl_s, clock=clock, retry_first_s=retry_first_s
        )
        self._wake = threading.Condition()
        self._closed = False
        self._expiry: threading.Thread | None = None

    def start(self) -> None:
        """Start both threads; the first listing is asked for."""
        with self._wake:
            if self._expiry is not None or self._closed:
                return
            self._expiry = threading.Thread(
                target=self._expire_when_due, name="artifactfs-expiry", daemon=True
            )
            self._expiry.start()
        self._refresher.start()

    def close(self) -> None:
        """End both threads. Bounded, also if the service hangs; the snapshot stays readable."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._refresher.close()
        if self._expiry is not None:
            self._expiry.join(CLOSE_WAIT_S)

    @property
    def snapshot(self) -> Snapshot:
        """What exists now. At once, without a lock."""
        return self._snapshot

    @property
    def may_ask(self) -> bool:
        """Whether `ask` would do anything. At once."""
        return self._refresher.may_ask

    @property
    def overdue(self) -> bool:
        """Whether the service is being asked and has not answered in time. At once."""
        return self._refresher.overdue

    @property
    def failure(self) -> Exception | None:
        """What the last refresh failed with; None if it did not. At once."""
        return self._refresher.failure

    def is_fresh(self) -> bool:
        """Whether the listing is at most `ttl_s` old. At once."""
        return self._refresher.is_fresh()

    def refresh(self, wait_s: float | None) -> bool:
        """Ask the service now and wait at most `wait_s`; True if a new listing arrived."""
        return self._refresher.refresh(wait_s)

    def freshen(self, wait_s: float) -> bool:
        """Wait at most `wait_s` for a listing as new as promised, if the service is well.

        Before the first listing the wait is longer, `refresh.FIRST_WAIT_S`.
        """
        return self._refresher.freshen(wait_s)

    def ask(self, wait_s: float) -> bool:
        """Ask the service because of an unknown name, at most once a second; True if it listed."""
        return self._refresher.ask(wait_s)

    def add(self, artifact: Artifact) -> None:
        """Show an upload of our own, before any listing has it."""
        with self._adding:
            self._to_add.append(artifact)
        with self._publishing:
            with self._adding:
                added, self._to_add = self._to_add, []
            now_s = self._clock.monotonic_s()
            self._own.update((one.id, (one, now_s)) for one in added)
            self._publish(snapshot.with_artifacts(self._snapshot, added), since=added)

    def subscribe(self, listener: Listener) -> None:
        """Have `listener(old, new)` called whenever artifacts came, changed or went.

        And when the first listing arrives, though it may bring none.
        """
        with self._publishing:
            self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Stop calling `listener`."""
        with self._publishing:
            self._listeners = tuple(one for one in self._listeners if one != listener)

    def expire(self) -> None:
        """Let go what has expired by the clock; the expiry's thread does so when it is due."""
        with self._publishing:
            now = self._clock.now()
            if self._next_expiry is not None and self._next_expiry <= now:
                gone = snapshot.expired(self._snapshot, now)
                self._publish(snapshot.without(self._snapshot, gone))
                if not gone:  # what was due has been replaced since by what stays longer
                    with self._wake:
                        self._next_expiry = snapshot.next_expiry(self._snapshot)

    def _list_once(self) -> None:
        asked_at, began_s = self._clock.now(), self._clock.monotonic_s()
        try:
            by_id = snapshot.gathered(self._snapshot.by_id, self._list_artifacts())
        except Exception as error:
            with self._publishing:
                said = str(error) or type(error).__name__
                self._publish(snapshot.failed(self._snapshot, said))
            raise
        with self._publishing:
            self._keep_own(by_id, began_s)
            self._publish(snapshot.listed(self._snapshot, by_id, asked_at))

    def _keep_own(self, by_id: dict[str, Artifact], began_s: float) -> None:
        """Put into a listing what was added after it was asked for, and forget what was before."""
        young = {one: own for one, own in self._own.items() if own[1] >= began_s}
        self._own = young
        for artifact_id, (artifact, _) in young.items():
            by_id.setdefault(artifact_id, artifact)

    def _publish(self, new: Snapshot, since: Sequence[Artifact] | None = None) -> None:
        """Swap the snapshot. `since` is all that has come, where nothing else has changed."""
        old = self._snapshot
        if new is old:
            return
        self._snapshot = new
        if new.version != old.version or new.fetched_at != old.fetched_at:
            expiry = snapshot.next_expiry(new, since)
            with self._wake:
                if since is not None and self._next_expiry is not None:
                    expiry = min(expiry or self._next_expiry, self._next_expiry)
                if expiry != self._next_expiry:
                    self._next_expiry = expiry
                    self._wake.notify_all()
        if new.version == old.version and (old.fetched_at is not None or new.fetched_at is None):
            return
        for listener in self._listeners:
            try:
                listener(old, new)
            except Exception:  # noqa: BLE001 - one listener's fault is not the others'
                _log.exception("a listener could not take in the new listing")

    def _expire_when_due(self) -> None:
        while True:
            with self._wake:
                if self._closed:
                    return
                pause_s = _LONGEST_SLEEP_S
                if self._next_expiry is not None:
                    left_s = (self._next_expiry - self._clock.now()).total_seconds()
                    pause_s = min(left_s, _LONGEST_SLEEP_S)
                if pause_s > 0:
                    self._wake.wait(pause_s)
                    continue
            self.expire()
