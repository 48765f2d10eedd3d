"""What is open, for a binding whose library speaks paths.

libfuse 2 keeps a table of paths and gives the kernel one inode per *path*, not per file. So it
takes care here that three things stay true which a node-based binding has for nothing:

* **A number finds its handle.** `OpenFiles.get(number)` is what `read`, `write`, `flush` use; no
  path is walked again, and a file that was renamed or removed since keeps working.
* **A path that is open with page cache keeps its meaning until it is closed.** When a listing gives
  a name another artifact while the old one is being read, both would share one kernel inode: size
  and pages of the one would be served for the other. So the name goes on to mean the open file.
  For the same reason pages from an earlier open are kept only if that was the same inode, and a
  name that got another meaning between the kernel's look-up and its open is looked up again.
* **An unlinked file lives on while it is open.** libfuse renames such a file to
  ``.fuse_hidden…`` first and unlinks it at the last close. The tree is told to unlink it at once,
  so it never sees such a name (nor uploads it); here the hidden path goes on to mean the node.

All of it is one table with one lock, `OpenFiles._lock`, held for dictionary accesses only.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import threading
from dataclasses import dataclass

from cachetools import LRUCache

from artifactfs.vfs.node import (
    Directory,
    Handle,
    Node,
)

REMEMBERED_PATHS = 32_768
_HIDDEN_NAME = re.compile(r"\.fuse_hidden[0-9a-f]{16}")


@dataclass(eq=False, slots=True)
class NodePin:
    """An open path and what it means. `path` follows renames. Guarded by `OpenFiles._lock`.

    `opens` counts what is open or being opened, `uncached` those of them known to bypass the page
    cache.
    """

    path: str
    node: Node
    opens: int = 1
    uncached: int = 0
    hidden: bool = False

    @property
    def binds(self) -> bool:
        """Whether the path means `node`, whatever the tree says."""
        return self.hidden or self.opens > self.uncached


@dataclass(frozen=True, slots=True)
class PathOpenFile:
    """An open file. `uncached`: it bypasses the page cache."""

    node: Node
    handle: Handle
    pin: NodePin
    uncached: bool


@dataclass(frozen=True, slots=True)
class PathOpenDirectory:
    """An open directory, and the inode number of the one above it."""

    directory: Directory
    parent_ino: int


def is_hidden_name(name: str) -> bool:
    """Whether libfuse gives such names to unlinked files."""
    return _HIDDEN_NAME.fullmatch(name) is not None


def hides(old: str, new: str) -> bool:
    """Whether renaming the path `old` to `new` is libfuse's way to unlink an open file.

    libfuse may think that a file is open for a moment longer than it is, so that is not asked.
    """
    above, _, name = new.rpartition("/")
    return above == old.rpartition("/")[0] and is_hidden_name(name)


class OpenFiles:
    """Handles by number, and what open paths mean. Guarded by `_lock`; nothing of the tree's is
    called while it is held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._files: dict[int, PathOpenFile] = {}
        self._directories: dict[int, PathOpenDirectory] = {}
        self._pins: dict[str, NodePin] = {}
        self._cached_ino: LRUCache[str, int] = LRUCache(REMEMBERED_PATHS)
        self._shown_ino: LRUCache[str, int] = LRUCache(REMEMBERED_PATHS)

    def shown(self, path: str, ino: int) -> None:
        """The kernel was told that `path` is this inode, with its size."""
        with self._lock:
            self._shown_ino[path] = ino

    def was_shown_as_another(self, path: str, ino: int) -> bool:
        """Whether the kernel thinks that `path` is another inode than this."""
        with self._lock:
            return self._shown_ino.get(path, ino) != ino

    def meaning(self, path: str) -> Node | None:
        """What `path` means because it is open, or None where the tree decides."""
        with self._lock:
            pin = self._pins.get(path)
            return pin.node if pin is not None and pin.binds else None

    def claim(self, path: str, node: Node) -> NodePin:
        """Hold on to the meaning of `path` while it is being opened; `pin.node` is what to open."""
        with self._lock:
            pin = self._pins.get(path)
            if pin is not None and (pin.binds or pin.node.ino == node.ino):
                pin.opens += 1
                return pin
            pin = self._pins[path] = NodePin(path, node)
            return pin

    def claim_new(self, path: str, node: Node) -> NodePin:
        """Like `claim` for a file that was just created: that is what the path means now."""
        with self._lock:
            pin = self._pins[path] = NodePin(path, node)
            return pin

    def unclaim(self, pin: NodePin) -> None:
        """Opening failed."""
        with self._lock:
            self._let_go(pin)

    def add(self, pin: NodePin, handle: Handle, *, uncached: bool, keeps: bool) -> tuple[int, bool]:
        """A number for the open file, and whether pages cached earlier at this path are its own."""
        with self._lock:
            number = next(self._numbers)
            self._files[number] = PathOpenFile(pin.node, handle, pin, uncached)
            if uncached:
                pin.uncached += 1
                return number, False
            keep = keeps and self._cached_ino.get(pin.path) == pin.node.ino
            self._cached_ino[pin.path] = pin.node.ino
            return number, keep

    def get(self, number: int) -> PathOpenFile:
        """The open file with this number. Raises `OSError` EBADF."""
        found = self._files.get(number)  # one dictionary access: needs no lock
        if found is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return found

    def remove(self, number: int) -> PathOpenFile:
        """Forget it; the caller releases the handle. Raises `OSError` EBADF."""
        with self._lock:
            found = self._files.pop(number, None)
            if found is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if found.uncached:
                found.pin.uncached -= 1
            self._let_go(found.pin)
            return found

    def remove_all(self) -> list[PathOpenFile]:
        """Forget everything: the mount has ended. The caller releases the handles."""
        with self._lock:
            left = list(self._files.values())
            self._files.clear()
            self._directories.clear()
            self._pins.clear()
            return left

    def _let_go(self, pin: NodePin) -> None:
        pin.opens -= 1
        if pin.opens == 0 and self._pins.get(pin.path) is pin:
            del self._pins[pin.path]

    # Directories

    def add_directory(self, directory: Directory, parent_ino: int) -> int:
        """A number for the open directory."""
        with self._lock:
            number = next(self._numbers)
            self._directories[number] = PathOpenDirectory(directory, parent_ino)
            return number

    def get_directory(self, number: int) -> PathOpenDirectory:
        """The open directory with this number. Raises `OSError` EBADF."""
        found = self._directories.get(number)
        if found is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return found

    def remove_directory(self, number: int) -> None:
        """Forget it."""
        with self._lock:
            self._directories.pop(number, None)

    # Names that change

    def hide(self, old: str, new: str) -> None:
        """`old` was unlinked: what is open there is reached by `new` until it is closed."""
        with self._lock:
            pin = self._pins.pop(old, None)
            self._cached_ino.pop(old, None)
            if pin is not None:
                pin.path, pin.hidden = new, True
                self._pins[new] = pin

    def reveal(self, path: str) -> None:
        """libfuse unlinks the hidden name: it means nothing from now on."""
        with self._lock:
            pin = self._pins.get(path)
            if pin is not None and pin.hidden:
                del self._pins[path]

    def renamed(self, old: str, new: str) -> None:
        """`old`, a file or a directory with all below it, is called `new` from now on."""
        with self._lock:
            self._cached_ino.clear()
            self._pins.pop(new, None)
            for path in [one for one in self._pins if one == old or one.startswith(f"{old}/")]:
                pin = self._pins.pop(path)
                pin.path = new + path.removeprefix(old)
                self._pins[pin.path] = pin
