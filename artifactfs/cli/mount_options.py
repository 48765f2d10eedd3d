"""The one parser of ``-o``, for ``artifactfs mount -o``, ``mount.artifactfs`` and fstab.

An option is one of three things:

* a setting by its key: ``cache.size=50G``, ``allow_other``;
* a generic option of mount(8) that has an effect here. It is a setting too: ``ro`` is
  ``mount.read_only=true``, ``exec`` is ``mount.noexec=false``;
* an option that is for mount(8), systemd or the kernel's caches alone, and has no effect here.

Anything else is an error, so that no restriction is dropped silently. As in
mount(8), the last of several options that contradict each other counts. A mount is always
``nosuid`` and ``nodev``; ``suid`` and ``dev`` are errors unless a later option revokes them.
``user`` and ``users`` imply ``noexec``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from artifactfs import config as settings
from artifactfs.errors import ConfigError

_READ_ONLY: Final = "mount.read_only"
_NOEXEC: Final = "mount.noexec"

FLAGS: Final[Mapping[str, tuple[str, str]]] = {
    "ro": (_READ_ONLY, "true"),
    "rw": (_READ_ONLY, "false"),
    "noexec": (_NOEXEC, "true"),
    "exec": (_NOEXEC, "false"),
    "user": (_NOEXEC, "true"),
    "users": (_NOEXEC, "true"),
}
"""Generic options that have an effect: the setting and its value."""

_ALWAYS: Final[Mapping[str, tuple[str, ...]]] = {
    "nosuid": ("suid",),
    "nodev": ("dev",),
    "user": ("suid", "dev"),
    "users": ("suid", "dev"),
    "owner": ("suid", "dev"),
    "group": ("suid", "dev"),
}
"""Options that are in effect for every mount, and which earlier options they revoke."""

_REFUSED: Final[Mapping[str, str]] = {
    "suid": "a mount of artifactfs is always nosuid",
    "dev": "a mount of artifactfs is always nodev",
    "remount": "a mount of artifactfs cannot be remounted: unmount it, then mount it again",
}

_WITHOUT_EFFECT: Final = frozenset(
    """
    defaults auto noauto nouser nofail _netdev async sync dirsync atime noatime diratime nodiratime
    relatime norelatime strictatime nostrictatime lazytime nolazytime silent loud
    """.split()  # noqa: SIM905 - a table of words
)
_WITH_VALUES: Final = frozenset({"user", "comment"})
_PREFIXES: Final = ("x-", "X-")

KNOWN: Final = tuple(sorted({*FLAGS, *_ALWAYS, *_REFUSED, *_WITHOUT_EFFECT, *_WITH_VALUES}))


def parse_options(texts: Sequence[str], *, sloppy: bool = False) -> dict[str, Any]:
    """Return settings by key from ``-o`` texts; the last of contradicting options counts.

    A key without a value is switched on. With `sloppy`, unknown options are ignored. Raises
    `ConfigError` for an option that is unknown or refused.
    """
    values: dict[str, Any] = {}
    refused: list[str] = []
    for name, value in _split(texts):
        key = settings.key_of_option(name)
        if key is not None:
            values[key] = "true" if value is None else value
        elif not _is_generic(name, value):
            if not sloppy:
                raise ConfigError(
                    f"-o {name}: unknown option{_nearest(name)}",
                    remedy="`artifactfs config` shows all settings",
                )
        elif name in _REFUSED:
            refused.append(name)
        else:
            if name in FLAGS:
                flag, switched = FLAGS[name]
                values[flag] = switched
            refused = [one for one in refused if one not in _ALWAYS.get(name, ())]
    if refused:
        raise ConfigError(f"-o {refused[0]}: {_REFUSED[refused[0]]}")
    return values


def _split(texts: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    for text in texts:
        for item in text.split(","):
            name, equals, value = item.partition("=")
            if item.strip():
                yield name.strip(), value if equals else None


def _is_generic(name: str, value: str | None) -> bool:
    if name.startswith(_PREFIXES) or name in _WITH_VALUES:
        return True
    return value is None and name in KNOWN


def _nearest(name: str) -> str:
    known = (*KNOWN, *settings.BY_KEY)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
