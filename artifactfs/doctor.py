"""What stands in the way on this machine, and what to do about it.

Each check is a question a user would have to ask next: can this kernel mount, is the service
there, does it take the token, is there room for the cache. A check never raises and never changes
anything; it says ``ok``, ``warn`` (works, but less well) or ``fail`` (does not work), what was
seen, and the remedy. They run in an order in which the first failure explains those that follow:
this machine, the ways into its kernel, the service, the disks, what is mounted already.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from artifactfs import system
from artifactfs.config import Config
from artifactfs.errors import ArtifactfsError, MountError
from artifactfs.fuse.mount_checks import (
    FUSE_CONF,
    can_mount,
    check_fuse,
    fusermount,
    is_stale,
    mounts,
    others_are_allowed,
)
from artifactfs.fuse.select import make as make_binding
from artifactfs.remote import Service

MOST_SKEW_S = 60.0
ASK_S = 2.0


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
    yield _kernel()
    yield from _bindings(config)
    yield _fusermount()
    yield _others(config)
    yield _url(config)
    yield _token(config)
    yield from _service(config)
    yield _directory("cache", config.cache.directory, config.cache.min_free_bytes)
    yield _directory("spool", config.spool_directory, 0)
    yield from _mounts()
    if config.ignored:
        yield Check(
            "environment",
            "warn",
            f"not known and ignored: {', '.join(config.ignored)}",
            "`artifactfs config` shows the names of all settings",
        )


def _kernel() -> Check:
    found = os.uname()
    return Check("kernel", "ok", f"{found.sysname} {found.release} ({found.machine})")


def _bindings(config: Config) -> Iterator[Check]:
    for name in ("native", "fusepy"):
        first = "native" if system.LINUX else "fusepy"
        wanted = config.fuse == name or (config.fuse == "auto" and name == first)
        try:
            check_fuse(name, allow_other=config.allow_other)
            binding = make_binding(name, config.cache.directory)
        except MountError as error:
            yield Check(name, "fail" if wanted else "warn", error.message, error.remedy)
            continue
        reason = binding.without_passthrough()
        if reason is None:
            yield Check(name, "ok", "works; the kernel reads cached files by itself (passthrough)")
            continue
        remedy = ""
        if not can_mount():
            remedy = "for passthrough mount as root, or by the unit artifactfs@.service"
        yield Check(
            name, "ok", f"works; reads go through the driver, no passthrough: {reason}", remedy
        )


def _fusermount() -> Check:
    program = fusermount()
    if can_mount():
        return Check("fusermount", "ok", f"not needed here ({program or 'and not installed'})")
    if program is None:
        remedy = "apt-get install fuse3"
        return Check("fusermount", "fail", "not installed, and this user may not mount", remedy)
    mode = Path(program).stat()
    if not mode.st_mode & 0o4000 or mode.st_uid != 0:
        remedy = f"chown root {program} && chmod u+s {program}"
        return Check("fusermount", "fail", f"{program} is not setuid root", remedy)
    return Check("fusermount", "ok", program)


def _others(config: Config) -> Check:
    name = "allow_other"
    if can_mount():
        return Check(name, "ok", "possible: this user may mount for others")
    if others_are_allowed():
        return Check(name, "ok", f"possible: user_allow_other stands in {FUSE_CONF}")
    return Check(
        name,
        "fail" if config.allow_other else "ok",
        "mounts of this user cannot be opened to others",
        f"for --allow-other add the line user_allow_other to {FUSE_CONF}",
    )


def _url(config: Config) -> Check:
    source = config.sources.get("url", "default")
    parts = urlsplit(config.url)
    if parts.scheme == "http" and not _is_here(parts.hostname or ""):
        return Check(
            "url", "warn", f"{config.url} sends the token in the clear", "use https where it is"
        )
    return Check("url", "ok", f"{config.url} (from {source})")


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _token(config: Config) -> Check:
    try:
        config.token.read()
    except ArtifactfsError as error:
        return Check("token", "fail", error.message, error.remedy)
    path = config.token.path
    if path is not None and path.stat().st_mode & 0o077:
        return Check("token", "warn", f"{path} can be read by others", f"chmod 600 {path}")
    return Check("token", "ok", f"from {config.token.name}")


def _service(config: Config) -> Iterator[Check]:
    service = Service(config.url, config.token, config.http)
    try:
        before = datetime.now(UTC)
        its_clock = service.check()
        now = before + (datetime.now(UTC) - before) / 2
    except ArtifactfsError as error:
        yield Check("service", "fail", error.message, error.remedy)
        return
    finally:
        service.close()
    yield Check("service", "ok", f"{config.url} answers and takes the token")
    if its_clock is not None:
        yield clock_check((now - its_clock).total_seconds())


def clock_check(ahead_s: float) -> Check:
    """How well this machine's clock, `ahead_s` before the service's, does."""
    if abs(ahead_s) <= MOST_SKEW_S:
        return Check("clock", "ok", "agrees with the service's")
    how = "ahead of" if ahead_s > 0 else "behind"
    return Check(
        "clock",
        "warn",
        f"{abs(ahead_s):.0f} s {how} the service's: presigned URLs may be refused, ages are wrong",
        "set the clock: timedatectl set-ntp true",
    )


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


def _mounts() -> Iterator[Check]:
    for mounted in mounts():
        place = mounted.mountpoint
        if is_stale(place, ASK_S):
            yield Check(
                "mount",
                "warn",
                f"{place} was left behind by a driver that is gone",
                f"artifactfs unmount {place}, or mount there again",
            )
        else:
            yield Check("mount", "ok", f"{place} ({mounted.source})")


def doctor(config: Config, told: Callable[[Check], None] | None = None) -> list[Check]:
    """All answers at once; `told` gets each as soon as it is known."""
    checks = []
    for check in examine(config):
        checks.append(check)
        if told is not None:
            told(check)
    return checks
