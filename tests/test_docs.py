"""The documentation names files, functions and pages that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])
REFERENCE = re.compile(r"`(?P<zk>zk/)?(?P<file>[\w/]+\.py):(?P<name>[\w.]+)`")


def names_in(file: Path) -> set[str]:
    """Return the names that a file defines: functions, classes, and `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (it for it in node.body if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef))
            found.update(f"{node.name}.{method.name}" for method in methods)
    return found


def test_architecture_names_what_exists() -> None:
    """Each `file:function` of the architecture page can be opened."""
    references = list(REFERENCE.finditer((ROOT / "docs" / "architecture.md").read_text()))
    assert len(references) > 30
    for reference in references:
        folder = "coordinators/metafora_trio_zookeeper" if reference["zk"] else "metafora_trio"
        file = ROOT / folder / reference["file"]
        assert file.exists(), reference[0]
        assert reference["name"] in names_in(file), reference[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A link to another page or file of the project is not broken."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
