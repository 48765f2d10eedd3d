"""What is counted, and how a mount says it."""

from __future__ import annotations

import pytest

from artifactfs.cli import output, status


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (12_000, "12,000 files")]
)
def test_one_is_one_and_all_others_are_many(number: int, said: str) -> None:
    assert output.count(number, "file") == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "1 file stays in /s and resumes at"), (2, "2 files stay in /s and resume at")],
)
def test_what_stays_is_counted(count: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    status.say_where_it_stays([{}] * count, "/s")
    assert said in capsys.readouterr().err
