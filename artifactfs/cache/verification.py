"""The SHA-256 of whole contents, computed behind the bytes as they come.

One thread *follows* each content that is being read in order: as far as its grains are here from
the beginning on, they are read back from the page cache, where they still are, and hashed. When the
last grain arrives there is little left to hash, so that a file is verified, and can be handed to
the kernel, when its first reader is done with it. What came out of order is hashed when the content
is whole, from where the thread had got to.

Hashing has a thread of its own because it runs without the interpreter's lock and must not keep a
connection idle. It goes on when the content is closed meanwhile, so that a file which is always
read in one go is verified once and not begun again each time. Many contents take turns of
`TURN_BYTES`: a small one does not wait for a huge one.

Grains that an earlier mount stored are hashed only when everything is here, and checked against
their own sums on the way: one that has rotted is dropped alone. Whenever bytes are dropped the
content's `epoch` moves on, and its hashing begins anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import deque

from artifactfs.cache.blocks import BLOCK_BYTES
from artifactfs.cache.verdict import ContentVerdict, HashPosition

HASH_BYTES = 1 << 18
TURN_BYTES = 16 << 20
_JOIN_S = 5.0

_log = logging.getLogger(__name__)


class Verifier:
    """The hashing thread. `_wake` guards the queue; each content is in it once at most."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._queue: deque[ContentVerdict] = deque()
        self._queued: set[ContentVerdict] = set()
        self._ended = threading.Event()
        self._view = memoryview(bytearray(HASH_BYTES))
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)

    def open(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, for a bounded time."""
        with self._wake:
            self._ended.set()
            queue = list(self._queue)
            self._queue.clear()
            self._queued.clear()
            self._wake.notify()
        for proof in queue:
            proof.backing.release()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    def follow(self, proof: ContentVerdict) -> None:
        """Hash what is here of it and was not hashed yet, soon. At once."""
        with self._wake:
            if proof in self._queued or self._ended.is_set():
                return
            proof.backing.retain()
            self._queue.append(proof)
            self._queued.add(proof)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._ended.is_set():
                    self._wake.wait()
                if self._ended.is_set():
                    return
                proof = self._queue.popleft()
                self._queued.discard(proof)
            try:
                if self._turn(proof):
                    self.follow(proof)
            except Exception:  # noqa: BLE001 - a thread that ends would verify nothing more
                _log.exception("%s could not be verified", proof.artifact.id)
            finally:
                proof.backing.release()

    def _turn(self, proof: ContentVerdict) -> bool:
        """Hash some of it; whether there is more to do at once."""
        following = proof.following
        if following is None or following.epoch != proof.table.epoch:
            following = proof.following = HashPosition(hashlib.sha256(), 0, proof.table.epoch)
        descriptor = proof.backing.descriptor
        if not proof.to_verify or descriptor < 0:
            return False
        stop = proof.table.hashable(following.position, TURN_BYTES)
        right = True
        while right and following.position < stop:
            if self._ended.is_set():
                return False
            view = self._view[: min(HASH_BYTES, stop - following.position)]
            count = os.preadv(descriptor, [view], following.position)
            if not proof.reading.stored_right(following.position, view[:count]):
                return True
            following.digest.update(view[:count])
            following.position += count
            right = count == len(view)  # otherwise somebody has cut the file off
        if following.epoch != proof.table.epoch:
            return True
        if right and following.position < proof.table.size_bytes:
            return proof.to_verify
        right = right and following.digest.hexdigest() == proof.artifact.sha256
        if not proof.compared(right, following.epoch):
            return True
        proof.backing.save()
        return False


assert TURN_BYTES % HASH_BYTES == HASH_BYTES % BLOCK_BYTES == 0
