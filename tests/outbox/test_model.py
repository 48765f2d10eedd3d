"""The outbox beside a model of it, through everything that can happen to files and to it.

The outbox is the real one, in a process that is really killed; the service is the real one, behind
a proxy that breaks things. The model says which files were closed as what.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from artifactfs.config import HttpConfig
from artifactfs.outbox import EntryState
from artifactfs.remote import Service
from artifactfs.server.testing import LocalController
from artifactfs.token import Secret, TokenSource
from tests.fault_proxy import FaultProxy
from tests.long import LONG
from tests.outbox.outbox_process import KILLED_PID, OutboxProcess, Settings

NAMES = ("a", "b.bin", "dir/c", "d.tmp", ".e.bin.Ab3dEf")
SIZES = (0, 1, 900, 2500, 4000, 9001)
FAULTS: tuple[dict[str, Any], ...] = (
    {"method": "POST", "status": 503},
    {"method": "POST", "path": "/api/v1/artifacts", "lose_answer": True},
    {"method": "PUT", "lose_answer": True},
    {"method": "PUT", "status": 403},
    {"method": "POST", "path": "/complete", "lose_answer": True},
    {"method": "POST", "path": "/complete", "status": 409},
    {"method": "POST", "path": "/artifacts/multipart", "status": 501},
    {"method": "POST", "path": "/artifacts", "status": 402, "body": b'{"error": "no credits"}'},
    {"method": "GET", "path": "/artifacts/multipart", "status": 404},
    {"method": "POST", "path": "/artifacts", "delay_s": 0.2},
)


def is_temporary(name: str) -> bool:
    return name.endswith(".tmp") or name.startswith(".e")


@dataclass
class File:
    """What the model knows of one file. `closed`: as it is, a close of it has returned."""

    content: bytearray = field(default_factory=bytearray)
    closed: bool = False
    changed: bool = True
    writing: bool = True
    handles: list[int] = field(default_factory=list)


@dataclass
class Handle:
    number: int
    file: File
    life: int


class OutboxMachine(RuleBasedStateMachine):
    """Rules are what users, the machine and the service do."""

    controller: LocalController
    proxy: FaultProxy

    handles = Bundle("handles")

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="artifactfs-model-"))
        self.token = self.controller.add_token(account=self.directory.name)
        self.settings = Settings(self.directory / "spool", self.proxy.url, self.token)
        self.outbox = OutboxProcess(self.settings)
        self.outbox.call("make_folder", "dir", 0o755)
        self.life = 1
        self.files: dict[str, File] = {}
        self.alive: list[Handle] = []
        self.closed_as: dict[str, Counter[str]] = {name: Counter() for name in NAMES}

    # What users do

    @rule(target=handles, name=st.sampled_from(NAMES), size=st.sampled_from(SIZES))
    def create(self, name: str, size: int) -> Handle:
        """open(O_CREAT | O_TRUNC) and a first write."""
        number = self.outbox.call("create", name)
        file = self.files.get(name)
        if file is None:
            file = self.files[name] = File()
        elif file.content or file.closed:
            self._changes(file)
            file.content.clear()
        self._changes(file)
        handle = self._handle(number, file)
        self._write(handle, 0, os.urandom(size))
        return handle

    @rule(
        target=handles, name=st.sampled_from(NAMES), flags=st.sampled_from([os.O_RDWR, os.O_RDONLY])
    )
    def open(self, name: str, flags: int) -> Handle | None:
        file = self.files.get(name)
        if file is None:
            return None
        number = self.outbox.call("open", name, flags)
        if flags == os.O_RDONLY:
            assert self.outbox.call("read", number, 0, 1 << 20) == bytes(file.content)
            self.outbox.call("flush", number, os.getpid())
            self.outbox.call("release", number)
            return None
        return self._handle(number, file)

    def _handle(self, number: int, file: File) -> Handle:
        handle = Handle(number, file, self.life)
        file.handles.append(number)
        self.alive.append(handle)
        return handle

    @rule(handle=handles, offset=st.integers(0, 5000), size=st.sampled_from(SIZES))
    def write(self, handle: Handle | None, offset: int, size: int) -> None:
        if self._is_open(handle):
            assert handle is not None
            self._write(handle, offset, os.urandom(size))

    def _write(self, handle: Handle, offset: int, data: bytes) -> None:
        if not data:
            return
        file = handle.file
        self.outbox.call("write", handle.number, offset, data)
        self._changes(file)
        if len(file.content) < offset:
            file.content.extend(bytes(offset - len(file.content)))
        file.content[offset : offset + len(data)] = data

    @rule(handle=handles, size=st.integers(0, 6000))
    def truncate(self, handle: Handle | None, size: int) -> None:
        if not self._is_open(handle):
            return
        assert handle is not None
        self.outbox.call("truncate", handle.number, size)
        self._changes(handle.file)
        handle.file.content[:] = handle.file.content[:size].ljust(size, b"\0")

    @staticmethod
    def _changes(file: File) -> None:
        file.closed, file.changed, file.writing = False, True, True

    @rule(handle=consumes(handles))
    def close(self, handle: Handle | None) -> None:
        self._flush(handle, killed=False, release=True)

    @rule(handle=handles)
    def close_a_duplicate(self, handle: Handle | None) -> None:
        self._flush(handle, killed=False, release=False)

    @rule(handle=consumes(handles))
    def be_killed(self, handle: Handle | None) -> None:
        self._flush(handle, killed=True, release=True)

    def _flush(self, handle: Handle | None, *, killed: bool, release: bool) -> None:
        if not self._is_open(handle):
            return
        assert handle is not None
        file = handle.file
        self.outbox.call("flush", handle.number, KILLED_PID if killed else os.getpid())
        if file.writing and (file.changed or not killed):
            file.closed = not killed or (file.closed and not file.changed)
            file.changed = False
            self._note(file)
        if release:
            self.outbox.call("release", handle.number)
            file.handles.remove(handle.number)
            self.alive.remove(handle)
            if not file.handles:
                file.writing = False

    def _note(self, file: File) -> None:
        for name, one in self.files.items():
            if one is file and file.closed and not is_temporary(name):
                self.closed_as[name][hashlib.sha256(file.content).hexdigest()] += 1

    def _is_open(self, handle: Handle | None) -> bool:
        return handle is not None and handle.life == self.life

    @rule(old=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def rename(self, old: str, new: str) -> None:
        if old not in self.files or old == new:
            return
        self.outbox.call("rename", old, new)
        self.files[new] = self.files.pop(old)
        self._note(self.files[new])

    @rule(name=st.sampled_from(NAMES))
    def unlink(self, name: str) -> None:
        if name in self.files:
            self.outbox.call("unlink", name)
            del self.files[name]

    # What happens to the outbox and the service

    @rule(how=st.sampled_from(FAULTS), times=st.integers(1, 3))
    def break_the_service(self, how: dict[str, Any], times: int) -> None:
        self.proxy.break_with(**how, times=times)

    @rule(killed=st.booleans())
    def end_and_start(self, killed: bool) -> None:
        if killed:
            self.outbox.kill()
        else:
            self.outbox.close()
        self.life += 1
        self.alive.clear()
        for file in self.files.values():
            file.handles.clear()
            file.changed = file.writing = False
        self.outbox = OutboxProcess(self.settings)
        self._check_entries()

    def _check_entries(self) -> None:
        """What was closed is here, exactly once, with its bytes; so is what was not."""
        found = {entry.path: entry for entry in self.outbox.call("entries")}
        assert set(found) == set(self.files)
        for name, file in self.files.items():
            number = self.outbox.call("open", name, os.O_RDONLY)
            assert self.outbox.call("read", number, 0, 1 << 20) == bytes(file.content), name
            self.outbox.call("release", number)
            interrupted = found[name].state is EntryState.INTERRUPTED
            assert interrupted == (not file.closed), (name, found[name])

    @precondition(lambda self: hasattr(self, "files"))
    @rule()
    def settle(self) -> None:
        """The service is well: all that was closed arrives, once, and nothing else ever has."""
        self.proxy.heal()
        closed = [name for name, file in self.files.items() if file.closed]
        for entry in self.outbox.call("settle", closed):
            expected = self.files[entry.path]
            if expected.closed and not is_temporary(entry.path) and not expected.writing:
                assert entry.state is EntryState.UPLOADED, entry
        arrived = Counter((one.filename, one.sha256) for one in self._listed())
        for (name, digest), count in arrived.items():
            assert count <= max(1, self.closed_as[name][digest]), "something arrived twice"
            assert digest in self.closed_as[name], f"{name} was never closed as what has arrived"
        for name, file in self.files.items():
            if file.closed and not is_temporary(name) and not file.writing:
                assert (name, hashlib.sha256(file.content).hexdigest()) in arrived, name

    def _listed(self) -> list[Any]:
        service = Service(
            self.controller.url, TokenSource("test", value=Secret(self.token)), HttpConfig()
        )
        try:
            return list(service.artifacts.list())
        finally:
            service.close()

    def teardown(self) -> None:
        if not hasattr(self, "files"):
            return
        try:
            for handle in list(self.alive):
                self._flush(handle, killed=False, release=True)
            self.settle()
            self.outbox.close()
            (files,) = (self.directory / "spool").glob("*/0/files")
            assert len(list(files.iterdir())) == len(self.files), "something was left in the spool"
        finally:
            self.proxy.heal()
            shutil.rmtree(self.directory)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[type[OutboxMachine]]:
    with (
        LocalController(tmp_path / "service", part_size=2000, no_sync=True) as controller,
        FaultProxy(controller.url) as proxy,
    ):

        class Machine(OutboxMachine):
            pass

        Machine.controller, Machine.proxy = controller, proxy
        yield Machine


@pytest.mark.slow
@pytest.mark.timeout(3600 if LONG else 300)
def test_the_outbox_does_what_its_model_says(machine: type[OutboxMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=300 if LONG else 15,
            stateful_step_count=40 if LONG else 25,
            deadline=None,
            phases=[Phase.reuse, Phase.generate, *([Phase.shrink] if LONG else [])],
            suppress_health_check=list(HealthCheck),
        ),
    )
