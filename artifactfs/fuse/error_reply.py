"""Every exception becomes one errno and, once, one log line.

No exception may reach a binding's library: fusepy's wrapper, for one, turns an `OSError` without an
errno into a random number or into success. So each operation runs inside `answer`, which is the
only place in ``fuse`` that catches everything.

Ordinary refusals (a name that is not there, a directory that is read-only) are not logged: they
are answers, not troubles. Troubles are logged with the operation, the subject, the cause and the
remedy; the same trouble again within a minute is not repeated, so that a program that reads a
broken file in a loop does not fill the log.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from cachetools import TTLCache

from artifactfs.errors import (
    ArtifactfsError,
    Cancelled,
    errno_of,
)
from artifactfs.system import NO_ATTRIBUTE

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ORDINARY = frozenset(
    {
        errno.EACCES,
        errno.EBADF,
        errno.EEXIST,
        errno.EINTR,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        NO_ATTRIBUTE,
        errno.ENOENT,
        errno.ENOSYS,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.ENOTSUP,
        errno.ENOTTY,
        errno.ENXIO,
        errno.EPERM,
        errno.ERANGE,
        errno.EROFS,
        errno.EXDEV,
    }
)


class ErrorReplies:
    """Turns exceptions into errnos. The memory of what was logged is guarded by `_lock`."""

    def __init__(self, repeat_after_s: float = 60.0) -> None:
        self._lock = threading.Lock()
        self._told: TTLCache[tuple[str, str, str], bool] = TTLCache(1024, repeat_after_s)

    def answer(self, operation: str, subject: str, act: Callable[[], T]) -> T | int:
        """The result of `act`, or the negated errno of what it raised: always below zero."""
        try:
            return act()
        except BaseException as error:  # noqa: BLE001 - nothing may pass, whatever it is
            return -self.errno_for(operation, subject, error)

    def errno_for(self, operation: str, subject: str, error: BaseException) -> int:
        """The errno of `error`, above zero, after it was logged if it is a trouble."""
        number = errno_of(error)
        if isinstance(error, Cancelled) or (isinstance(error, OSError) and number in _ORDINARY):
            return number
        try:
            self._tell(operation, subject, error, number)
        except BaseException:  # noqa: BLE001 - without memory or stack the answer matters more
            return number
        return number

    def _tell(self, operation: str, subject: str, error: BaseException, number: int) -> None:
        try:
            words, shown = str(error) or type(error).__name__, repr(error)
        except Exception:  # noqa: BLE001 - an error that cannot show itself is still told
            words = shown = f"{type(error).__name__} without words"
        key = (operation, subject, shown)
        with self._lock:
            known = key in self._told
            self._told[key] = True
        if known:
            return
        unforeseen = not isinstance(error, ArtifactfsError | OSError)
        _log.error(
            "%s %s: %s [%s]",
            operation,
            subject,
            words,
            errno.errorcode.get(number, str(number)),
            exc_info=error if unforeseen else None,
        )
