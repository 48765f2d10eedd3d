"""All settings, where each came from, and the only place that reads the environment.

A setting has one dotted key (``cache.size``), used alike in TOML files (``[cache] size = "20G"``),
in the environment (``ARTIFACTFS_CACHE_SIZE``), in ``-o cache.size=20G`` and in what
``artifactfs config`` prints. Values are laid over each other, lowest first:

1. the default that stands below,
2. ``/etc/artifactfs/config.toml``,
3. ``$XDG_CONFIG_HOME/artifactfs/config.toml``,
4. the environment,
5. flags.

The result is one frozen `Config` whose attributes carry their units (`config.cache.size_bytes`).
Each field below names its key, its reader and one line of help: the readers turn text or a TOML
value into the field's type and raise `ValueError` with what they expected; `load` turns that into a
`ConfigError` that names the file or variable, and the key. An unknown key in a file or a flag is an
error. An unknown ``ARTIFACTFS_…`` variable is not (a container platform sets such variables for a
service that happens to be called artifactfs); it is listed in `Config.ignored`.

The token is no setting: a `TokenSource` says where it can be read, and nothing here holds, prints
or stores it. What a service manager says in the environment is no setting either (`supervisor`).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from artifactfs.errors import ConfigError
from artifactfs.systemd import (
    NOBODY,
    SystemdNotifier,
    systemd_notifier,
)
from artifactfs.token import (
    NO_TOKEN,
    Secret,
    TokenSource,
)

Reader = Callable[[Any], Any]

TEMPORARY_NAMES = (
    ".*.??????",
    "*.tmp",
    "*.part",
    "*.partial",
    "*~",
    ".~*",
    ".#*",
    "*.crdownload",
    "*.swp",
)

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_BITS = {"T": 40, "G": 30, "M": 20, "K": 10}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def read_size(value: Any) -> int:
    """Bytes from ``20G``, ``512MiB``, ``1.5GB`` or a whole number.

    K, M, G, T and KiB, MiB, … count in 1024, KB, MB, … in 1000.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    matched = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if matched is None:
        raise ValueError("a size such as 20G, 512MiB or a number of bytes is expected")
    number, unit, suffix = matched.groups()
    base = 1000 if unit and suffix and suffix.lower() == "b" else 1024
    return int(float(number) * base ** " kmgt".index(unit.lower() or " "))


def read_duration(value: Any) -> float:
    """Seconds from ``10``, ``1.5``, ``500ms``, ``5m`` or ``2h``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12:
        return float(value)
    matched = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if matched is None:
        raise ValueError("a duration such as 10s, 5m, 500ms or a number of seconds is expected")
    return float(matched[1]) * _SECONDS[matched[2]]


def read_flag(value: Any) -> bool:
    """A truth value from ``true``, ``yes``, ``on``, ``1`` and their opposites."""
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError("true or false is expected")


def read_path(value: Any) -> Path:
    """An absolute path; ``~`` is the home, a relative one starts at the present folder."""
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("a path is expected")
    return Path(value).expanduser().absolute()


def read_url(value: Any) -> str:
    """The service's base URL, without a trailing slash."""
    text = value.strip().rstrip("/") if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.query or parts.fragment:
        raise ValueError("a URL such as https://computalot.com is expected")
    return text


def read_patterns(value: Any) -> tuple[str, ...]:
    """Shell patterns, as a list or separated by colons."""
    parts = value.split(":") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("a list of shell patterns is expected")
    return tuple(part for part in parts if part)


def read_address(value: Any) -> str:
    """``host:port``, or nothing; ``:port`` and ``port`` alone mean this machine only."""
    text = value.strip() if isinstance(value, str) else str(value)
    host, _, port = text.rpartition(":")
    usable = port.isascii() and port.isdigit() and int(port) < 1 << 16
    if text and (not usable or (":" in host and not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]", host))):
        raise ValueError("an address such as 127.0.0.1:9464 is expected")
    return f"{host or '127.0.0.1'}:{port}" if text else ""


def _whole(low: int, high: int) -> Reader:
    def read(value: Any) -> int:
        text = str(value) if not isinstance(value, bool) else ""
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high} is expected")
        return int(text)

    return read


def _one_of(*words: str) -> Reader:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value.lower() not in words:
            raise ValueError(f"one of {', '.join(words)} is expected")
        return value.lower()

    return read


def _setting(key: str, default: Any, read: Reader, explained: str) -> Any:
    metadata = {"key": key, "read": read, "help": explained}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    base = environ.get(variable, "")
    root = Path(base) if base.startswith("/") else _home() / fallback
    return root / "artifactfs"


def _home() -> Path:
    """The user's home; ``/`` for one without, as containers have it."""
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry in passwd
        return Path("/")


def _cache_home(environ: Mapping[str, str] = os.environ) -> Path:
    return _xdg(environ, "XDG_CACHE_HOME", ".cache")


def _state_home(environ: Mapping[str, str] = os.environ) -> Path:
    return _xdg(environ, "XDG_STATE_HOME", ".local/state")


@dataclass(frozen=True, slots=True)
class MountConfig:
    """Restrictions of a mount."""

    read_only: bool = _setting(
        "mount.read_only", False, read_flag, "mount without drop/; nothing can be written"
    )
    noexec: bool = _setting(
        "mount.noexec", False, read_flag, "no file in the mount can be executed"
    )


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Bytes on disk."""

    directory: Path = _setting("cache.dir", _cache_home, read_path, "where cached bytes lie")
    size_bytes: int = _setting(
        "cache.size", 20 << 30, read_size, "how much the cache may hold on disk"
    )
    min_free_bytes: int = _setting(
        "cache.min_free", 1 << 30, read_size, "how much of the cache's disk stays free"
    )


@dataclass(frozen=True, slots=True)
class ListConfig:
    """What exists."""

    ttl_s: float = _setting("list.ttl", 10.0, read_duration, "how old a listing may be")


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """Downloads."""

    window_max_bytes: int = _setting(
        "read.window_max", 128 << 20, read_size, "how far to read ahead of a sequential reader"
    )
    connections: int = _setting(
        "read.connections", 16, _whole(1, 64), "connections that downloads may use at once"
    )
    timeout_s: float = _setting(
        "read.timeout", 60.0, read_duration, "how long a read waits for the service before it fails"
    )


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Every request to the service."""

    connect_timeout_s: float = _setting(
        "http.connect_timeout", 10.0, read_duration, "how long a connection may take"
    )
    timeout_s: float = _setting(
        "http.timeout", 30.0, read_duration, "how long the service may be silent in a request"
    )
    retry_for_s: float = _setting(
        "http.retry_for", 60.0, read_duration, "how long a failing request is repeated"
    )


@dataclass(frozen=True, slots=True)
class UploadConfig:
    """Uploads."""

    controller_max_bytes: int = _setting(
        "upload.controller_max", 8 << 20, read_size, "larger files go to the object store"
    )
    multipart_min_bytes: int = _setting(
        "upload.multipart_min", 64 << 20, read_size, "larger files go in parts"
    )
    connections: int = _setting(
        "upload.connections", 4, _whole(1, 64), "connections that uploads may use at once"
    )
    max_rate_bytes_s: int = _setting(
        "upload.max_rate", 0, read_size, "bytes a second for all uploads; 0 is no limit"
    )


@dataclass(frozen=True, slots=True)
class DropConfig:
    """The outbox as its user sees it."""

    sync: bool = _setting(
        "drop.sync", False, read_flag, "the last close of a file waits until it is uploaded"
    )
    linger_s: float = _setting(
        "drop.linger", 60.0, read_duration, "how long an uploaded file stays in drop/"
    )
    temporary_names: tuple[str, ...] = _setting(
        "drop.temporary_names",
        TEMPORARY_NAMES,
        read_patterns,
        "names that wait for their rename",
    )


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """Where the outbox keeps what is not uploaded yet."""

    directory: Path | None = _setting(
        "spool.dir", None, read_path, "where unsent files lie; default: spool in state.dir"
    )
    max_size_bytes: int = _setting(
        "spool.max_size", 0, read_size, "how much the spool may hold; 0 is no limit"
    )


@dataclass(frozen=True, slots=True)
class StateConfig:
    """What outlives a mount and is no cache."""

    directory: Path = _setting("state.dir", _state_home, read_path, "spool and logs")


@dataclass(frozen=True, slots=True)
class UnmountConfig:
    """The end of a mount."""

    timeout_s: float = _setting(
        "unmount.timeout", 300.0, read_duration, "how long unmount waits for uploads"
    )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged."""

    level: str = _setting(
        "log.level", "info", _one_of("debug", "info", "warning", "error"), "how much is logged"
    )
    format: str = _setting("log.format", "text", _one_of("text", "json"), "text or JSON lines")


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """What is measured."""

    listen: str = _setting(
        "metrics.listen", "", read_address, "where to serve metrics.prom over HTTP: host:port"
    )


@dataclass(frozen=True, slots=True)
class ExternalConfig:
    """References to external URLs."""

    allow_private: bool = _setting(
        "external.allow_private",
        False,
        read_flag,
        "read references to private and loopback addresses",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting of one command or mount.

    `sources` says for each key where its value came from; `ignored` lists environment variables
    that look like ours and are not known.
    """

    url: str = _setting("url", "https://computalot.com", read_url, "the service's base URL")
    token_file: Path | None = _setting("token_file", None, read_path, "a file that holds the token")
    fuse: str = _setting(
        "fuse", "auto", _one_of("auto", "native", "fusepy"), "how to speak with the kernel"
    )
    allow_other: bool = _setting("allow_other", False, read_flag, "let other users use the mount")
    mount: MountConfig = MountConfig()
    cache: CacheConfig = CacheConfig()
    list: ListConfig = ListConfig()
    read: ReadConfig = ReadConfig()
    http: HttpConfig = HttpConfig()
    upload: UploadConfig = UploadConfig()
    drop: DropConfig = DropConfig()
    spool: SpoolConfig = SpoolConfig()
    state: StateConfig = StateConfig()
    unmount: UnmountConfig = UnmountConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    external: ExternalConfig = ExternalConfig()
    token: TokenSource = NO_TOKEN
    supervisor: SystemdNotifier = NOBODY
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    ignored: tuple[str, ...] = field(default=(), compare=False)

    @property
    def spool_directory(self) -> Path:
        """The spool's directory: `spool.dir`, or ``spool`` in `state.dir`."""
        return self.spool.directory or self.state.directory / "spool"

    def values(self) -> dict[str, Any]:
        """Every setting's value by its key, in the order in which they are documented."""
        return {setting.key: setting.get(self) for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting's key, reader and help, and the path of its attribute in `Config`."""

    key: str
    path: tuple[str, ...]
    read: Reader
    explained: str

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "ARTIFACTFS_" + self.key.upper().replace(".", "_")

    def written(self, value: Any) -> str:
        """`value` as one would write it: ``20G``, ``10s``, ``~/.cache/artifactfs``."""
        if value is None:
            return ""
        if self.read is read_size:
            unit = next((one for one in "TGMK" if value and value % (1 << _BITS[one]) == 0), "")
            return f"{value >> _BITS[unit]}{unit}" if unit else str(value)
        if self.read is read_duration:
            return f"{value:g}s"
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, Path) and value.is_relative_to(_home()):
            return f"~/{value.relative_to(_home())}"
        return ":".join(value) if isinstance(value, tuple) else str(value)

    def get(self, config: Config) -> Any:
        """Its value in `config`."""
        value: Any = config
        for name in self.path:
            value = getattr(value, name)
        return value


_SECTIONS: dict[str, type[Any]] = {
    "mount": MountConfig,
    "cache": CacheConfig,
    "list": ListConfig,
    "read": ReadConfig,
    "http": HttpConfig,
    "upload": UploadConfig,
    "drop": DropConfig,
    "spool": SpoolConfig,
    "state": StateConfig,
    "unmount": UnmountConfig,
    "log": LogConfig,
    "metrics": MetricsConfig,
    "external": ExternalConfig,
}


def _settings_of(kind: type[Any], path: tuple[str, ...]) -> list[Setting]:
    return [
        Setting(
            spec.metadata["key"], (*path, spec.name), spec.metadata["read"], spec.metadata["help"]
        )
        for spec in dataclasses.fields(kind)
        if "key" in spec.metadata
    ]


SETTINGS: tuple[Setting, ...] = (
    *_settings_of(Config, ()),
    *(one for name, kind in _SECTIONS.items() for one in _settings_of(kind, (name,))),
)
BY_KEY: Mapping[str, Setting] = MappingProxyType({setting.key: setting for setting in SETTINGS})


def key_of_option(name: str) -> str | None:
    """The key a ``-o`` option means: ``cache.size``, ``cache_size`` and ``cache-size`` alike."""
    plain = name.replace("-", "_")
    for setting in SETTINGS:
        if plain in (setting.key, setting.key.replace(".", "_")):
            return setting.key
    return None


def default_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The configuration files in the order in which they are laid over each other."""
    home = _xdg(environ, "XDG_CONFIG_HOME", ".config")
    return Path("/etc/artifactfs/config.toml"), home / "config.toml"


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    files: Sequence[Path] | None = None,
) -> Config:
    """Lay defaults, files, environment and flags over each other.

    `flags` holds values by key (None is "not given") as the command line got them. Raises
    `ConfigError` that names the place and the key of the first value that is wrong or unknown.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {
        "cache.dir": _cache_home(environ),
        "state.dir": _state_home(environ),
    }
    sources = {setting.key: "default" for setting in SETTINGS}

    def lay(key: str, raw: Any, source: str, shown: str) -> None:
        if key not in BY_KEY:
            raise ConfigError(f"{source}: unknown setting {key}{_suggestion(key)}")
        try:
            values[key] = BY_KEY[key].read(raw)
        except (ValueError, OverflowError, RuntimeError) as error:
            raise ConfigError(f"{source}: {shown}: {error}, not {raw!r}") from error
        sources[key] = source

    for path in default_files(environ) if files is None else files:
        for key, raw in _read_file(path).items():
            lay(key, raw, str(path), key)
    ignored = []
    by_variable = {setting.variable: setting.key for setting in SETTINGS}
    for variable, text in sorted(environ.items()):
        if not variable.startswith("ARTIFACTFS_") or variable == "ARTIFACTFS_TOKEN" or not text:
            continue
        if variable in by_variable:
            lay(by_variable[variable], text, variable, by_variable[variable])
        else:
            ignored.append(variable)
    for key, raw in (flags or {}).items():
        if raw is not None:
            lay(key, raw, "command line", key)
    built = _build(values)
    token = _token_source(built.token_file, sources["token_file"], environ)
    return dataclasses.replace(
        built,
        token=token,
        supervisor=systemd_notifier(environ, os.getpid()),
        sources=MappingProxyType(sources),
        ignored=tuple(ignored),
    )


def _build(values: Mapping[str, Any]) -> Config:
    parts: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    plain: dict[str, Any] = {}
    for key, value in values.items():
        *section, name = BY_KEY[key].path
        (parts[section[0]] if section else plain)[name] = value
    sections = {name: kind(**parts[name]) for name, kind in _SECTIONS.items()}
    return Config(**plain, **sections)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if name == "token":
            raise ConfigError(
                f"{path}: a token does not belong into this file",
                remedy="put it into a file of its own with mode 0600 and set token_file",
            )
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": raw for inner, raw in value.items()}
        else:
            flat[name] = value
    return flat


def _token_source(
    token_file: Path | None, file_source: str, environ: Mapping[str, str]
) -> TokenSource:
    if token_file is not None and file_source == "command line":
        return TokenSource(str(token_file), path=token_file)
    if environ.get("ARTIFACTFS_TOKEN"):
        return TokenSource("ARTIFACTFS_TOKEN", value=Secret(environ["ARTIFACTFS_TOKEN"]))
    if token_file is not None and file_source == "ARTIFACTFS_TOKEN_FILE":
        return TokenSource(str(token_file), path=token_file)
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (path := Path(credentials, "artifactfs-token")).is_file():
        return TokenSource(str(path), path=path)
    if environ.get("COMPUTALOT_TOKEN"):
        return TokenSource("COMPUTALOT_TOKEN", value=Secret(environ["COMPUTALOT_TOKEN"]))
    if token_file is not None:
        return TokenSource(str(token_file), path=token_file)
    return NO_TOKEN


def _suggestion(key: str) -> str:
    close = difflib.get_close_matches(key, BY_KEY, n=1)
    return f"; did you mean {close[0]}?" if close else ""
