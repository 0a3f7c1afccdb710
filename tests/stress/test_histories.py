"""Pinned histories: some once broke a promise, others are worth keeping. Now none of them breaks one."""

from __future__ import annotations

from pathlib import Path

import pytest

from stress.simulate.machine import quiet
from stress.simulate.script import Script, play

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_every_promise_is_kept(path: Path) -> None:
    with quiet():
        play(Script.read(path))
