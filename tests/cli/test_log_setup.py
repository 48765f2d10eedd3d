"""How log lines look: for people, for programs, for the journal, beside a progress bar."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.cli import log_setup
from artifactfs.config import Config, load
from artifactfs.systemd import SystemdNotifier


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)


def configured(**values: str) -> Config:
    return load({f"log.{key}": value for key, value in values.items()}, environ={}, files=())


def log_three() -> None:
    log = logging.getLogger("artifactfs.cache.cache")
    log.debug("fetched %d bytes", 7)
    log.warning("a\nb")
    try:
        raise OSError("no room")
    except OSError:
        log.exception("not cached")


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    log_setup.log_to_terminal(configured(format="json", level="debug"))
    log_three()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["level"], one["room"], one["message"]) for one in lines] == [
        ("debug", "cache.cache", "fetched 7 bytes"),
        ("warning", "cache.cache", "a\nb"),
        ("error", "cache.cache", "not cached"),
    ]
    assert "OSError: no room" in lines[2]["exception"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_each_line_for_the_journal_has_its_level_and_no_time(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        found = os.fstat(stream.fileno())
        journal = SystemdNotifier(journal=f"{found.st_dev}:{found.st_ino}")
        log_setup.log_to_terminal(
            dataclasses.replace(configured(format=form, level="debug"), supervisor=journal)
        )
        log_three()
        lines = (tmp_path / "journal").read_text().splitlines()
    assert [line[:3] for line in lines[:3]] == ["<7>", "<4>", "<3>"]
    if form == "json":
        assert [json.loads(line[3:])["message"] for line in lines][1] == "a\nb"
    else:
        assert lines[:2] == ["<7>fetched 7 bytes", "<4>a?b"]
        assert len(lines) > 3
        assert {line[:3] for line in lines[3:]} == {"<3>"}  # the traceback's lines, too


def test_a_line_goes_where_standard_error_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar takes its place while it is drawn, and prints lines above itself."""
    log_setup.log_to_terminal(configured())
    drawn = io.StringIO()
    monkeypatch.setattr(sys, "stderr", drawn)
    logging.getLogger("artifactfs").warning("while it is drawn")
    assert "while it is drawn" in drawn.getvalue()
