"""examples/hello.py is the first program of the README, runs, and ends by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from examples import hello


async def test_hello(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """The task runs on the one node, under one token, until the node leaves."""
    await hello.main()
    lines = capsys.readouterr().out.splitlines()
    assert 3 <= len(lines) <= 5  # the node settles before it claims the task
    assert len(set(lines)) == 1
    assert " polls https://example.com/feed with token " in lines[0]


def test_it_is_the_program_of_the_readme() -> None:
    root = Path(__file__).parent.parent.parent
    shown = (root / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    code = (root / "examples/hello.py").read_text().partition("import annotations\n")[2]
    assert code.split() == shown.split()
