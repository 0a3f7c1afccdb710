"""The simulation has teeth: for each deliberate bug a pinned history that catches it, and is harmless without it.

`python -m stress.mutants --save tests/simulation/mutants` searches for them afresh.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from metafora_trio.testing import BrokenPromise
from stress._machine import quiet
from stress._mutants import MUTANTS
from stress._script import Script, play

PINNED = {path.stem: path for path in sorted((Path(__file__).parent / "mutants").glob("*.json"))}
CAUGHT = [mutant for mutant in MUTANTS if mutant.name in PINNED]


def test_each_history_is_for_a_mutant() -> None:
    assert set(PINNED) == {mutant.name for mutant in CAUGHT}


def test_enough_mutants_are_caught() -> None:
    assert len(CAUGHT) >= 12


@pytest.mark.parametrize("name", [mutant.name for mutant in CAUGHT])
def test_the_history_catches_the_mutant_and_nothing_else(name: str) -> None:
    script = Script.read(PINNED[name])
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    with quiet():
        play(script)
        with mutant.patch(), pytest.raises(BrokenPromise):
            play(script)
