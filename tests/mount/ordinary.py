"""``artifactfs`` as an ordinary user, wherever the interpreter and the sources lie.

``python -m tests.mount.ordinary UID DIRECTORY WORDS…`` loads everything while it is root still,
becomes that user with no privilege left, goes into that directory, and then is the command line.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pkgutil
import sys

import artifactfs

_PR_SET_DUMPABLE = 4
_LEFT_OUT = (
    "artifactfs.server",
    "artifactfs.__main__",
    "artifactfs.demo",
    "artifactfs.fuse.libfuse",
)


def main() -> None:
    for module in pkgutil.walk_packages(artifactfs.__path__, "artifactfs."):
        if not module.name.startswith(_LEFT_OUT):
            importlib.import_module(module.name)
    user = int(sys.argv.pop(1))
    os.chdir(sys.argv.pop(1))
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    # As a program has it that this user has started himself.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)
    from artifactfs.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
