"""Where log lines go and how they look.

A mount in the background logs to a file of its own in the state directory, which is turned over at
a few megabytes; one in the foreground logs to standard error. Lines are text, or JSON with
``log.format = json``. Where standard error leads to systemd's journal, each line has its level in
front as sd-daemon(3) says, so that ``journalctl -p warning`` finds what it should, and no time,
since the journal has its own. A line that comes while a progress bar is drawn is printed above it.
Nothing here sees a token: those are `Secret`, which shows itself nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path

from artifactfs.config import Config

_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
MOST_BYTES = 4 << 20
KEPT = 3


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        document = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "room": record.name.removeprefix("artifactfs."),
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)


class TextLines(logging.Formatter):
    """One readable line a record; what others put into it cannot start a line of its own."""

    def __init__(self, form: str = "%(asctime)s %(levelname)-7s %(message)s") -> None:
        super().__init__(form, "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The record's own line."""
        return re.sub(r"[\x00-\x1f\x7f]", "?", super().formatMessage(record))


class JournalLines(logging.Formatter):
    """What `inner` makes of a record, each line with its level in front for the journal."""

    LEVELS: Mapping[int, int] = {
        logging.CRITICAL: 2,
        logging.ERROR: 3,
        logging.WARNING: 4,
        logging.INFO: 6,
        logging.DEBUG: 7,
    }

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines."""
        level = self.LEVELS.get(record.levelno, 6)
        return "\n".join(f"<{level}>{line}" for line in self._inner.format(record).splitlines())


class StandardError(logging.Handler):
    """Standard error as it is now: while a progress bar is drawn, what prints above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except OSError:
            self.handleError(record)


class LogFile(logging.handlers.RotatingFileHandler):
    """A log file. What its disk does not take goes to standard error instead."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MOST_BYTES, backupCount=KEPT, delay=True)

    def _open(self) -> TextIOWrapper:
        return open(_open_log(Path(self.baseFilename)), "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Write the record to standard error, and open the file again for the next one."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
            return
        stream, self.stream = self.stream, None
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        if stream is not None:
            with contextlib.suppress(OSError):  # it tries once more to write what it holds
                stream.close()


def _open_log(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def log_path(config: Config, mountpoint: Path) -> Path:
    """The log file of a mount."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(mountpoint)).strip("-") or "mount"
    return config.state.directory / "log" / f"{name[-100:]}.log"


def log_to_file(config: Config, path: Path) -> None:
    """Log to a file from now on. Raises `OSError`, but not where its disk is full or fails."""
    try:
        os.close(_open_log(path))
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
    _use(config, LogFile(path), _lines(config, TextLines()))


def log_to_terminal(config: Config) -> None:
    """Log to standard error from now on."""
    if config.supervisor.reads(sys.stderr):
        lines: logging.Formatter = JournalLines(_lines(config, TextLines("%(message)s")))
    else:
        lines = _lines(config, TextLines())
    _use(config, StandardError(), lines)


def _lines(config: Config, text: logging.Formatter) -> logging.Formatter:
    return JsonLines() if config.log.format == "json" else text


def _use(config: Config, handler: logging.Handler, lines: logging.Formatter) -> None:
    handler.setFormatter(lines)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log.level.upper())
    logging.getLogger("urllib3").setLevel(logging.WARNING)
