"""What stands in the way on this machine, and what to do about it.

Each check is a question a user would have to ask next: can this kernel mount, is the service
there, does it take the token, is there room for the cache. A check never raises and never changes
anything; it says ``ok``, ``warn`` (works, but less well) or ``fail`` (does not work), what was
seen, and the remedy. They run in an order in which the first failure explains those that follow.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from artifactfs.config import Config
from artifactfs.errors import ArtifactfsError, MountError
from artifactfs.kernel.bindings import make as make_binding
from artifactfs.kernel.mounting import check_fuse
from artifactfs.remote import Service


@dataclass(frozen=True, slots=True)
class Check:
    """One question's answer: `state` is ``ok``, ``warn`` or ``fail``."""

    name: str
    state: str
    detail: str
    remedy: str = ""


def examine(config: Config) -> Iterator[Check]:
    """Every check's answer, as soon as it is known."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield from _bindings(config)
    yield _token(config)
    yield _service(config)
    yield _directory("cache", config.cache.directory, config.cache.min_free_bytes)
    yield _directory("spool", config.spool_directory, 0)
    if config.ignored:
        yield Check(
            "environment",
            "warn",
            f"not known and ignored: {', '.join(config.ignored)}",
            "`artifactfs config` shows the names of all settings",
        )


def _bindings(config: Config) -> Iterator[Check]:
    for name in ("native", "fusepy"):
        wanted = config.fuse == name or (config.fuse == "auto" and name == "native")
        try:
            check_fuse(name, allow_other=config.allow_other)
            binding = make_binding(name, config.cache.directory)
        except MountError as error:
            yield Check(name, "fail" if wanted else "warn", error.message, error.remedy)
            continue
        reason = binding.without_passthrough()
        if reason is None:
            yield Check(name, "ok", "works; the kernel reads cached files by itself (passthrough)")
        else:
            yield Check(name, "ok", f"works; reads go through the driver, no passthrough: {reason}")


def _token(config: Config) -> Check:
    try:
        config.token.read()
    except ArtifactfsError as error:
        return Check("token", "fail", error.message, error.remedy)
    path = config.token.path
    if path is not None and path.stat().st_mode & 0o077:
        return Check("token", "warn", f"{path} can be read by others", f"chmod 600 {path}")
    return Check("token", "ok", f"from {config.token.name}")


def _service(config: Config) -> Check:
    service = Service(config.url, config.token, config.http)
    try:
        service.check()
    except ArtifactfsError as error:
        return Check("service", "fail", error.message, error.remedy)
    finally:
        service.close()
    return Check("service", "ok", f"{config.url} answers and takes the token")


def _directory(name: str, directory: Path, min_free_bytes: int) -> Check:
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Check(
            name, "fail", f"{place} cannot be written", f"choose another directory with {name}.dir"
        )
    free_bytes = shutil.disk_usage(place).free
    if free_bytes <= min_free_bytes:
        return Check(
            name,
            "warn",
            f"{directory}: only {free_bytes / 1e9:.1f} GB are free",
            "free disk space, or choose another directory",
        )
    return Check(name, "ok", f"{directory}, {free_bytes / 1e9:.1f} GB free")


def doctor(config: Config, told: Callable[[Check], None] | None = None) -> list[Check]:
    """All answers at once; `told` gets each as soon as it is known."""
    checks = []
    for check in examine(config):
        checks.append(check)
        if told is not None:
            told(check)
    return checks
