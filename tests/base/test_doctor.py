"""What the doctor says of things that are not well; the rest is tried on a real machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifactfs import doctor
from artifactfs.config import load

SOON = {"http.retry_for": "0", "http.connect_timeout": "1"}


def said(flags: dict[str, str], environ: dict[str, str] | None = None) -> dict[str, doctor.Check]:
    config = load({**SOON, **flags}, environ=environ or {}, files=())
    return {check.name: check for check in doctor.examine(config)}


@pytest.mark.parametrize(
    ("ahead_s", "state", "word"),
    [
        (0.4, "ok", "agrees"),
        (-59, "ok", "agrees"),
        (400, "warn", "ahead of"),
        (-61, "warn", "behind"),
    ],
)
def test_a_clock_that_is_off_by_more_than_a_minute_is_told(
    ahead_s: float, state: str, word: str
) -> None:
    check = doctor.clock_check(ahead_s)
    assert check.state == state
    assert word in check.detail


def test_everything_that_is_wrong_has_its_own_remedy(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("flk_x")
    token.chmod(0o644)
    (tmp_path / "file").write_text("")
    found = said(
        {
            "url": "http://nobody.invalid:9",
            "token_file": str(token),
            "cache.dir": str(tmp_path / "file"),
        },
        {"ARTIFACTFS_CACHE_SICE": "1"},
    )
    assert found["url"].state == "warn"
    assert "in the clear" in found["url"].detail
    assert found["token"].remedy == f"chmod 600 {token}"
    assert found["service"].state == "fail"
    assert found["cache"].state == "fail"
    assert "ARTIFACTFS_CACHE_SICE" in found["environment"].detail
    assert "clock" not in found
    for check in found.values():
        assert check.state == "ok" or check.remedy, check


def test_a_service_on_this_machine_may_be_without_tls() -> None:
    for url in ("http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9"):
        assert said({"url": url})["url"].state == "ok"
