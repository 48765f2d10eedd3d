"""The descriptor of ``/dev/fuse``: messages in, messages out.

One read takes exactly one request, one write gives exactly one reply or notification; the kernel
keeps them apart, so any thread may write at any time while one thread reads. Everything here says
what the kernel answered and decides nothing: that a request is gone (it was interrupted, or the
connection was aborted) is False, not an error, because there is nobody left to be told.

The connection ends in two ways: unmounted (ENODEV) or aborted (ECONNABORTED with ABORT_ERROR,
written by someone into ``/sys/fs/fuse/connections/<n>/abort``, or by a request past its time-out).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
from array import array

from artifactfs.fuse.native import protocol

_OUT = protocol.OUT_HEADER.pack
_OUT_BYTES = protocol.OUT_HEADER_BYTES
_SMALL_BYTES = 2048  # up to here joining header and body is cheaper than two buffers
_ENDED = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN, errno.EBADF})


class Device:
    """An open ``/dev/fuse`` that is, or is about to be, mounted. Owns `fd` and closes it.

    Any thread may reply and notify; one thread receives. It waits in poll(2), because nothing but
    the end of the connection would free it from a plain read. `ended` is None while the connection
    lives, then the reason in words; it is only written by the receiving thread.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended: str | None = None
        os.set_blocking(fd, False)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(fd, select.POLLIN)

    def stop_receiving(self) -> None:
        """End `receive`, though the connection lives: from now on it says that it was stopped."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def receive(self, buffer: bytearray) -> int:
        """Wait for the next request, put it into `buffer`, return its length; 0: it has ended."""
        while True:
            try:
                count = os.readv(self.fd, [buffer])
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # interrupted before it was read: the kernel took it back
                if error.errno == errno.EAGAIN and self._wait():
                    continue
                self.ended = {
                    errno.ENODEV: "unmounted",
                    errno.ECONNABORTED: "aborted",
                    errno.EAGAIN: "stopped",
                }.get(error.errno or 0, os.strerror(error.errno or errno.EIO))
                return 0
            if count == 0:
                self.ended = "closed"
            return count

    def answer(self, unique: int, body: bytes | bytearray | memoryview = b"") -> bool:
        """Reply with success. False: nobody waits for it any more."""
        length = _OUT_BYTES + len(body)
        try:
            if length <= _SMALL_BYTES:
                os.write(self.fd, _OUT(length, 0, unique) + body)
            else:
                os.writev(self.fd, (_OUT(length, 0, unique), body))
        except OSError as error:
            return self._unwritten(error)
        return True

    def refuse(self, unique: int, number: int) -> bool:
        """Reply with the errno `number`, above zero."""
        try:
            os.write(self.fd, _OUT(_OUT_BYTES, -number, unique))
        except OSError as error:
            return self._unwritten(error)
        return True

    def notify(self, code: int, body: bytes) -> int:
        """Tell the kernel something unasked. May block; 0, or the errno."""
        try:
            os.write(self.fd, _OUT(_OUT_BYTES + len(body), code, 0) + body)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def open_backing(self, fd: int) -> int:
        """Register `fd` as a file that the kernel may read by itself; returns its id.

        Raises `OSError`: EPERM without CAP_SYS_ADMIN, ELOOP where the file's file system is itself
        stacked deeper than was agreed in INIT, EOPNOTSUPP where it cannot serve.
        """
        return self._ioctl(protocol.BACKING_OPEN, protocol.BACKING_MAP.pack(fd, 0, 0))

    def close_backing(self, backing_id: int) -> None:
        """Give the id up; opens that use it keep their file. Raises `OSError`."""
        self._ioctl(protocol.BACKING_CLOSE, protocol.BACKING_ID.pack(backing_id))

    def close(self, *, unused: bool) -> None:
        """Let go of the connection: where nobody else holds it, what still waits is aborted.

        With `unused` False some thread may still be about to write. The number must not be given
        to another file then, so it comes to mean ``/dev/null`` instead of being closed.
        """
        if unused:
            fd, self.fd = self.fd, -1
            wake, self._wake = self._wake, -1
            for number in (fd, wake):
                if number >= 0:
                    os.close(number)
            return
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.dup2(null, self.fd, inheritable=False)
        finally:
            os.close(null)

    def _wait(self) -> bool:
        """Wait for a request. False: told to stop."""
        return all(number != self._wake for number, _ in self._poll.poll())

    def _ioctl(self, request: int, argument: bytes) -> int:
        # With a mutable buffer fcntl.ioctl returns the call's own result, which is the id.
        result: int = fcntl.ioctl(self.fd, request, array("B", argument), True)
        return result

    def _unwritten(self, error: OSError) -> bool:
        if error.errno != errno.ENOENT and error.errno not in _ENDED:
            raise error
        return False
