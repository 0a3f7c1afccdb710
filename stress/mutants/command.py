"""Puts deliberate bugs into the library, and checks that the simulation finds them: `python -m stress.mutants`.

Each mutant (`all_mutants.py`) switches off one rule of the protocol. Mutants of the node work with any broker, the
others with one broker only. For each mutant, histories are drawn until one breaks a promise; the table shows which
promise, and after how many histories. If the same history breaks a promise without the mutant, too, the search has
found a bug of the library. Exit status: 1 if a mutant was not caught, or for such a bug; 2 usage; 130 interrupted.
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
    """The result of the search for one mutant.

    Attributes:
        name: the name of the mutant.
        histories: how many histories were drawn.
        check: the promise that was broken; empty if none was.
        script: the shortened history that breaks it.
        genuine: whether the history breaks a promise without the mutant, too, because of a bug of the library.
    """

    name: str
    histories: int
    check: str = ""
    script: str = ""
    genuine: bool = False

    @property
    def caught(self) -> bool:
        """True if the mutant was caught."""
        return bool(self.check) and not self.genuine


def hunt(name: str, seed: int, histories: int, broker: str = "zookeeper") -> Catch:
    """Search for one mutant with a broker, by its name in `BROKERS`."""
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    drawn = 0
    while drawn < histories:
        with mutant.patch():
            tally = search(seed + drawn, min(_BATCH, histories - drawn), broker=broker)
        drawn += tally.histories
        failure = tally.failure
        if failure is not None and failure.broken:  # any other failure breaks no promise
            genuine = _breaks(failure.script)
            return Catch(name, drawn, failure.problem, failure.script.encode(), genuine=genuine)
    return Catch(name, drawn)


def _breaks(script: Script) -> bool:
    """Return whether a history breaks a promise of the unchanged library."""
    try:
        with quiet():
            play(script)
    except BrokenPromise:
        return True
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser("python -m stress.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"the mutants (all): {', '.join(map(str, MUTANTS))}")
    parser.add_argument("--broker", choices=list(BROKERS), default="zookeeper", help="the broker (zookeeper)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same histories (1)")
    parser.add_argument("--histories", type=at_least(1), default=2000, help="the maximum for each mutant (2000)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=at_least(1), default=cores, help="the number of processes (all cores)")
    parser.add_argument("--save", type=Path, help="a folder for the histories that catch mutants, NAME.json")
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
                    print(f"A BUG OF THE LIBRARY, not of the mutant:\n{catch.script}", flush=True)
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
