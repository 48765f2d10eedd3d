"""The container's entry point, as far as a machine without a container engine can show it.

A user without any right makes user, mount and process namespaces and changes his root to the image,
as rootless Podman does: he is root in there, over nothing but himself. The manifests are read, and
the words in them are given to the command line's own parser.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import requests
import yaml

from artifactfs.cli import cli
from artifactfs.server.testing import LocalController
from tests.helpers import wait_until

from .conftest import REPOSITORY, first_process

pytestmark = [
    pytest.mark.xdist_group("places"),
    pytest.mark.fuse,
    pytest.mark.timeout(600),  # whoever comes first installs
]

FOLDER = REPOSITORY / "scripts/container"
NOBODY = 65534
PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Image:
    """A root directory, and whom its containers ask."""

    root: Path
    service: LocalController

    @contextlib.contextmanager
    def container(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A container of it, as a user without rights; it is gone when the block is left."""
        inside = shlex.join(["chroot", ".", "/usr/local/bin/artifactfs-entrypoint", *words])
        with subprocess.Popen(
            ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
             "unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child",
             "sh", "-c", f"mount -t proc proc proc && exec {inside}"],
            cwd=self.root,
            env={"PATH": PATH, "HOME": "/state",
                 "ARTIFACTFS_URL": self.service.url, "ARTIFACTFS_CACHE_DIR": "/cache",
                 "ARTIFACTFS_STATE_DIR": "/state"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as container:  # fmt: skip
            try:
                yield container
            finally:
                container.kill()  # and with it, by --kill-child, all that is in there

    def run(self, *words: str) -> tuple[int, str]:
        with self.container(*words) as container:
            said, _ = container.communicate(timeout=120)
        return container.returncode, said

    def listed(self) -> set[str]:
        answer = requests.get(
            f"{self.service.url}/api/v1/artifacts",
            headers={"Authorization": f"Bearer {self.service.token}"},
            timeout=60,
        )
        return {one["filename"] for one in answer.json()["artifacts"]}


@pytest.fixture(scope="module")
def image(overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """What the Dockerfile puts in place, and directories that are the user's."""
    for folder in reversed(tmp_path_factory.getbasetemp().parents[:-2]):
        (overlay / folder.relative_to("/")).chmod(0o755)  # the copy, not the folder itself
    basetemp = tmp_path_factory.getbasetemp()
    (overlay / basetemp.relative_to("/")).chmod(0o755)
    entrypoint = overlay / "usr/local/bin/artifactfs-entrypoint"
    entrypoint.write_bytes((FOLDER / "entrypoint").read_bytes())
    entrypoint.chmod(0o755)
    for name in ("artifacts", "cache", "state"):
        (overlay / name).mkdir()
        os.chown(overlay / name, NOBODY, NOBODY)
    with LocalController(tmp_path_factory.mktemp("service")) as service:
        service.dev("artifacts", {"artifacts": [{"filename": "in.txt", "text": "hello\n"}]})
        secrets = overlay / "run/secrets"
        secrets.mkdir(parents=True)
        (secrets / "artifactfs-token").write_text(service.token)
        os.chown(secrets / "artifactfs-token", NOBODY, NOBODY)
        yield Image(overlay, service)


def test_a_container_runs_a_command_on_the_mount_and_ends_as_it_does(image: Image) -> None:
    status, said = image.run(
        "sh", "-c", "cat /artifacts/artifacts/in.txt; echo out > /artifacts/drop/out.txt; exit 7"
    )
    assert (status, said) == (7, "hello\n")
    assert "out.txt" in image.listed()
    assert os.stat(image.root / "state/uploads.log").st_uid == NOBODY


def inside_of(container: subprocess.Popen[str]) -> int:
    return int(
        wait_until(lambda: first_process(container.pid), 60, "the container has a process 1")
    )


def test_a_signal_ends_the_command_and_what_it_closed_is_uploaded(image: Image) -> None:
    script = (
        "trap 'echo ended; exit 5' TERM; echo x > /artifacts/drop/before; echo ready;"
        "while :; do sleep 0.1; done"
    )
    with image.container("sh", "-c", script) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == "ready\n"
        os.kill(inside_of(container), signal.SIGTERM)
        said, _ = container.communicate(timeout=120)
    assert (container.returncode, said) == (5, "ended\n")
    assert "before" in image.listed()


def test_a_container_that_serves_is_probed_and_ends_by_sigterm(image: Image) -> None:
    with image.container() as container:
        inside = inside_of(container)
        probe = [
            "nsenter", "-t", str(inside), "-U", "-m", "-p", "-r", "--wdns=/", "env", "-i",
            f"PATH={PATH}", "artifactfs", "status", "--check", "/artifacts",
        ]  # fmt: skip
        wait_until(
            lambda: subprocess.run(probe, capture_output=True, check=False).returncode == 0,
            60,
            "the probe answers",
        )
        os.kill(inside, signal.SIGTERM)
        said, _ = container.communicate(timeout=120)
    assert container.returncode == 0, said
    assert "mounted at /artifacts" in said


def test_without_the_device_a_container_says_what_it_needs(image: Image) -> None:
    device = image.root / "dev/fuse"
    device.rename(device.with_name("away"))
    try:
        status, said = image.run("true")
    finally:
        device.with_name("away").rename(device)
    assert status == 1
    assert "--device /dev/fuse --cap-add SYS_ADMIN" in said


MANIFESTS = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".yaml", ".json"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_read_and_its_commands_and_volumes_exist(path: Path) -> None:
    text = path.read_text()
    documents = [json.loads(text)] if path.suffix == ".json" else list(yaml.safe_load_all(text))
    for document in documents:
        for words in commands_in(document):
            command = cli.get_command(click.Context(cli), words[1])
            assert command is not None, words
            command.make_context(words[1], words[2:])
        for pod in pods_in(document):
            there = {volume["name"] for volume in pod["volumes"]}
            for container in [*pod.get("initContainers", ()), *pod["containers"]]:
                mounts = container["volumeMounts"]
                assert {one["name"] for one in mounts} <= there
                if any(one.get("mountPropagation") == "Bidirectional" for one in mounts):
                    assert container["securityContext"]["privileged"]


def commands_in(document: Any) -> Iterator[list[str]]:
    if isinstance(document, dict):
        for inner in document.values():
            yield from commands_in(inner)
    elif isinstance(document, list):
        if document and document[0] == "artifactfs":
            yield list(document)
        for inner in document:
            yield from commands_in(inner)


def pods_in(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        if "containers" in document:
            yield document
        for inner in document.values():
            yield from pods_in(inner)
