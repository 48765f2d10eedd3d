"""Errors as one line with a remedy, and exit statuses that scripts can use."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from artifactfs.cli.standard_streams import OutputError, standard_streams
from artifactfs.errors import ArtifactfsError, ConfigError

FAILED = 1
WRONG_WORDS = 2
NOT_ALL_UPLOADED = 3
INTERRUPTED = 130

_log = logging.getLogger(__name__)


def line_of(error: BaseException) -> str:
    """One line: what happened, and what to do."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def line_about(path: Path, error: BaseException) -> str:
    """One line that names `path` once, whether the error names it or not."""
    line = line_of(error)
    return line if line.startswith(f"{path}: ") else f"{path}: {line}"


def say(text: str) -> None:
    """A line on standard error; above a progress bar, if one is drawn there.

    The bar takes the place of ``sys.stderr``, which click would look behind.
    """
    print(f"artifactfs: {text}", file=sys.stderr, flush=True)  # noqa: T201


def run_command(command: click.Command, words: Sequence[str], name: str) -> int:
    """Run a command and return its exit status; errors become one line, never a traceback.

    Output that was not written whole is an error too, unless its reader has ended (``| head``): it
    has had what it wanted. The command then ends quietly with status 0.
    """
    with standard_streams() as finish:

        def act() -> Any:
            left = command.main(args=list(words), prog_name=name, standalone_mode=False)
            finish()
            return left

        return _status_of(act)


def _status_of(act: Callable[[], Any]) -> int:
    try:
        left = act()
    except OutputError as error:
        if error.is_reader_gone:
            return 0
        say(line_of(error))
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        say("interrupted")
        return INTERRUPTED
    except click.UsageError as error:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        say(f"{' '.join(error.format_message().split())}{hint}")
        return WRONG_WORDS
    except click.ClickException as error:
        say(error.format_message())
        return error.exit_code
    except ConfigError as error:
        say(line_of(error))
        return WRONG_WORDS
    except (ArtifactfsError, OSError) as error:
        say(line_of(error))
        _log.debug("why", exc_info=error)
        return FAILED
    except Exception as error:
        say(f"this should not have happened: {type(error).__name__}: {line_of(error)}")
        _log.debug("why", exc_info=error)
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        return FAILED
    return left if isinstance(left, int) else 0
