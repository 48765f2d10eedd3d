"""Where the service has redirected downloads to, for as long as that works.

A target is remembered once it has answered. The first failure of it, whatever that is, makes it
forgotten, because stores answer an expired signature with nearly any status, and the service is
asked again. Readers that meet the same expiry share that one question: the first asks, the others
wait until it knows whether the new target answers, and then use that one. Only what the service
itself says, or a target that it has just named, is an error of its readers.

`RedirectTargets` knows no HTTP: `Downloader` asks, and tells it how that went.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Generic, TypeVar

from cachetools import LRUCache

T = TypeVar("T")

REMEMBERED_TARGETS = 4096


class RedirectTargets(Generic[T]):
    """The targets of artifacts, and the questions that are being asked. Thread-safe.

    A question is a future: it ends when there is a target that works, or none, or with the error
    that all its readers get. The last one is kept, with the target whose failure it followed, for
    readers that meet that failure late.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._targets: LRUCache[str, T] = LRUCache(REMEMBERED_TARGETS)
        self._questions: LRUCache[str, tuple[T, Future[None]]] = LRUCache(REMEMBERED_TARGETS)

    def find(self, key: str) -> tuple[T | None, Future[None] | None]:
        """Return the target, or else the question for it that another reader asks."""
        with self._lock:
            target = self._targets.get(key)
            _, question = self._questions.get(key, (None, None))
            if target is not None or question is None or question.done():
                return target, None
            return None, question

    def forget(self, key: str, target: T) -> tuple[Future[None], bool]:
        """Forget a target that has failed.

        Return the question that follows from it, and whether the caller must ask and `settle` it.
        """
        with self._lock:
            if self._targets.get(key) is target:
                del self._targets[key]
            failed, question = self._questions.get(key, (None, None))
            if question is not None and (failed is target or not question.done()):
                return question, False
            question = Future()
            if key in self._targets:  # a reader that had none has asked
                question.set_result(None)
                return question, False
            self._questions[key] = target, question
            return question, True

    def remember(self, key: str, target: T) -> None:
        """Remember a target that has answered; readers that wait for one get it."""
        with self._lock:
            self._targets[key] = target
        self.settle(key)

    def settle(self, key: str, error: Exception | None = None) -> None:
        """End the question that is being asked, if there is one."""
        with self._lock:
            _, question = self._questions.get(key, (None, None))
            if question is None or question.done():
                return
            if error is None:
                question.set_result(None)
            else:
                question.set_exception(error)
