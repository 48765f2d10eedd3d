"""Operations on names and attributes: from LOOKUP to RENAME2, xattrs, STATFS.

What the tree knows is answered on the reading thread. Only a look-up of a name that it does not
know, but may learn about, and whatever changes something go to a pool. What changes something holds
a lock in the kernel until it is answered, so it never goes to a pool whose threads may all be
waiting for the network.

Extended attributes outside ``user.`` do not exist here, and the answer is EOPNOTSUPP instead of
ENODATA: ``ls -l`` asks every file for ``system.posix_acl_access`` and ``security.capability``, but
stops asking after the first EOPNOTSUPP of a device.

Owners cannot be changed: every file belongs to whoever mounted. A ``chown`` to the owner it has is
fine, to anybody else it is EPERM.
"""

from __future__ import annotations

import errno
import os
import stat as mode_bits
import time
from collections.abc import Callable
from typing import Final

from artifactfs.fuse.native import protocol
from artifactfs.fuse.native.context import SessionContext
from artifactfs.fuse.native.dispatch import Handler
from artifactfs.fuse.native.protocol import Opcode
from artifactfs.fuse.native.requests import CHANGES, Request
from artifactfs.vfs.node import (
    AttributeChange,
    Link,
    Node,
)

_NS: Final = 1_000_000_000
BLOCK_BYTES: Final = 4096
_WRITABLE: Final = 0o222
_ACCESSIBLE: Final = b"user."
_CHANGES: Final = (
    protocol.FATTR_MODE
    | protocol.FATTR_SIZE
    | protocol.FATTR_ATIME
    | protocol.FATTR_MTIME
    | protocol.FATTR_MTIME_NOW
)
_XATTR_CREATE: Final = 1
_XATTR_REPLACE: Final = 2


def is_writable(node: Node) -> bool:
    """Whether it belongs to the part of the tree that lies on the local disk and can be changed."""
    return bool(node.attributes().mode & _WRITABLE)


class InodeOperations:
    """See the module. Stateless: all state is in `mount`'s parts."""

    def __init__(self, mount: SessionContext) -> None:
        self._mount = mount
        self._inodes = mount.inodes
        self._stat = mount.stat

    def handlers(self) -> dict[int, Handler]:
        """Opcode → method."""
        return {
            Opcode.LOOKUP: self.look_up,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.forget_many,
            Opcode.GETATTR: self.get_attributes,
            Opcode.STATX: self.statx,
            Opcode.SETATTR: self.set_attributes,
            Opcode.READLINK: self.read_link,
            Opcode.ACCESS: self.access,
            Opcode.STATFS: self.statfs,
            Opcode.GETXATTR: self.get_xattr,
            Opcode.LISTXATTR: self.list_xattrs,
            Opcode.SETXATTR: self.set_xattr,
            Opcode.REMOVEXATTR: self.remove_xattr,
            Opcode.MKNOD: self.make_node,
            Opcode.MKDIR: self.make_directory,
            Opcode.SYMLINK: self.refuse_link,
            Opcode.LINK: self.refuse_link,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.remove_directory,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
        }

    def look_up(self, call: Request, body: memoryview) -> None:
        directory = self._inodes.directory(call.nodeid)
        raw, _ = protocol.split_name(body, 0)
        name = call.subject = os.fsdecode(raw)
        node = directory.find(name)
        if node is not None:
            if not call.answer(self._entered(node)):
                self._inodes.forget(node.ino, 1)
            return
        if not directory.may_know_more:
            call.refuse(errno.ENOENT)
            return

        found: list[Node] = []

        def ask() -> bytes:
            node = directory.look_up(name)
            if node is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            found.append(node)
            return self._entered(node)

        def undo() -> None:
            self._inodes.forget(found[0].ino, 1)

        self._mount.later(self._mount.pools.fetch, call, ask, undo=undo)

    def forget(self, call: Request, body: memoryview) -> None:
        (lookups,) = protocol.FORGET_IN.unpack_from(body)
        self._inodes.forget(call.nodeid, lookups)

    def forget_many(self, _call: Request, body: memoryview) -> None:
        count, _ = protocol.BATCH_FORGET_IN.unpack_from(body)
        start = protocol.BATCH_FORGET_IN.size
        stop = start + count * protocol.FORGET_ONE.size
        if stop > len(body):
            raise ValueError("a list of forgets that is shorter than it says")
        self._inodes.forget_all(list(protocol.FORGET_ONE.iter_unpack(body[start:stop])))

    def get_attributes(self, call: Request, _body: memoryview) -> None:
        call.answer(self._stat.attributes(self._inodes.node(call.nodeid)))

    def statx(self, call: Request, _body: memoryview) -> None:
        call.answer(self._stat.statx(self._inodes.node(call.nodeid)))

    def set_attributes(self, call: Request, body: memoryview) -> None:
        node = self._inodes.node(call.nodeid)
        fields = protocol.SETATTR_IN.unpack_from(body)
        valid, _, fh, size, _, _, mtime_s, _, _, mtime_ns, _, mode, _, uid, gid, _ = fields
        if (valid & protocol.FATTR_UID and uid != self._stat.uid) or (
            valid & protocol.FATTR_GID and gid != self._stat.gid
        ):
            call.refuse(errno.EPERM)
            return
        if not valid & _CHANGES:
            call.answer(self._stat.attributes(node))
            return
        new_mtime_ns = None
        if valid & protocol.FATTR_MTIME_NOW:
            new_mtime_ns = time.time_ns()
        elif valid & protocol.FATTR_MTIME:
            signed_s = mtime_s - (1 << 64) if mtime_s >> 63 else mtime_s
            new_mtime_ns = signed_s * _NS + mtime_ns
        new_mode = mode_bits.S_IMODE(mode) if valid & protocol.FATTR_MODE else None
        new_size_bytes = size if valid & protocol.FATTR_SIZE else None
        handle = None
        if new_size_bytes is not None and valid & protocol.FATTR_FH:
            handle = self._mount.handles.file(fh).handle

        def change() -> bytes:
            if handle is not None and new_size_bytes is not None:
                handle.written_by(call.pid)
                handle.truncate(new_size_bytes)
                rest = AttributeChange(mode=new_mode, mtime_ns=new_mtime_ns)
                if rest != AttributeChange():
                    node.change(rest)
            else:
                node.change(AttributeChange(new_mode, new_size_bytes, new_mtime_ns))
            return self._stat.attributes(node)

        cuts_quickly = handle is not None and handle.write_is_quick
        brief = new_size_bytes is None or cuts_quickly
        self._mount.later(self._mount.pools.spool, call, change, manners=CHANGES, brief=brief)

    def read_link(self, call: Request, _body: memoryview) -> None:
        node = self._inodes.node(call.nodeid)
        if not isinstance(node, Link):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        call.answer(os.fsencode(node.target()))

    def access(self, call: Request, body: memoryview) -> None:
        mask, _ = protocol.ACCESS_IN.unpack_from(body)
        attributes = self._inodes.node(call.nodeid).attributes()
        allowed = attributes.mode | attributes.mode >> 3 | attributes.mode >> 6
        if mask & os.W_OK and not allowed & os.W_OK:
            call.refuse(errno.EROFS)
        elif mask & os.X_OK and not allowed & os.X_OK:
            call.refuse(errno.EACCES)
        else:
            call.answer()

    def statfs(self, call: Request, _body: memoryview) -> None:
        space = self._mount.tree.space()
        free = max(0, space.free_bytes) // BLOCK_BYTES
        call.answer(
            protocol.STATFS_OUT.pack(
                max(0, space.total_bytes) // BLOCK_BYTES,
                free,
                free,
                max(0, space.files),
                0,
                BLOCK_BYTES,
                protocol.NAME_MAX,
                BLOCK_BYTES,
                0,
            )
        )

    def get_xattr(self, call: Request, body: memoryview) -> None:
        size, _ = protocol.GETXATTR_IN.unpack_from(body)
        raw, _ = protocol.split_name(body, protocol.GETXATTR_IN.size)
        if not raw.startswith(_ACCESSIBLE):
            call.refuse(errno.EOPNOTSUPP)
            return
        node, name = self._inodes.node(call.nodeid), os.fsdecode(raw)

        def value() -> bytes:
            found = node.xattrs().get(name)
            if found is None:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
            return found

        self._answer_xattr(call, node, size, value)

    def list_xattrs(self, call: Request, body: memoryview) -> None:
        size, _ = protocol.GETXATTR_IN.unpack_from(body)
        node = self._inodes.node(call.nodeid)

        def value() -> bytes:
            return b"".join(os.fsencode(name) + b"\0" for name in node.xattrs())

        self._answer_xattr(call, node, size, value)

    def _answer_xattr(
        self, call: Request, node: Node, size: int, value: Callable[[], bytes]
    ) -> None:
        """Answer with `value`, once the node knows it."""
        if node.knows_xattrs:
            call.answer(_sized(size, value()))
            return

        def act() -> bytes:
            node.learn_xattrs()
            return _sized(size, value())

        self._mount.later(self._mount.pools.fetch, call, act)

    def set_xattr(self, call: Request, body: memoryview) -> None:
        node = self._inodes.node(call.nodeid)
        size, flags = protocol.SETXATTR_IN.unpack_from(body)
        raw, start = protocol.split_name(body, protocol.SETXATTR_IN.size)
        value = bytes(body[start : start + size])
        if len(value) != size:
            raise ValueError("a value that is shorter than it says")
        name = call.subject = os.fsdecode(raw)
        if not raw.startswith(_ACCESSIBLE):
            call.refuse(errno.EOPNOTSUPP)
            return
        if flags & (_XATTR_CREATE | _XATTR_REPLACE):
            is_there = name in node.xattrs()
            if flags & _XATTR_CREATE and is_there:
                call.refuse(errno.EEXIST)
                return
            if flags & _XATTR_REPLACE and not is_there:
                call.refuse(errno.ENODATA)
                return

        def act() -> bytes:
            node.set_xattr(name, value)
            return b""

        self._mount.later(self._mount.pools.spool, call, act, manners=CHANGES)

    def remove_xattr(self, call: Request, body: memoryview) -> None:
        raw, _ = protocol.split_name(body, 0)
        node = self._inodes.node(call.nodeid)
        is_there = os.fsdecode(raw) in node.xattrs()
        call.refuse(errno.EOPNOTSUPP if is_there else errno.ENODATA)

    def make_node(self, call: Request, body: memoryview) -> None:
        directory = self._inodes.directory(call.nodeid)
        mode, _, _, _ = protocol.MKNOD_IN.unpack_from(body)
        raw, _ = protocol.split_name(body, protocol.MKNOD_IN.size)
        name = call.subject = os.fsdecode(raw)
        if not mode_bits.S_ISREG(mode):
            call.refuse(errno.EPERM if is_writable(directory) else errno.EROFS)
            return
        made: list[Node] = []

        def make() -> bytes:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            file, handle = directory.create(name, flags, mode_bits.S_IMODE(mode))
            try:
                handle.fsync()  # not `flush`, which may wait for the upload
            finally:
                handle.release()
            made.append(file)
            return self._entered(file)

        def undo() -> None:
            self._inodes.forget(made[0].ino, 1)
            directory.unlink(name)

        self._mount.later(
            self._mount.pools.spool, call, make, undo=undo, manners=CHANGES, brief=True
        )

    def make_directory(self, call: Request, body: memoryview) -> None:
        directory = self._inodes.directory(call.nodeid)
        mode, _ = protocol.MKDIR_IN.unpack_from(body)
        raw, _ = protocol.split_name(body, protocol.MKDIR_IN.size)
        name = call.subject = os.fsdecode(raw)
        made: list[Node] = []

        def make() -> bytes:
            made.append(directory.make_directory(name, mode_bits.S_IMODE(mode)))
            return self._entered(made[0])

        def undo() -> None:
            self._inodes.forget(made[0].ino, 1)
            directory.remove_directory(name)

        self._mount.later(
            self._mount.pools.spool, call, make, undo=undo, manners=CHANGES, brief=True
        )

    def refuse_link(self, call: Request, _body: memoryview) -> None:
        directory = self._inodes.directory(call.nodeid)
        call.refuse(errno.EPERM if is_writable(directory) else errno.EROFS)

    def unlink(self, call: Request, body: memoryview) -> None:
        directory = self._inodes.directory(call.nodeid)
        raw, _ = protocol.split_name(body, 0)
        name = call.subject = os.fsdecode(raw)

        def act() -> bytes:
            directory.unlink(name)
            return b""

        self._mount.later(self._mount.pools.spool, call, act, manners=CHANGES, brief=True)

    def remove_directory(self, call: Request, body: memoryview) -> None:
        directory = self._inodes.directory(call.nodeid)
        raw, _ = protocol.split_name(body, 0)
        name = call.subject = os.fsdecode(raw)

        def act() -> bytes:
            directory.remove_directory(name)
            return b""

        self._mount.later(self._mount.pools.spool, call, act, manners=CHANGES, brief=True)

    def rename(self, call: Request, body: memoryview) -> None:
        (target,) = protocol.RENAME_IN.unpack_from(body)
        self._rename(call, body[protocol.RENAME_IN.size :], target, 0)

    def rename2(self, call: Request, body: memoryview) -> None:
        target, flags, _ = protocol.RENAME2_IN.unpack_from(body)
        self._rename(call, body[protocol.RENAME2_IN.size :], target, flags)

    def _rename(self, call: Request, names: memoryview, target_id: int, flags: int) -> None:
        source = self._inodes.directory(call.nodeid)
        target = self._inodes.directory(target_id)
        raw_old, start = protocol.split_name(names, 0)
        raw_new, _ = protocol.split_name(names, start)
        old, new = os.fsdecode(raw_old), os.fsdecode(raw_new)
        call.subject = old
        call.target = target_id

        def act() -> bytes:
            source.rename(old, target, new, flags)
            moved = target.find(new)
            if moved is not None:
                self._inodes.renew(moved)
            return b""

        self._mount.later(self._mount.pools.spool, call, act, manners=CHANGES, brief=True)

    def _entered(self, node: Node) -> bytes:
        entry = self._stat.entry(node)  # first, because it may fail
        self._inodes.remember(node)
        return entry


def _sized(size: int, value: bytes) -> bytes:
    """The answer to who has room for `size` bytes, or asks with 0 how much is needed."""
    if size == 0:
        return protocol.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
