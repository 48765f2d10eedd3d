"""The process that serves the memory tree: one binding, one mount point, a control channel.

A test starts it as ``python -m tests.fuse.driver '{"binding": …}'``; see ``mounted.Mount``. It
prints one JSON line when the mount answers (``{"ready": true}``) and one when `run` has returned
(``{"ended": null}`` or the error). In between it answers JSON commands from its standard input:
``{"do": "fail", "operation": "read", "name": null, "error": "KeyError", "times": 1}``. The log goes
to standard error.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from artifactfs.errors import MountError
from artifactfs.fuse.binding import Binding, MountOptions
from artifactfs.fuse.native import protocol
from artifactfs.fuse.select import make
from tests.fuse.faults import FaultyTree, Plan
from tests.fuse.memory_tree import MemoryTree


class Driver:
    """Carries out the commands of the control channel."""

    def __init__(self, binding: Binding, tree: MemoryTree, plan: Plan) -> None:
        self._binding = binding
        self._tree = tree
        self._plan = plan

    def obey(self, command: dict[str, Any]) -> Any:
        """One command, one JSON answer."""
        match command.pop("do"):
            case "fail":
                self._plan.fail(**command)
            case "hold":
                self._plan.hold(**command)
            case "let_go":
                self._plan.let_go()
            case "held":
                return self._plan.held(**command)
            case "counts":
                return self._plan.counts()
            case "detail":
                return self._plan.detail(**command)
            case "publish":
                return self._tree.publish(command["path"], base64.b64decode(command["content"]))
            case "publish_directory":
                return self._tree.publish_directory(**command)
            case "withdraw":
                self._tree.withdraw(**command)
            case "append":
                return self._tree.append(command["path"], base64.b64decode(command["content"]))
            case "dropped":
                return self._tree.dropped()
            case "facts":
                return {"name": self._binding.name, **self._binding.facts}
            case "threads":
                return sorted(thread.name for thread in threading.enumerate())
            case "drop_name":
                self._drop_name(**command)
            case "stop":
                self._binding.stop()
            case unknown:
                raise AssertionError(unknown)
        return None

    def _drop_name(self, parent: int, name: str) -> None:
        """Have the kernel drop a name at once, as no notifier of ours would."""
        device = self._binding._session._device  # type: ignore[attr-defined]
        raw = name.encode()
        body = protocol.NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(raw), 0) + raw + b"\0"
        notify = protocol.NOTIFY_INVAL_ENTRY
        threading.Thread(target=device.notify, args=(notify, body), daemon=True).start()

    def listen(self) -> None:
        """Answer commands until standard input ends."""
        for line in sys.stdin:
            try:
                say({"answer": self.obey(json.loads(line))})
            except Exception as error:
                logging.exception("command %s", line)
                say({"trouble": repr(error)})


def ready(*, fails: bool) -> None:
    if fails:
        raise RuntimeError("on_ready fails on purpose")
    say({"ready": True})


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(settings: dict[str, Any]) -> int:
    logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")
    plan = Plan()
    tree = MemoryTree(Path(settings["backing"]), lambda name: plan.strike("arrive", name))
    tree.start()
    binding = make(settings["binding"])
    driver = Driver(binding, tree, plan)
    threading.Thread(target=driver.listen, name="control", daemon=True).start()
    if settings["user"] is not None:
        os.setgroups([])
        os.setgid(settings["user"])
        os.setuid(settings["user"])
    options = MountOptions(
        source=settings["source"],
        uid=os.getuid(),
        gid=os.getgid(),
        allow_other=settings["allow_other"],
        read_only=settings.get("read_only", False),
        noexec=settings.get("noexec", False),
    )
    try:
        binding.run(
            FaultyTree(tree, plan),
            Path(settings["mountpoint"]),
            options,
            lambda: ready(fails=settings["ready_fails"]),
        )
    except MountError as error:
        say({"ended": str(error)})
        return 1
    finally:
        plan.let_go()
        tree.close()
    say({"ended": None})
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
