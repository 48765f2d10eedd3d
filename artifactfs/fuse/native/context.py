"""What the operations share, and how one of them is carried out by another thread.

`SessionContext` is the sum of one mount's parts; the operations get it whole, because each of them
needs a few of its parts and no two the same. `later` is the only way from the reading thread to a
pool.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass

from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.device import Device
from artifactfs.fuse.native.handles import HandleTable
from artifactfs.fuse.native.inodes import InodeTable
from artifactfs.fuse.native.passthrough import Passthrough
from artifactfs.fuse.native.protocol import AttributeEncoder
from artifactfs.fuse.native.reader import ReaderThreads
from artifactfs.fuse.native.requests import (
    WAITS,
    InFlightRequests,
    Interruptible,
    Request,
)
from artifactfs.fuse.native.worker_pools import WorkerPool, WorkerPools
from artifactfs.vfs.node import Tree

_log = logging.getLogger(__name__)


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class SessionContext:
    """The parts of one mount."""

    tree: Tree
    device: Device
    calls: InFlightRequests
    inodes: InodeTable
    handles: HandleTable
    pools: WorkerPools
    stat: AttributeEncoder
    passthrough: Passthrough
    crew: ReaderThreads

    def later(
        self,
        pool: WorkerPool,
        call: Request,
        act: Callable[[], bytes],
        *,
        manners: Interruptible = WAITS,
        undo: Callable[[], None] = _nothing,
        after: Callable[[], None] = _nothing,
        brief: bool = False,
        again: bool = False,
    ) -> None:
        """Have `act` carried out by `pool`; what it returns is the answer.

        What is nearly always over at once is `brief`: the reading thread may do it itself (`crew`).

        `undo` takes back what `act` did if nobody receives its answer any more. `after` is called
        in the end in any case, also if `act` was not begun because the call was given up. `again`:
        the call was deferred already, and this is its next step.
        """

        def work() -> None:
            try:
                if calls.begin(call) or not manners.unbegun:
                    _carry_out(calls, call, act, undo)
            finally:
                after()

        calls = self.calls
        if again:
            calls.defer_again(call, manners)
        else:
            calls.defer(call, manners)
        if brief and self.crew.take(call.opcode, work):
            return
        if not pool.submit(work):
            try:
                if calls.claim(call):
                    call.refuse(errno.ENOTCONN)
            finally:
                after()


def _carry_out(
    calls: InFlightRequests, call: Request, act: Callable[[], bytes], undo: Callable[[], None]
) -> None:
    try:
        body = act()
    except BaseException as error:  # noqa: BLE001 - becomes an errno, whatever it is
        if calls.claim(call):
            call.fail(error)
        else:
            _log.debug("%s failed after it was given up: %s", _name(call), error)
        return
    if calls.claim(call) and call.answer(body):
        return
    _log.debug("%s was given up, its result is taken back", _name(call))
    undo()


def _name(call: Request) -> str:
    return f"{protocol.OPERATIONS.get(call.opcode, call.opcode)} of inode {call.nodeid}"
