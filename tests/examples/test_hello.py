"""The first program that a reader sees runs, shows who runs what, and ends by itself."""

from __future__ import annotations

import re

import pytest
from trio.testing import MockClock

from examples import hello


async def test_hello(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Each task is greeted once, and both nodes have a share."""
    await hello.main()
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [re.sub(r"^(ant|bee)\.\d+ ", "", line) for line in sorted(lines, key=lambda line: line.split()[2])] == [
        f"runs task-{number}: hello, {name}" for number, name in enumerate("abcdef")
    ]
    assert {line[:3] for line in lines} == {"ant", "bee"}
