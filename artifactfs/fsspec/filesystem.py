"""The file system for ``artifact://``.

    artifact://results/a.csv     by its name, as a mount shows it
    artifact://id/<id>           by its id
    artifact://sha256/<hex>      by its content's hash

Options are settings, spelled as in ``-o`` (``url``, ``token_file``, ``cache_dir``, ``list_ttl``,
…), and lie over files and environment as flags do. The token is none of them: every process finds
it by itself, so what is pickled and sent to a worker, or tokenised into a graph, holds no token.
The URL is pinned, so that a worker asks the service that was meant.

A content never changes and is never removed: writing over a name adds a newer artifact, which has
the plain name from then on; removing, moving and appending are refused. A directory is there while
something is in it. Errors are `OSError` with the errno of a mount.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem

from artifactfs.config import key_of_option, load
from artifactfs.errors import (
    ArtifactfsError,
    ConfigError,
    errno_of,
)
from artifactfs.fsspec.files import ArtifactReader, ArtifactWriter
from artifactfs.fsspec.listing import ListingDirectory, ListingSnapshot
from artifactfs.fsspec.shared_client import (
    PIECE_BYTES,
    ClientKey,
    SharedClients,
    shared_clients,
)
from artifactfs.model import Artifact

_OPTIONS_OF_FSSPEC = {
    "asynchronous",
    "auto_mkdir",
    "listings_expiry_time",
    "loop",
    "max_paths",
    "use_listings_cache",
}
_NO_CHANGE = "artifacts are not removed or changed; the service lets them expire"


class ArtifactFileSystem(AbstractFileSystem):
    """A service's artifacts. For any thread, and for a forked process too."""

    protocol: ClassVar[str] = "artifact"
    root_marker: ClassVar[str] = ""
    blocksize: ClassVar[int] = PIECE_BYTES

    def __init__(
        self,
        *,
        url: str | None = None,
        token_file: str | None = None,
        cache_dir: str | None = None,
        cache_size: str | int | None = None,
        **settings: Any,
    ) -> None:
        """Read the settings; nothing is asked before it is needed. Raises `ConfigError`."""
        of_fsspec = {key: settings.pop(key) for key in _OPTIONS_OF_FSSPEC & settings.keys()}
        flags: dict[str, Any] = {
            "url": url,
            "token_file": token_file,
            "cache.dir": cache_dir,
            "cache.size": cache_size,
        }
        for name, value in settings.items():
            flags[_key(name)] = value
        self._config = load(flags)
        self._given: dict[str, Any] = {}
        self._rooms: SharedClients | None = None
        self._process = 0
        super().__init__(**of_fsspec)

    @property
    def storage_options(self) -> dict[str, Any]:
        """What makes the same file system elsewhere: what was given, and the URL."""
        return {**self._given, "url": self._config.url}

    @storage_options.setter
    def storage_options(self, given: dict[str, Any]) -> None:
        self._given = dict(given)

    @property
    def rooms(self) -> SharedClients:
        """The cache, the listing and the connections of this process."""
        rooms = self._rooms
        if rooms is None or self._process != os.getpid() or not rooms.close.alive:
            self._process = os.getpid()
            rooms = self._rooms = shared_clients(self._config)
        return rooms

    def close(self) -> None:
        """End threads and connections, those of other instances with these settings too.

        Not needed before the process ends; what is used afterwards begins anew.
        """
        if self._rooms is not None and self._process == os.getpid():
            self._rooms.close()
        self._rooms = None

    @property
    def fsid(self) -> str:
        """The service."""
        return f"artifact_{self._config.url}"

    @contextlib.contextmanager
    def os_errors(self, path: str) -> Iterator[None]:
        """Have errors of the service and the cache be what an operating system would say."""
        try:
            yield
        except ArtifactfsError as error:
            raise _os_error(error, path) from error

    # What is there

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.strip("/")

    def _look(self, path: str) -> tuple[ListingSnapshot, Artifact | ListingDirectory]:
        """What is at a path, and among what. Raises `FileNotFoundError`."""
        with self.os_errors(path):
            for ask in (self.rooms.listing.now, self.rooms.listing.again):
                snapshot = ask()
                found = snapshot.find(path)
                if found is not None:
                    return snapshot, found
        raise FileNotFoundError(
            errno.ENOENT, "there is no artifact and no directory of this name", path
        )

    def _file(self, path: str) -> Artifact:
        _, found = self._look(path)
        if isinstance(found, ListingDirectory):
            raise IsADirectoryError(errno.EISDIR, "this is a directory", path)
        return found

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Name, size, type, and for an artifact its id, hash, times and metadata."""
        path = self._strip_protocol(path)
        return _described(path, self._look(path)[1])

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """What is in a directory; of a file, itself. `refresh` asks the service anew."""
        path = self._strip_protocol(path)
        if kwargs.get("refresh"):
            self.invalidate_cache()
        snapshot, found = self._look(path)
        inside = snapshot.within(found) if isinstance(found, ListingDirectory) else [(path, found)]
        return [_described(*one) if detail else one[0] for one in inside]

    def invalidate_cache(self, path: str | None = None) -> None:
        """Ask the service for its listing before the next answer."""
        self.rooms.listing.expire()
        super().invalidate_cache(path)

    def ukey(self, path: str) -> str:
        """What changes when the content does: its SHA-256."""
        artifact = self._file(self._strip_protocol(path))
        return artifact.sha256 or f"id:{artifact.id}"

    def checksum(self, path: str) -> int:
        """The same as a number."""
        key = self.ukey(path)
        return int.from_bytes(key.encode()) if key.startswith("id:") else int(key, 16)

    def created(self, path: str) -> datetime:
        """When it was uploaded."""
        return self._file(self._strip_protocol(path)).created_at

    def modified(self, path: str) -> datetime:
        """The same: an artifact never changes."""
        return self.created(path)

    # Reading and writing

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ArtifactReader | ArtifactWriter:
        _ = cache_options, kwargs  # the cache below is the one that there is
        if mode == "rb":
            return ArtifactReader(self, path, self._file(path), block_size)
        if mode not in ("wb", "xb"):
            raise NotImplementedError(f"mode {mode}: {_NO_CHANGE}")
        if mode == "xb":
            self._be_new(path)
        return ArtifactWriter(
            self,
            path,
            mode,
            block_size,
            autocommit=autocommit,
            directory=self._config.state.directory / "fsspec",
            send=lambda local: self._send(local, path),
        )

    def _be_new(self, path: str) -> None:
        if self.exists(path):
            raise FileExistsError(errno.EEXIST, "an artifact of this name is there", path)

    def _send(
        self, local: Path, path: str, progress: Callable[[int, int], None] = lambda *_: None
    ) -> Artifact:
        with self.os_errors(path):
            artifact = self.rooms.client.put(
                local, path, progress=progress, cancelled=threading.Event()
            )
        self.rooms.listing.wrote(artifact)
        return artifact

    def put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        """Upload a local file, from where it lies."""
        local, path = Path(os.fspath(lpath)), self._strip_protocol(rpath)
        if local.is_dir():
            return
        if mode == "create":
            self._be_new(path)
        callback.set_size(local.stat().st_size)
        self._send(local, path, lambda sent, _: callback.absolute_update(sent))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Upload bytes."""
        with self.open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """List an artifact's content under another name as well; no byte of it is sent."""
        path, new = self._strip_protocol(path1), self._strip_protocol(path2)
        _, found = self._look(path)
        if isinstance(found, ListingDirectory):
            return
        with self.os_errors(path):
            copied = self.rooms.client.copy(found, new)
        if copied is None:  # the service cannot, or the hash is not known
            with self.open(path, "rb") as source, self.open(new, "wb") as target:
                while piece := source.read(PIECE_BYTES):
                    target.write(piece)
        else:
            self.rooms.listing.wrote(copied)

    # Many at once

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | list[int | None] | None,
        ends: int | list[int | None] | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | OSError]:
        """The bytes of many ranges, fetched in parallel; an error stands in place of its bytes."""
        if not isinstance(paths, list):
            raise TypeError("a list of paths is expected")
        _ = max_gap  # what lies in one grain is fetched together anyway
        some = starts if isinstance(starts, list) else [starts] * len(paths)
        others = ends if isinstance(ends, list) else [ends] * len(paths)
        return self._fetched(list(zip(paths, some, others, strict=True)), on_error)

    def cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> Any:
        """The contents of many, by name, fetched in parallel; of one path, its bytes."""
        paths = self.expand_path(path, recursive=recursive)
        if paths == [self._strip_protocol(path)]:
            return self.cat_file(paths[0], **kwargs)
        files = [one for one in paths if not self.isdir(one)]
        keep = "return" if on_error == "omit" else on_error
        fetched = self._fetched([(one, None, None) for one in files], keep)
        return {
            name: data
            for name, data in zip(files, fetched, strict=True)
            if on_error != "omit" or isinstance(data, bytes)
        }

    def _fetched(
        self, ranges: list[tuple[str, int | None, int | None]], on_error: str
    ) -> list[bytes | OSError]:
        found: list[ClientKey | OSError] = []
        for path, start, stop in ranges:
            try:
                found.append(ClientKey(self._file(self._strip_protocol(path)), start, stop))
            except OSError as error:
                found.append(error)
        read = iter(self.rooms.read_spans([one for one in found if isinstance(one, ClientKey)]))
        results: list[bytes | OSError] = []
        for (path, _, _), one in zip(ranges, found, strict=True):
            result = next(read) if isinstance(one, ClientKey) else one
            if isinstance(result, ArtifactfsError):
                result = _os_error(result, path)
            if isinstance(result, OSError) and on_error != "return":
                raise result
            results.append(result)
        return results

    # What a content store does not do

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Nothing: a directory is there while something is in it."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing, too."""

    def rmdir(self, path: str) -> NoReturn:
        """Refused."""
        raise NotImplementedError(_NO_CHANGE)

    def rm_file(self, path: str) -> NoReturn:
        """Refused."""
        raise NotImplementedError(_NO_CHANGE)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Refused."""
        raise NotImplementedError(_NO_CHANGE)

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Refused, before anything is copied."""
        raise NotImplementedError(_NO_CHANGE)


def _key(name: str) -> str:
    key = key_of_option(name)
    if key is None:
        remedy = "`artifactfs config` shows all settings"
        if "token" in name:
            remedy = "set ARTIFACTFS_TOKEN, or token_file: a token in an option would be pickled"
        raise ConfigError(f"unknown option {name}", remedy=remedy)
    return key


def _os_error(error: ArtifactfsError, path: str) -> OSError:
    return OSError(errno_of(error), str(error), path)


def _described(path: str, found: Artifact | ListingDirectory) -> dict[str, Any]:
    if isinstance(found, ListingDirectory):
        return {"name": path, "size": 0, "type": "directory"}
    return {
        "name": path,
        "size": found.size_bytes,
        "type": "file",
        "created": found.created_at,
        "mtime": found.created_at.timestamp(),
        "id": found.id,
        "sha256": found.sha256,
        "expires_at": found.expires_at,
        "content_type": found.content_type,
        "status": found.status,
        "external_url": found.external_url,
        "metadata": dict(found.metadata),
    }
