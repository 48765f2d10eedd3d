"""What the documentation says of the code is there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


def members() -> dict[str, set[str]]:
    """Each class of the package with the names of its methods and fields."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "artifactfs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                inside = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
                inside |= {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
                inside |= {
                    one.name
                    for one in ast.walk(node)
                    if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
                }
                found.setdefault(node.name, set()).update(inside)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_class_method_and_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = members()
    for name in re.findall(r"`([A-Z]\w+)`", text):
        if not name.isupper():
            assert name in known, name
    for name, member in re.findall(r"`([A-Z]\w+)\.(\w+)`", text):
        assert name in known, name
        assert member in known[name], f"{name}.{member}"
    files = {
        path.relative_to(ROOT / "artifactfs").as_posix()
        for path in (ROOT / "artifactfs").rglob("*.py")
    }
    for name in re.findall(r"`([\w/]+\.py)`", text):
        assert any(path == name or path.endswith(f"/{name}") for path in files), name


def test_the_picture_of_the_layers_is_the_present_one() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "layers"], check=True, capture_output=True, text=True
    )
    assert done.stdout in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
