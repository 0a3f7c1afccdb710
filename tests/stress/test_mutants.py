"""The simulation finds mutants: for each, a pinned history breaks a promise, and breaks none without the mutant.

`python -m stress.mutants --save tests/stress/mutants` searches for them again.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metafora_trio.testing.simulation import BrokenPromise
from stress.mutants.all_mutants import MUTANTS
from stress.simulate.machine import quiet
from stress.simulate.script import Script, play

PINNED = {path.stem: path for path in sorted((Path(__file__).parent / "mutants").glob("*.json"))}
NAMES = [mutant.name for mutant in MUTANTS]


def test_each_mutant_has_a_history_and_a_row_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "verification.md").read_text()
    assert sorted(PINNED) == sorted(NAMES) == sorted(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_the_history_catches_the_mutant_and_nothing_else(name: str) -> None:
    script = Script.read(PINNED[name])
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    with quiet():
        play(script)
        with mutant.patch(), pytest.raises(BrokenPromise):
            play(script)
