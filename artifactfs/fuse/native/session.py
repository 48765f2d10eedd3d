"""One connection with the kernel, from INIT to DESTROY.

`NativeSession` puts the parts together and owns their threads: the reading threads (`crew`), the
pools, the notifier and a watch that ends overdue requests. It does not mount: it is given a device,
and `binding` cares for the mount point.

States: started → INIT answered (`wait_ready`) → ended (`on_end`). INIT that cannot be agreed upon
is remembered as an error and raised from `wait_ready`.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from artifactfs.errors import MountError
from artifactfs.fuse.binding import MountOptions
from artifactfs.fuse.error_reply import ErrorReplies
from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.context import SessionContext
from artifactfs.fuse.native.device import Device
from artifactfs.fuse.native.dir_ops import DirectoryOperations
from artifactfs.fuse.native.dispatch import (
    Handler,
    RequestBuffers,
    RequestDispatcher,
)
from artifactfs.fuse.native.file_ops import FileOperations
from artifactfs.fuse.native.handles import FileHandle, HandleTable
from artifactfs.fuse.native.inode_ops import InodeOperations
from artifactfs.fuse.native.inodes import InodeTable
from artifactfs.fuse.native.negotiation import (
    BUFFER_BYTES,
    Agreement,
    agree,
    deadline_s,
    read_offer,
)
from artifactfs.fuse.native.notify import Notifier
from artifactfs.fuse.native.passthrough import TOO_OLD, Passthrough
from artifactfs.fuse.native.protocol import AttributeEncoder, Opcode
from artifactfs.fuse.native.reader import ReaderThreads
from artifactfs.fuse.native.requests import InFlightRequests, Request
from artifactfs.fuse.native.worker_pools import WorkerPools
from artifactfs.vfs.node import Tree

_log = logging.getLogger(__name__)

INIT_WITHIN_S: Final = 10.0


class NativeSession:
    """See the module. `_init_done` orders what INIT wrote before what others read."""

    def __init__(
        self,
        device: Device,
        tree: Tree,
        options: MountOptions,
        *,
        backing_directory: Path | None,
        stack_depth: int,
        on_end: Callable[[], None],
    ) -> None:
        self._device = device
        self._tree = tree
        self._backing_directory = backing_directory
        self._stack_depth = stack_depth
        self._on_end = on_end
        self._calls = InFlightRequests(device, ErrorReplies(), deadline_s())
        self._inodes = InodeTable(tree.root)
        self._pools = WorkerPools()
        self._handles = HandleTable(self._release)
        self._passthrough = Passthrough(device)
        self._buffers = RequestBuffers(BUFFER_BYTES)
        self._crew = ReaderThreads(device, self._buffers, self._ended)
        self._notifier = Notifier(device, self._inodes, self._calls, self._crew)
        self._init_done = threading.Event()
        self._agreement: Agreement | None = None
        self._refusal: MountError | None = None
        self._subscribed = False
        self._watch = threading.Thread(target=self._calls.watch, name="fuse-watch", daemon=True)
        self._mount = SessionContext(
            tree=tree,
            device=device,
            calls=self._calls,
            inodes=self._inodes,
            handles=self._handles,
            pools=self._pools,
            stat=AttributeEncoder(options.uid, options.gid),
            passthrough=self._passthrough,
            crew=self._crew,
        )

    def start(self) -> None:
        """Begin to answer the kernel."""
        self._crew.start(RequestDispatcher(self._calls, self._handlers()))
        self._watch.start()

    def wait_ready(self) -> Agreement:
        """Wait until INIT is answered. Raises `MountError` if it is not, or not in time."""
        if not self._init_done.wait(INIT_WITHIN_S):
            raise MountError(f"the kernel did not greet within {INIT_WITHIN_S:.0f} s")
        if self._refusal is not None:
            raise self._refusal
        if self._agreement is None:
            reason = self._device.ended or "closed"
            raise MountError(
                f"the connection with the kernel ended at once: {reason}",
                remedy="a descriptor that is handed in must be mounted already",
            )
        return self._agreement

    def start_notifying(self) -> None:
        """Tell the kernel what changes, from now on."""
        self._notifier.start()
        self._tree.subscribe(self._notifier.tell)
        self._subscribed = True

    def stop_notifying(self, timeout_s: float) -> None:
        """Tell nothing more: must come before the unmount."""
        if self._subscribed:
            self._tree.unsubscribe(self._notifier.tell)
            self._subscribed = False
        if not self._notifier.close(timeout_s):
            _log.debug("a notification is still waiting in the kernel")

    def close(self, timeout_s: float) -> None:
        """After the unmount: release what is open, wait for all threads, at most `timeout_s`.

        What still hangs then is left behind with a device that leads nowhere.
        """
        limit_s = time.monotonic() + timeout_s
        self._calls.close()
        ended = self._crew.join(timeout_s / 2)
        self._calls.abandon_all()
        for opened in self._handles.files():
            self._handles.close_file(opened.fh)
        ended &= self._pools.close(max(0.0, limit_s - time.monotonic()))
        ended &= self._notifier.close(max(0.0, limit_s - time.monotonic()))
        if self._watch.ident is not None:
            self._watch.join(max(0.1, limit_s - time.monotonic()))
        ended &= self._handles.held() == 0  # a callback of the tree's may still be answering
        if not ended:
            _log.warning("something still waits; it is left behind")
        self._device.close(unused=ended)

    def facts(self) -> dict[str, object]:
        """What ``status`` shows."""
        facts: dict[str, object] = {
            "passthrough": self._passthrough.reason is None,
            "passthrough_open": self._passthrough.in_use(),
            "inodes": self._inodes.count(),
            "open_files": len(self._handles.files()),
            "waiting": self._calls.waiting(),
        }
        if self._passthrough.reason is not None:
            facts["passthrough_reason"] = self._passthrough.reason
        if self._agreement is not None:
            facts["protocol"] = f"{protocol.MAJOR}.{self._agreement.kernel_minor}"
            facts["max_write_bytes"] = self._agreement.max_write_bytes
        if self._calls.deadline_s is not None:
            facts["request_deadline_s"] = self._calls.deadline_s
        return facts

    def _handlers(self) -> dict[int, Handler]:
        return {
            **InodeOperations(self._mount).handlers(),
            **DirectoryOperations(self._mount).handlers(),
            **FileOperations(self._mount, self._buffers.give_back).handlers(),
            Opcode.INIT: self._init,
            Opcode.DESTROY: self._destroy,
            Opcode.INTERRUPT: self._interrupt,
        }

    def _init(self, call: Request, body: memoryview) -> None:
        offer = read_offer(body)
        if offer.major > protocol.MAJOR:
            # The kernel asks again with our major version.
            call.answer(protocol.INIT_OUT.pack(protocol.MAJOR, protocol.MINOR, *([0] * 11)))
            return
        try:
            self._agreement = agree(offer, stack_depth=self._stack_depth)
        except MountError as error:
            self._refusal = error
            call.refuse(errno.EPROTO)
            self._init_done.set()
            return
        self._passthrough.write_directly = self._agreement.maps_direct_io
        call.answer(self._agreement.pack())
        self._try_passthrough(self._agreement)
        _log.debug("INIT: %s offered, %s agreed", offer, self._agreement)
        self._init_done.set()

    def _try_passthrough(self, agreement: Agreement) -> None:
        if not agreement.passthrough:
            self._passthrough.forbid(TOO_OLD)
            return
        if self._backing_directory is None:
            with os.fdopen(os.memfd_create("sample"), "rb") as sample:
                self._passthrough.allow(sample.fileno())
            return
        try:
            with tempfile.TemporaryFile(dir=self._backing_directory) as sample:
                self._passthrough.allow(sample.fileno())
        except OSError as error:
            self._passthrough.forbid(f"no file can be made in the cache directory: {error}")

    def _destroy(self, call: Request, _body: memoryview) -> None:
        call.answer()

    def _interrupt(self, _call: Request, body: memoryview) -> None:
        (unique,) = protocol.INTERRUPT_IN.unpack_from(body)
        self._calls.interrupt(unique)

    def _release(self, opened: FileHandle) -> None:
        def work() -> None:
            try:
                opened.handle.release()
            except Exception:  # noqa: BLE001 - a release has nobody to fail to
                _log.exception("releasing inode %d failed", opened.node.ino)

        if not self._crew.take(Opcode.RELEASE, work) and not self._pools.spool.submit(work):
            work()

    def _ended(self) -> None:
        self._init_done.set()
        self._calls.abandon_all()
        self._on_end()
