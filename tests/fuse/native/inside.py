"""A whole life of a mount, run by a test inside of some narrower world: a namespace, a chroot.

``python -m tests.fuse.native.inside DIRECTORY`` mounts below the directory, reads, drops, lists,
unmounts, and prints one JSON object of what it saw. It needs what the driver needs and no more.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from tests.fuse.mounted import Mount


def main(directory: Path) -> None:
    mount = Mount("native", directory)
    try:
        mount.wait_ready()
        seen = {
            "facts": mount.command("facts"),
            "hello": (mount / "fixed/hello.txt").read_text(),
            "backed": len((mount / "fixed/backed.bin").read_bytes()),
            "listed": len(os.listdir(mount / "many")),
            "link": os.readlink(mount / "fixed/link"),
            "owner": os.stat(mount.path).st_uid == os.getuid(),
        }
        (mount / "drop/a").write_bytes(b"dropped")
        seen["dropped"] = (mount / "drop/a").read_text()
        mount.process.send_signal(signal.SIGTERM)
        seen["ended"] = mount.wait_ended()
        seen["left"] = os.listdir(mount.path)
    finally:
        mount.process.kill()
        mount.process.wait()
        with contextlib.suppress(
            FileNotFoundError
        ):  # without /proc it cannot look for what is left
            mount.end()
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
