"""Orders: commands to a mount that take longer than a system call may.

A command arrives as setxattr(2), which the kernel carries out with the file's or directory's lock
held: no other process can create, look up or remove anything there meanwhile, and a signal does not
free the caller. So a command that may wait for the network or for much disk work is only recorded
there; a worker thread carries it out, and ``status.json`` shows what has become of it:

    "orders": {"pending": ["7f3a..."], "ended": {"91c0...": null, "b2d4...": "why it failed"}}

The value of the attribute is a word, then optionally a blank and the id that its sender chose for
this order: ``1 7f3a...``. An order without an id is carried out and its failure logged, but it is
not listed. The ids of the last `MAX_ENDED` orders that have ended are kept.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

WORKERS: Final = 16
MAX_ENDED: Final = 1000
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")

_log = logging.getLogger(__name__)


class PendingOrders:
    """The orders of one mount, carried out by at most `WORKERS` threads.

    Thread-safe. `_lock` guards `_pending` and `_ended`.
    """

    def __init__(self) -> None:
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="order")
        self._lock = threading.Lock()
        self._pending: set[str] = set()
        self._ended: OrderedDict[str, str | None] = OrderedDict()

    def close(self) -> None:
        """Begin no further order. Does not wait for those under way."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def give(self, value: bytes, act: Callable[[], object]) -> None:
        """Have `act` carried out by a worker thread. Does not block.

        `value` is what the attribute was set to. Raises `OSError` EINVAL where its id is none, and
        ENOTCONN once the mount ends.
        """
        order_id = _id_in(value)
        if order_id is not None:
            with self._lock:
                self._pending.add(order_id)
        try:
            self._workers.submit(self._carry_out, order_id, act)
        except RuntimeError as error:
            with self._lock:
                self._pending.discard(order_id or "")
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)) from error

    def document(self) -> dict[str, object]:
        """Return what ``status.json`` says of the orders. Does not block."""
        with self._lock:
            return {"pending": sorted(self._pending), "ended": dict(self._ended)}

    def _carry_out(self, order_id: str | None, act: Callable[[], object]) -> None:
        failure: str | None = None
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whoever gave the order reads it
            said = (error.strerror if isinstance(error, OSError) else None) or str(error)
            failure = " ".join(said.split()) or type(error).__name__
            if order_id is None:
                _log.warning("a command could not be carried out: %s", failure)
        if order_id is None:
            return
        with self._lock:
            self._pending.discard(order_id)
            self._ended[order_id] = failure
            while len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)


def word_of(value: bytes) -> bytes:
    """Return the first word of an attribute's value, which says what is wanted."""
    return value.partition(b" ")[0]


def _id_in(value: bytes) -> str | None:
    _, blank, raw = value.partition(b" ")
    if not blank:
        return None
    order_id = raw.decode("ascii", "replace")
    if not _ID.fullmatch(order_id):
        raise OSError(errno.EINVAL, "the id of an order has letters, digits and '-' only")
    return order_id
