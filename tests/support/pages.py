"""The code blocks of the project's pages, for tests that run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "python_blocks", "run_blocks"]

ROOT = Path(__file__).parents[2]


def python_blocks(page: str) -> list[str]:
    """Return the Python blocks of a page, named by its path in the project."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def run_blocks(page: str) -> dict[str, Any]:
    """Run the Python blocks of a page one after the other, and return all names that they define."""
    names: dict[str, Any] = {"__name__": __name__}  # dataclasses look up their module by this name
    for block in python_blocks(page):
        exec(compile(block, page, "exec"), names)  # inherits this file's `from __future__ import annotations`
    return names
