"""What the operations share, and how one of them is carried out by another thread.

`Mount` is the sum of one mount's parts; the operations get it whole, because each of them needs a
few of its parts and no two the same. `later` is the only way from the reading thread to a pool.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass

from artifactfs.kernel.native import wire
from artifactfs.kernel.native.calls import (
    WAITS,
    Call,
    Calls,
    Manners,
)
from artifactfs.kernel.native.crew import Crew
from artifactfs.kernel.native.device import Device
from artifactfs.kernel.native.handles import Handles
from artifactfs.kernel.native.inodes import Inodes
from artifactfs.kernel.native.passthrough import Passthrough
from artifactfs.kernel.native.pools import Pool, Pools
from artifactfs.kernel.native.stat import Stat
from artifactfs.tree.node import Tree

_log = logging.getLogger(__name__)


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class Mount:
    """The parts of one mount."""

    tree: Tree
    device: Device
    calls: Calls
    inodes: Inodes
    handles: Handles
    pools: Pools
    stat: Stat
    passthrough: Passthrough
    crew: Crew

    def later(
        self,
        pool: Pool,
        call: Call,
        act: Callable[[], bytes],
        *,
        manners: Manners = WAITS,
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
    calls: Calls, call: Call, act: Callable[[], bytes], undo: Callable[[], None]
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


def _name(call: Call) -> str:
    return f"{wire.OPERATIONS.get(call.opcode, call.opcode)} of inode {call.nodeid}"
