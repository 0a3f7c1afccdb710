"""Changes the protocol's code a little, and checks that a test fails: `python -m stress.mutation lease reconcile`.

Cosmic Ray makes one mutant of a module after another, in a copy of the checkout: a comparison, a number or a condition
is changed, or a statement removed. For each, the module's tests run (`targets.py`). A mutant that no test notices is
printed with its diff, unless `accepted.toml` has it, with the reason why no test needs to notice it. Exit status: 1 if
a mutant survived that is not accepted, if one is accepted that does not survive, or if a run failed; 2 usage; 130
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path

from stress.arguments import at_least
from stress.pool import open_pool

from .run import MutationFailed, Result, mutate
from .survivors import Survivor, compare, load_accepted
from .targets import TARGETS

__all__ = ["main"]

_EXAMPLES = """examples:
  python -m stress.mutation                    all modules (half an hour)
  python -m stress.mutation lease reconcile    two modules
  python -m stress.mutation --json heartbeat   with a summary for programs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m stress.mutation",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"the modules (all): {', '.join(TARGETS)}")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=at_least(1), default=cores, help="modules at a time (all cores)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in TARGETS]:
        parser.error(f"no module {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    names = list(dict.fromkeys(options.names)) or list(TARGETS)
    total = _Total(len(names))
    try:
        _run(names, options.processes, total)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if options.json:
        killed = total.mutants - total.survived
        figures = {"mutants": total.mutants, "killed": killed, "survived": total.survived, "accepted": total.accepted}
        print(json.dumps(figures))
    return int(total.bad)


@dataclass(slots=True)
class _Total:
    """The sum of all modules so far, of which there are `modules` to come in all."""

    modules: int
    done: int = 0
    mutants: int = 0
    survived: int = 0
    accepted: int = 0
    bad: bool = False
    began: float = field(default_factory=time.monotonic)

    def add(self, name: str, result: Result, accepted: Mapping[Survivor, str]) -> None:
        """Print what one module's run has found, and count it."""
        diffs = dict(result.survivors)
        new, gone = compare(diffs, accepted, [TARGETS[name].module])
        for survivor in new:
            print(f"\nSURVIVED, no test noticed it:\n{diffs[survivor]}\n\n{survivor.as_toml()}", flush=True)
        for survivor in gone:
            print(f"\nACCEPTED, but it did not survive or is no longer made:\n{survivor.as_toml()}", flush=True)
        self.done += 1
        self.mutants += result.mutants
        self.survived += len(result.survivors)
        self.accepted += sum(survivor in accepted for survivor, _ in result.survivors)
        self.bad = self.bad or bool(new or gone)
        print(
            f"{name:16}{result.mutants:5} mutants, {len(result.survivors):3} survived, {len(new)} of them new; "
            f"{result.by_timeout} noticed by timeout; {self.done} of {self.modules} modules, "
            f"{time.monotonic() - self.began:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def _run(names: Sequence[str], processes: int, total: _Total) -> None:
    """Run the modules of these names."""
    accepted = load_accepted()
    with tempfile.TemporaryDirectory(prefix="mutation-") as scratch, open_pool(processes) as pool:
        runs = {pool.submit(mutate, TARGETS[name], Path(scratch, name)): name for name in names}
        for future in as_completed(runs):
            try:
                result = future.result()
            except MutationFailed as error:
                print(f"{runs[future]}: {error}", file=sys.stderr)
                total.bad = True
            else:
                total.add(runs[future], result, accepted)
