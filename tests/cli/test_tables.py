"""Tables on terminals of several widths, and piped: ids, keys and sizes are never cut."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest
from rich.cells import cell_len
from rich.text import Text

from artifactfs.cli import output
from artifactfs.config import SETTINGS, load
from artifactfs.server.testing import LocalController

WIDTHS = [40, 80, 200]
LONG = "long/" + "x" * 150 + "/end.bin"
NAMES = [
    LONG,
    "plain.bin",
    "עברית.bin",
    "日本語" * 30,
    "right\u202eto\u2066left.bin",
    "zero\u200bwidth.bin",
    "e\u0301" * 40,
]
TOP = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalController]:
    with LocalController(tmp_path_factory.mktemp("service") / "data") as running:
        for number, name in enumerate(NAMES):
            running.make_artifact(name.encode(), b"c" * (1500 + number))
        running.make_artifact("gone.bin", b"gone" * 500)
        yield running


@pytest.fixture(scope="module")
def environment(
    service: LocalController, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """A user whose cache has all of them."""
    home = tmp_path_factory.mktemp("user")
    names = {"COLUMNS", "LINES", "NO_COLOR"}
    environment = {name: value for name, value in os.environ.items() if name not in names} | {
        "ARTIFACTFS_URL": service.url,
        "ARTIFACTFS_TOKEN": service.token,
        "HOME": str(home),
        "TERM": "xterm",
    }
    asked = [one["name"] for one in listed(environment)]
    subprocess.run(
        [sys.executable, "-m", "artifactfs", "get", "-o", "-", *asked],
        env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return environment


def listed(environment: dict[str, str]) -> list[dict]:
    return json.loads(piped(environment, "ls", "--json"))


def piped(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "artifactfs", *words],
        env=environment, capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.decode()


def on_a_terminal(environment: dict[str, str], columns: int, *words: str) -> list[str]:
    """The lines that a command writes to a terminal that is so wide; it wraps none of them."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    running = subprocess.Popen(
        [sys.executable, "-m", "artifactfs", *words],
        stdin=its, stdout=its, stderr=its, env=environment,
    )  # fmt: skip
    os.close(its)
    written = b""
    try:
        while piece := os.read(ours, 65536):
            written += piece
    except OSError:  # a terminal ends with EIO
        pass
    os.close(ours)
    assert running.wait(60) in (0, 1)
    text = TOP.sub("", written.decode())
    assert "\x1b" not in text
    return text.replace("\r\n", "\n").rstrip("\n").split("\n")


def fits(line: str, columns: int) -> bool:
    """Whether a line takes one line of the terminal, or several, of which the last may be short."""
    return cell_len(line) <= max(columns, -(-cell_len(line.rstrip()) // columns) * columns)


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_long_listing_shortens_names_alone(environment: dict[str, str], columns: int) -> None:
    heading, *lines = on_a_terminal(environment, columns, "ls", "-l")
    assert heading.split() == ["size", "created", "sha256", "id", "name"]
    rows = listed(environment)
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        size, unit, _, _, digits, number, name = line.split(maxsplit=6)
        assert (f"{size} {unit}", digits) == (output.size(row["size"]), row["sha256"][:12])
        assert number == row["id"]
        whole = output.plain(row["name"])
        if name != whole:
            assert name.endswith("…")
            assert whole.startswith(name[:-1])
            before = cell_len(line) - cell_len(name)
            assert -(-before // columns) * columns - columns <= cell_len(line)
            assert cell_len(line) % columns in (0, columns - 1), "all of the room is used"
        elif before_fits(line, name, columns):
            assert cell_len(line) <= columns


def before_fits(line: str, name: str, columns: int) -> bool:
    return cell_len(line) - cell_len(name) + output.MIN_LAST_CELLS <= columns


@pytest.mark.parametrize("columns", WIDTHS)
def test_every_setting_and_value_is_whole(environment: dict[str, str], columns: int) -> None:
    lines = on_a_terminal(environment, columns, "config")[1:]
    values = load(environ=environment, files=())
    for setting, line in zip(SETTINGS, lines, strict=False):
        key, *rest = re.split(r" {2,}", line)
        assert key == setting.key
        written = setting.written(setting.get(values))
        assert not written or rest[0] == written
        assert line.endswith(("…", setting.explained))
        if columns == 200:
            assert line.endswith(setting.explained)


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_cache_shows_whole_sizes_and_keys(environment: dict[str, str], columns: int) -> None:
    contents = json.loads(piped(environment, "cache", "--json"))["contents"]
    heading, *lines = on_a_terminal(environment, columns, "cache")
    assert heading.split() == ["size", "cached", "verified", "pinned", "used", "name"]
    for one, line in zip(contents, lines, strict=False):
        assert line.split()[:3] == [*output.size(one["size_bytes"]).split(), "100%"]
    away = environment | {"ARTIFACTFS_URL": "http://127.0.0.1:9", "ARTIFACTFS_HTTP_RETRY_FOR": "0"}
    text = "\n".join(on_a_terminal(away, columns, "cache"))
    if one := next((one for one in contents if one["key"] in text), None):
        assert all(one["key"] in text for one in contents)


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_watched_job_has_its_whole_id(
    service: LocalController, environment: dict[str, str], columns: int
) -> None:
    job = f"job-{'i' * 20}-{columns}"
    last_line = "word " * 100
    service.make_job(job, status="running", tasks=[{"status": "running", "append": last_line}])
    service.end_job(job, "failed")
    text = "\n".join(on_a_terminal(environment, columns, "watch", job))
    assert job in text
    assert "failed" in text
    assert "word word" in text
    assert "…" in text
    assert "1 of 1 ended" in text


def test_what_is_piped_is_whole(environment: dict[str, str]) -> None:
    rows = listed(environment)
    names = [row["name"] for row in rows]
    for more in ({}, {"COLUMNS": "20"}):
        assert piped(environment | more, "ls").splitlines() == names
        lines = piped(environment | more, "ls", "-l").splitlines()[1:]
        assert [line.split(maxsplit=6)[6] for line in lines] == names
        assert "…" not in piped(environment | more, "config")
        assert LONG in piped(environment | more, "cache")


@pytest.mark.parametrize("words", [("ls",), ("ls", "-l"), ("cache",)])
def test_a_name_does_nothing_to_a_terminal(
    environment: dict[str, str], words: tuple[str, ...]
) -> None:
    text = "\n".join(on_a_terminal(environment, 200, *words))
    assert "\u202e" not in text
    assert "\u200b" not in text
    assert r"right\u202eto\u2066left.bin" in text
    assert r"zero\u200bwidth.bin" in text
    assert "עברית.bin" in text


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_rows_are_laid_out_in_cells(width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        ("日本語", "1.0 MB", "a\x1b[31m\nb"),
        ("e\u0301", "20.0 MB", "名" * 100),
        ("x" * 60, "3 B", output.Whole("k" * 150)),
        ("plain", "4 B", ""),
    ]
    laid_out = output.rows(("n", "size", "last"), cells, right=(1,), width=width)
    lines = [line.plain for line in laid_out]
    assert len(lines) == 5
    for (name, size, last), line in zip(cells, lines[1:], strict=True):
        assert name in line
        assert size in line
        if width is None or isinstance(last, output.Whole):
            assert line.endswith(output.for_output(last))
    assert r"a\x1b[31m\nb" in lines[1]
    if width is not None:
        assert lines[2].endswith("…")
        assert cell_len(lines[2]) in (width, width - 1)
    starts = {cell_len(line.partition("MB")[0]) for line in lines[1:3]}
    assert len(starts) == 1, "columns stand below each other"


def test_text_of_ours_is_taken_as_it_is() -> None:
    (line,) = output.rows((), [(Text("a", "red"), output.bar(0.5, 10), "z")], width=80)
    assert line.plain == "a  " + "━" * 10 + "  z"
