"""Has the simulation teeth? `python -m stress.mutants` puts deliberate bugs into the library and searches for them.

Each mutant (`all_mutants.py`) switches one rule of the protocol off: those of the node with any broker, others with one
broker only. For each, histories are drawn until one breaks a
promise; the table says which, and after how many. A promise that the same history breaks without the mutant, too, is a
find of another kind: a bug of the library. Exit status: 1 if a mutant got away, or for such a bug; 2 usage; 130
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from metafora_trio.testing.simulation import BrokenPromise
from stress.arguments import at_least
from stress.pool import open_pool
from stress.simulate.brokers import BROKERS
from stress.simulate.machine import quiet
from stress.simulate.script import Script, play
from stress.simulate.search import search

from .all_mutants import MUTANTS, Mutant, mutants_of

__all__ = ["Catch", "hunt", "main"]

_BATCH = 25


@dataclass(frozen=True, slots=True)
class Catch:
    """The result for one mutant.

    Attributes:
        name: the mutant's.
        histories: how many were drawn.
        check: the promise that it broke; empty if it got away.
        script: the shortened history that shows it.
        genuine: whether the mutant is innocent: the history breaks a promise without it, too.
    """

    name: str
    histories: int
    check: str = ""
    script: str = ""
    genuine: bool = False

    @property
    def caught(self) -> bool:
        """True if the mutant was."""
        return bool(self.check) and not self.genuine


def hunt(name: str, seed: int, histories: int, broker: str = "zookeeper") -> Catch:
    """Search for one mutant with a broker, one of `BROKERS`."""
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    drawn = 0
    while drawn < histories:
        with mutant.patch():
            tally = search(seed + drawn, min(_BATCH, histories - drawn), broker=broker)
        drawn += tally.histories
        failure = tally.failure
        if failure is not None and failure.broken:  # what merely fails, breaks no promise
            genuine = _breaks(failure.script)
            return Catch(name, drawn, failure.problem, failure.script.encode(), genuine=genuine)
    return Catch(name, drawn)


def _breaks(script: Script) -> bool:
    """Return whether a history breaks a promise of the library as it is."""
    try:
        with quiet():
            play(script)
    except BrokenPromise:
        return True
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser("python -m stress.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (all): {', '.join(map(str, MUTANTS))}")
    parser.add_argument("--broker", choices=list(BROKERS), default="zookeeper", help="which broker (zookeeper)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same histories (1)")
    parser.add_argument("--histories", type=at_least(1), default=2000, help="how many for each at most (2000)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=at_least(1), default=cores, help="how many (all cores)")
    parser.add_argument("--save", type=Path, help="a folder for the history that catches each, NAME.json")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    options = parser.parse_args(arguments)
    chosen = _chosen(parser, options.names, options.broker)
    if options.save is not None and not options.save.is_dir():
        parser.error(f"--save: no folder {options.save}")
    catches: list[Catch] = []
    print(f"{'mutant':34} {'histories':>9}  caught by")
    try:
        with open_pool(options.processes) as pool:
            how = options.seed, options.histories, options.broker
            hunts = [pool.submit(hunt, mutant.name, *how) for mutant in chosen]
            for future in hunts:
                catch = future.result()
                catches.append(catch)
                check = catch.check.partition("\n")[0] or "NOT CAUGHT"
                print(f"{catch.name:34} {catch.histories:9,}  {check}", flush=True)
                if catch.genuine:
                    print(f"A BUG OF THE LIBRARY, which is there without the mutant:\n{catch.script}", flush=True)
                if options.save is not None and catch.script:
                    (options.save / f"{catch.name}.json").write_text(catch.script)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    escaped = [catch.name for catch in catches if not catch.caught]
    if options.json:
        print(json.dumps({"mutants": [asdict(catch) for catch in catches], "escaped": escaped, "seed": options.seed}))
    return int(bool(escaped))


def _chosen(parser: argparse.ArgumentParser, names: Sequence[str], broker: str) -> Sequence[Mutant]:
    known = {mutant.name: mutant for mutant in mutants_of(broker)}
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no mutant {', '.join(unknown)} with the broker {broker}")
    return [known[name] for name in names] or [*known.values()]
