"""Where log lines go and how they look.

A mount in the background logs to a file of its own in the state directory, which is turned over at
a few megabytes. Lines are text, or JSON with ``log.format = json``. Nothing here sees a token:
those are `Secret`, which shows itself nowhere.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
from pathlib import Path

from artifactfs.config import Config

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

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The record's own line."""
        return re.sub(r"[\x00-\x1f\x7f]", "?", super().formatMessage(record))


def log_path(config: Config, mountpoint: Path) -> Path:
    """The log file of a mount."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(mountpoint)).strip("-") or "mount"
    return config.state.directory / "log" / f"{name[-100:]}.log"


def log_to_file(config: Config, path: Path) -> None:
    """Log to a file from now on. Raises `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=MOST_BYTES, backupCount=KEPT)
    _use(config, handler)


def log_to_terminal(config: Config) -> None:
    """Log to standard error from now on."""
    _use(config, logging.StreamHandler())


def _use(config: Config, handler: logging.Handler) -> None:
    handler.setFormatter(JsonLines() if config.log.format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log.level.upper())
    logging.getLogger("urllib3").setLevel(logging.WARNING)
