"""Where contents lie in the cache directory.

    <cache>/v2/sha256/<2 digits>/<digest>            the bytes, a sparse file
    <cache>/v2/sha256/<2 digits>/<digest>.grains     the sidecar
    <cache>/v2/sha256/<2 digits>/<digest>.pin        there if it is pinned
    <cache>/v2/ids/<service>/<digest of the id>      the same where the hash is not known

A content whose SHA-256 is known is the same whichever service listed it, so services share it. An
id is one service's own, and opaque: it becomes a file name as a digest. Directories are 0700, files
0600. A cache of another version lies in another directory beside and is never misread: that of an
older one is removed, because nobody would ever read it, that of a newer one is left alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from artifactfs.model import Artifact
from artifactfs.system import make_private

VERSION = "v2"
SIDECAR = ".grains"
PIN = ".pin"
_DIGITS = 2


@dataclass(frozen=True, slots=True)
class CachePaths:
    """One content's files."""

    key: str
    path: str

    @property
    def sidecar(self) -> str:
        """The file that says which grains are here."""
        return self.path + SIDECAR

    @property
    def pin(self) -> str:
        """The file whose presence pins the content."""
        return self.path + PIN


class CacheLayout:
    """Names and files of one cache directory."""

    def __init__(self, directory: Path, origin: str) -> None:
        self.root = directory / VERSION
        self._by_hash = str(self.root / "sha256")
        self._by_id = str(self.root / "ids" / xxhash.xxh3_64_hexdigest(origin.encode()))

    def prepare(self) -> None:
        """Make the directory, open to its owner only, and try to write to it. Raises `OSError`."""
        self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.parent.chmod(0o700)
        make_private(self.root)
        probe = self.root / f".probe-{secrets.token_hex(4)}"
        try:
            probe.write_bytes(bytes(4096))
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def remove_older(self) -> None:
        """Remove what older versions have left. Takes as long as there is much of it."""
        for other in _scan(str(self.root.parent)):
            number = other.name.removeprefix("v")
            if number.isdecimal() and int(number) < int(VERSION.removeprefix("v")):
                shutil.rmtree(other.path, ignore_errors=True)

    def of(self, artifact: Artifact) -> CachePaths:
        """Where the artifact's content lies, or would."""
        if artifact.sha256 is not None:
            digest = artifact.sha256
            return CachePaths(digest, f"{self._by_hash}/{digest[:_DIGITS]}/{digest}")
        digest = xxhash.xxh3_128_hexdigest(artifact.id.encode("utf-8", "surrogatepass"))
        return CachePaths(f"id:{digest}", f"{self._by_id}/{digest}")

    def all(self) -> Iterator[CachePaths]:
        """Every content that has a file or a sidecar, and files that were never finished.

        Reads directories: takes as long as there are many.
        """
        for top in ("sha256", "ids"):
            for folder in _scan(str(self.root / top)):
                names = {entry.name.removesuffix(SIDECAR) for entry in _scan(folder.path)}
                for name in names:
                    if not name.endswith(PIN):
                        key = name if top == "sha256" else f"id:{name}"
                        yield CachePaths(key, f"{folder.path}/{name}")


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        return []
